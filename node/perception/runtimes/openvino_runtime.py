"""OpenVinoRuntime: OpenVINO on the CPU, in float32, bfloat16 or with an int8 graph."""

from collections import OrderedDict
from pathlib import Path
from typing import Literal

import openvino as ov
import torch

from node.errors import ModelError
from node.perception.runtimes.base import RuntimeInfo
from node.perception.tasks.base import Outputs

_KEPT_SHAPES = 16
"""Input shapes that stay compiled: a camera has one for each size of batch."""


class OpenVinoRuntime:
    """Runs an exported or quantised graph with OpenVINO.

    precision: of the inference; the answer is float32 all the same. `int8` wants a quantised graph.
    threads: CPU threads, None for OpenVINO's own choice. Raises ModelError for a file it cannot
    read.
    """

    degraded = ()

    def __init__(
        self, file: Path, precision: Literal["fp32", "bf16", "int8"], threads: int | None = None
    ) -> None:
        self.info = RuntimeInfo(runtime="openvino", precision=precision, device="cpu")
        self._file = file
        # In an int8 graph it is the precision of what was not quantised.
        bf16 = precision == "bf16" or (precision == "int8" and has_native_bf16())
        self._options: dict[str, str | int | bool] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            # By default each thread stays on a core of its own, and all wait for the one whose core
            # another process uses: ten times as long, where the scheduler would have moved it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        try:
            self._core = ov.Core()
            self._graph = self._core.read_model(file)
        except RuntimeError as error:
            raise ModelError(f"{file} cannot be read by OpenVINO: {error}") from error
        self._requests: OrderedDict[tuple[int, ...], ov.InferRequest] = OrderedDict()

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """Outputs for a batch, as `Runtime.infer`. The first of each size takes longer."""
        try:
            request = self._request(pixels)
            request.set_input_tensor(ov.Tensor(pixels.numpy(), shared_memory=True))
            request.infer()
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {error}; try --runtime torch") from error
        return tuple(tensor.data for tensor in request.output_tensors)

    def _request(self, pixels: torch.Tensor) -> ov.InferRequest:
        """A graph of a known shape runs a tenth faster than one whose batch is free."""
        shape = tuple(pixels.shape)
        if shape not in self._requests:
            if len(self._requests) >= _KEPT_SHAPES:
                self._requests.popitem(last=False)
            self._graph.reshape(list(shape))
            compiled = self._core.compile_model(self._graph, "CPU", self._options)
            self._requests[shape] = compiled.create_infer_request()
        self._requests.move_to_end(shape)
        return self._requests[shape]


def has_native_bf16() -> bool:
    """Whether this CPU computes in bfloat16 itself; emulated, it would be slower than float32."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
