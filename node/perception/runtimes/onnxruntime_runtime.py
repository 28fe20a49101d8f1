"""OnnxRuntime: ONNX Runtime on the CPU, in float32."""

from pathlib import Path

import onnxruntime as ort

from node.errors import ModelError
from node.perception.models.engine_errors import engine_reason
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.tasks.base import Outputs


class OnnxRuntime:
    """Runs an exported graph with ONNX Runtime.

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
        options = ort.SessionOptions()
        options.log_severity_level = 3  # its warnings are of the graph, and in its own form
        options.intra_op_num_threads = threads or 0
        # Spinning threads would take the cores from other processes between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise ModelError(
                f"ONNX Runtime cannot run the model ({engine_reason(error)})",
                fix="try another model.runtime",
            ) from error
        self._input = self._session.get_inputs()[0].name

    def infer(self, pixels: Pixels) -> Outputs:
        """As `Runtime.infer`."""
        try:
            return tuple(self._session.run(None, {self._input: pixels}))
        except Exception as error:  # as above
            raise ModelError(
                f"ONNX Runtime failed ({engine_reason(error)})", fix="try another model.runtime"
            ) from error
