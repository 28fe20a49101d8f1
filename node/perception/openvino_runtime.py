"""OpenVinoRuntime: OpenVINO on the CPU, in float32 or bfloat16."""

from pathlib import Path
from typing import Literal, cast

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from node.errors import ModelError
from node.perception.runtime import RuntimeInfo

_PRECISION: dict[str, str] = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime:
    """Runs an exported graph with OpenVINO.

    precision: of the inference; the answer is float32 all the same. threads: CPU threads, None for
    OpenVINO's own choice. Raises ModelError for a file it cannot read.
    """

    def __init__(
        self, file: Path, precision: Literal["fp32", "bf16"], threads: int | None = None
    ) -> None:
        self.info = RuntimeInfo(runtime="openvino", precision=precision, device="cpu")
        options: dict[str, str | int] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _PRECISION[precision],
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            core = ov.Core()
            self._request = core.compile_model(
                core.read_model(file), "CPU", options
            ).create_infer_request()
        except RuntimeError as error:
            raise ModelError(f"{file} cannot be read by OpenVINO: {error}") from error

    def infer(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Logits of a batch, as `Runtime.infer`."""
        try:
            self._request.set_input_tensor(ov.Tensor(pixels.numpy(), shared_memory=True))
            self._request.infer()
        except RuntimeError as error:
            raise ModelError(f"OpenVINO failed: {error}; try --runtime torch") from error
        return cast(NDArray[np.float32], self._request.get_output_tensor().data)


def has_native_bf16() -> bool:
    """Whether this CPU computes in bfloat16 itself; emulated, it would be slower than float32."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
