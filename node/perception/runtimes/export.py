"""Export: writes a model's whole graph, from uint8 pixels to logits, as a cached ONNX file.

The graph includes the normalisation, so every runtime gets the same pixels.
"""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from node.errors import ModelError
from node.perception.cache import kept
from node.perception.models.model import Model, digest_of
from node.perception.runtimes.export_key import export_key
from node.perception.runtimes.export_process import export_apart

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

_FILE = "model.onnx"
_IR_FILE = "model.xml"


def exported(model: Model) -> Path:
    """Returns the ONNX file of a model, or the OpenVINO IR file of a model that is one; made on
    first use and cached.

    The graph has the input `pixels` [n, height, width, 3] uint8 BGR and the output `logits` [n,
    classes] float32, for any n. Raises ModelError if the model cannot be exported or the cache is
    not writable.
    """
    folder = kept(_folder_name(model), functools.partial(_make, model))
    ir = folder / _IR_FILE
    return ir if ir.exists() else folder / _FILE


def _folder_name(model: Model) -> str:
    return f"{model.name}-{export_key(model)}"


def _make(model: Model, folder: Path) -> None:
    started = time.monotonic()
    if model.preprocess.keeps_frame:
        raise ModelError(
            f"model {model.name!r} resizes by itself, by rules that only torch runs",
            fix='write model.runtime = "torch" or "auto"',
        )
    # The exporter reports no progress; on a terminal a spinner shows activity.
    with Console(stderr=True).status(f"exporting model {model.name}, once for this computer"):
        if model.graph is not None:
            _copy(model, model.graph, folder)
        elif model.make_graph is not None:
            _write(model, model.make_graph, folder / _FILE)
        else:
            _export(model, folder / _FILE)
    log.info("model %s exported in %.1f s", model.name, time.monotonic() - started)


def _write(model: Model, make_graph: "Callable[[], onnx.ModelProto]", file: Path) -> None:
    from node.perception.runtimes import normalised_graph

    normalised_graph.write_graph(make_graph(), model.preprocess, file)


def _export(model: Model, file: Path) -> None:
    """Exports in a process of its own, whose end gives torch's memory back; a model that
    `load_model` did not make is known to this process only."""
    if model.origin is not None:
        export_apart(model, file)
        return
    from node.perception.runtimes.export_network import export_network

    export_network(model, file)


def _copy(model: Model, graph: Path, folder: Path) -> None:
    if graph.suffix.lower() == ".xml":
        from node.perception.runtimes import normalised_ir

        normalised_ir.write_ir(graph, model.preprocess, folder / _IR_FILE, model.graph_input)
    else:
        from node.perception.runtimes import normalised_graph

        normalised_graph.write_onnx(graph, model.preprocess, folder / _FILE, model.graph_input)
    try:
        unchanged = digest_of(model.files) == model.digest
    except OSError:
        unchanged = False
    if not unchanged:
        # The copy would be kept under the digest of the files that were there before.
        raise ModelError(f"{graph} or a file of it changed while it was in use", fix="start again")
