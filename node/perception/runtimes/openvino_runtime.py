"""OpenVinoRuntime: OpenVINO on the CPU, in float32, bfloat16 or int8."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

from node.errors import ModelError
from node.perception.models.engine_errors import ENGINE_ERRORS, engine_reason
from node.perception.openvino_import import core, ov
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.tasks.base import Outputs

_KEPT_SHAPES = 16
"""Input shapes whose compiled graph is cached: a camera has one for each batch size."""


class OpenVinoRuntime:
    """Runs an exported or quantised graph with OpenVINO.

    Args:
        file: as `exported` or `quantised` returns it.
        precision: of the inference; the outputs are float32. `int8` needs a quantised graph.
        threads: CPU threads; None: OpenVINO's default.

    Raises:
        ModelError: the file cannot be read.
    """

    degraded = ()

    def __init__(
        self, file: Path, precision: Literal["fp32", "bf16", "int8"], threads: int | None = None
    ) -> None:
        self.info = RuntimeInfo(runtime="openvino", precision=precision, device="cpu")
        self._file = file
        # For int8, the precision of the layers that are not quantised.
        bf16 = precision == "bf16" or (precision == "int8" and has_native_bf16())
        self._options: dict[str, str | int | bool] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            # With pinning each thread stays on its core, and all threads wait for one whose core
            # another process uses: ten times as long as when the scheduler moves it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._graph = core().read_model(file)
        except ENGINE_ERRORS as error:
            raise _failed("cannot read the model", error) from error
        batch = self._graph.input().partial_shape[0]
        self._only_batch = batch.get_length() if batch.is_static else None
        self._requests: OrderedDict[tuple[int, ...], ov.InferRequest] = OrderedDict()

    def infer(self, pixels: Pixels) -> Outputs:
        """As `Runtime.infer`. The first call for each shape compiles the graph."""
        try:
            request = self._request(pixels)
            request.set_input_tensor(ov.Tensor(pixels, shared_memory=True))
            request.infer()
        except ENGINE_ERRORS as error:
            raise _failed("failed", error) from error
        return tuple(tensor.data for tensor in request.output_tensors)

    def _request(self, pixels: Pixels) -> ov.InferRequest:
        """Compiles a graph for each shape, since a graph of fixed shape runs a tenth faster than
        one of dynamic batch size."""
        shape = tuple(pixels.shape)
        if self._only_batch not in (shape[0], None):
            # reshape() would replace the length, and operators made for it would mix the frames.
            raise ModelError(f"the model takes {self._only_batch} at a time, not {shape[0]}")
        if shape not in self._requests:
            if len(self._requests) >= _KEPT_SHAPES:
                self._requests.popitem(last=False)
            self._graph.reshape(list(shape))
            compiled = core().compile_model(self._graph, "CPU", self._options)
            self._requests[shape] = compiled.create_infer_request()
        self._requests.move_to_end(shape)
        return self._requests[shape]


def _failed(problem: str, error: Exception) -> ModelError:
    return ModelError(
        f"OpenVINO {problem} ({engine_reason(error)})", fix="try another model.runtime"
    )


def has_native_bf16() -> bool:
    """Whether this CPU has bfloat16 arithmetic; emulated, bfloat16 is slower than float32."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
