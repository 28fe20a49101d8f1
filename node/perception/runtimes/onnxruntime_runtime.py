"""OnnxRuntime: ONNX Runtime in float32, on the CPU."""

from pathlib import Path

import onnxruntime as ort
import torch

from node.errors import ModelError
from node.perception.runtimes.base import RuntimeInfo
from node.perception.runtimes.normalised_graph import INPUT
from node.perception.tasks.base import Outputs


class OnnxRuntime:
    """Runs an exported graph with ONNX Runtime.

    threads: CPU threads, None for one a core. Raises ModelError for a file it cannot read.
    """

    degraded = ()

    def __init__(self, file: Path, threads: int | None = None) -> None:
        if file.suffix != ".onnx":
            raise ModelError(
                f"{file.name}: ONNX Runtime cannot run an OpenVINO model; "
                'write model.runtime = "openvino"'
            )
        self.info = RuntimeInfo(runtime="onnxruntime", precision="fp32", device="cpu")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # Its threads would spin between two frames, taking the cores from the robot's own work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ModelError(f"{file} cannot be read by ONNX Runtime: {error}") from error

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """Outputs for a batch, as `Runtime.infer`."""
        try:
            return tuple(self._session.run(None, {INPUT: pixels.numpy()}))
        except Exception as error:  # as above
            raise ModelError(f"ONNX Runtime failed: {error}; try --runtime torch") from error
