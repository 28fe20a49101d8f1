"""OnnxRuntime: ONNX Runtime on the CPU, in float32."""

from collections import OrderedDict
from pathlib import Path

from node.errors import ModelError
from node.perception.models.engine_errors import engine_reason
from node.perception.onnxruntime_import import ort
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.tasks.base import Outputs

_KEPT_SESSIONS = 8
"""Lengths of a batch whose optimised graph is kept: as many as `MAX_BATCH` of the perceiver."""


class OnnxRuntime:
    """Runs an exported graph with ONNX Runtime.

    Each length of a batch has a session of its own, optimised for it: with a free length ONNX
    Runtime computes the padding of each layer anew for every frame, and keeps the layouts apart,
    which takes a quarter more time on EfficientNet-Lite0.

    Args:
        file: as `exported` returns it.
        threads: CPU threads; None: one for each core.

    Raises:
        ModelError: the file cannot be read.
    """

    degraded = ()

    def __init__(self, file: Path, threads: int | None = None) -> None:
        if file.suffix != ".onnx":
            raise ModelError(
                f"{file.name}: ONNX Runtime cannot run an OpenVINO model",
                fix='write model.runtime = "openvino"',
            )
        self.info = RuntimeInfo(runtime="onnxruntime", precision="fp32", device="cpu")
        self._file = file
        self._threads = threads or 0
        plain = self._options()
        plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        (pixels,) = self._opened(plain).get_inputs()[:1]
        self._input: str = pixels.name
        length, *sizes = pixels.shape
        # A name that the graph also gives to the height or the width would fix that as well.
        is_free = isinstance(length, str) and length not in sizes
        self._free_length = length if is_free else None
        self._sessions: OrderedDict[int, ort.InferenceSession] = OrderedDict()
        self._session(1)

    def infer(self, pixels: Pixels) -> Outputs:
        """As `Runtime.infer`. The first call for each length of a batch optimises the graph."""
        session = self._session(len(pixels))
        try:
            return tuple(session.run(None, {self._input: pixels}))
        except Exception as error:  # as in `_opened`
            raise ModelError(
                f"ONNX Runtime failed ({engine_reason(error)})", fix="try another model.runtime"
            ) from error

    def _session(self, length: int) -> ort.InferenceSession:
        """Returns the session for a length of the batch; one for all where the graph fixes it."""
        key = 0 if self._free_length is None else length
        if key not in self._sessions:
            if len(self._sessions) >= _KEPT_SESSIONS:
                self._sessions.popitem(last=False)
            options = self._options()
            if self._free_length is not None:
                options.add_free_dimension_override_by_name(self._free_length, length)
            self._sessions[key] = self._opened(options)
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def _options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # its warnings are of the graph, and in its own form
        options.intra_op_num_threads = self._threads
        # Spinning threads would take the cores from other processes between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _opened(self, options: ort.SessionOptions) -> ort.InferenceSession:
        try:
            return ort.InferenceSession(
                # With a fallback it would print on stdout, and try the same again.
                str(self._file), options, ["CPUExecutionProvider"], enable_fallback=False
            )  # fmt: skip
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ModelError(
                f"ONNX Runtime cannot run the model ({engine_reason(error)})",
                fix="try another model.runtime",
            ) from error
