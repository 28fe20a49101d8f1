"""Imports OpenVINO without its converter of models, which the node does not use: it takes half of
the import's time, and sends telemetry."""

import sys
import threading
from pathlib import Path
from typing import Any, cast

_CONVERTER = "openvino.tools.ovc"

_is_absent = _CONVERTER not in sys.modules
if _is_absent:
    cast(dict[str, Any], sys.modules)[_CONVERTER] = None  # openvino goes on without it
try:
    import openvino as ov
finally:
    if _is_absent:
        del sys.modules[_CONVERTER]

__all__ = ["core", "ov", "save_ir"]

_PROBE_BYTES = 1 << 20
_lock = threading.Lock()
_core: "ov.Core | None" = None


def core() -> "ov.Core":
    """The Core of this process, which is created once and lives as long as the process.

    A Core sets an alternate signal stack for the thread that first uses its CPU plugin, and its
    destructor unmaps it, also where another thread destroys the Core, or another Core has been
    created since (SigAltStackSetup in OpenVINO's plugins/intel_cpu). The next signal would then end
    the process with a segmentation fault, since Python's handlers run on that stack.
    """
    global _core
    with _lock:
        if _core is None:
            _core = ov.Core()
        return _core


def save_ir(graph: "ov.Model", file: Path) -> None:
    """Writes a graph as OpenVINO IR with its tensors as they are. Raises OSError where the disk
    does not take them, RuntimeError for any other reason."""
    try:
        ov.save_model(graph, file, compress_to_fp16=False)
    except RuntimeError:
        # OpenVINO does not say why; a write shows it.
        with file.with_suffix(".bin").open("ab") as stream:
            stream.write(bytes(_PROBE_BYTES))
        raise
