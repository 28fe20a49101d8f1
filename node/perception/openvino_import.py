"""Imports OpenVINO without its converter of models, which the node does not use: it takes half of
the import's time, and sends telemetry."""

import sys
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

__all__ = ["ov"]
