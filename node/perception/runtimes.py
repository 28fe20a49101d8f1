"""Which runtime runs a model: by name, or the sound choice for this computer."""

import logging

import torch

from node.config import ModelConfig
from node.errors import ModelError
from node.perception.export import exported
from node.perception.model import Model
from node.perception.runtime import Runtime
from node.perception.torch_runtime import TorchRuntime

log = logging.getLogger(__name__)


def build_runtime(model: Model, config: ModelConfig) -> Runtime:
    """The runtime of a configuration. Raises ModelError where it cannot run here.

    `auto` is torch on a GPU and ONNX Runtime on a CPU, which runs every network of the catalogue in
    full precision about as fast as or faster than the others (see scripts/bench.py); a network that
    cannot be exported to it runs with torch.
    """
    device = _device(config.device)
    if config.runtime == "torch" or (config.runtime == "auto" and device != "cpu"):
        _only_fp32(config, "torch")
        return TorchRuntime(model, device)
    if device != "cpu":
        raise ModelError(
            f"runtime {config.runtime!r} runs on the CPU here, and model.device is {device!r}; "
            'write model.device = "cpu" or model.runtime = "torch"'
        )
    if config.runtime == "openvino":
        return _openvino(model, config)
    _only_fp32(config, "onnxruntime")
    if config.runtime == "onnxruntime":
        return _onnxruntime(model, config)
    try:
        return _onnxruntime(model, config)
    except ModelError as error:
        log.warning("%s; running it with torch", error)
        return TorchRuntime(model, device)


def _onnxruntime(model: Model, config: ModelConfig) -> Runtime:
    from node.perception.onnxruntime_runtime import OnnxRuntime

    return OnnxRuntime(exported(model), config.threads)


def _openvino(model: Model, config: ModelConfig) -> Runtime:
    from node.perception.openvino_runtime import OpenVinoRuntime, has_native_bf16

    if config.precision == "bf16" and not has_native_bf16():
        raise ModelError(
            'model.precision = "bf16": this CPU has no bfloat16 arithmetic; write "fp32"'
        )
    return OpenVinoRuntime(exported(model), config.precision, config.threads)


def _only_fp32(config: ModelConfig, runtime: str) -> None:
    if config.precision != "fp32":
        raise ModelError(
            f"model.precision = {config.precision!r}: {runtime} runs in fp32 here; "
            'write "fp32", or model.runtime = "openvino"'
        )


def _device(wanted: str) -> str:
    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted.startswith("cuda") and not available:
        raise ModelError(
            f"model.device = '{wanted}': this computer has no GPU that torch {torch.__version__} "
            'can use; write "auto" or "cpu", and see perception-node doctor'
        )
    return wanted
