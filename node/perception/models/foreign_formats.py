"""Model files of other formats, by their suffix: what each is, for the error that refuses it."""

from pathlib import Path

from node.config.redact import redacted
from node.errors import ModelError

_CHECKPOINT = "a PyTorch file with weights, and no graph that the node may run"
_TENSORFLOW = "a TensorFlow model"
_FORMATS = {
    ".pt": _CHECKPOINT,
    ".pth": _CHECKPOINT,
    ".ckpt": _CHECKPOINT,
    ".bin": "a file of weights without a graph",
    ".safetensors": "a file of weights without a graph",
    ".weights": "a file of Darknet weights without a graph",
    ".torchscript": "a TorchScript program",
    ".jit": "a TorchScript program",
    ".tflite": "a TensorFlow Lite model",
    ".pb": _TENSORFLOW,
    ".h5": "a Keras model",
    ".keras": "a Keras model",
    ".engine": "a TensorRT engine, which runs on one kind of GPU and cannot be converted",
    ".trt": "a TensorRT engine, which runs on one kind of GPU and cannot be converted",
    ".plan": "a TensorRT engine, which runs on one kind of GPU and cannot be converted",
    ".mlmodel": "a Core ML model",
    ".mlpackage": "a Core ML model",
    ".caffemodel": "a Caffe model",
    ".pdmodel": "a PaddlePaddle model",
    ".rknn": "a model for Rockchip NPUs, which cannot be converted",
    ".hef": "a model for Hailo chips, which cannot be converted",
}
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
"""Formats in which weights of models by name are."""


def check_format(name: str) -> None:
    """Raises ModelError for the name of a file in a format that the node does not run."""
    suffix = Path(name).suffix.lower()
    kind = _FORMATS.get(suffix)
    if kind is None:
        return
    shown = redacted(name)
    fix = 'export the model to ONNX or OpenVINO IR (docs/models.md, "Files of other formats")'
    if suffix in _WEIGHTS:
        fix += (
            "; weights of a model that `perception-node models` lists go with "
            f"--model NAME --set model.weights={shown}"
        )
    if suffix == ".bin" and Path(name).with_suffix(".xml").exists():
        fix = f"of OpenVINO IR name the .xml file: {Path(name).with_suffix('.xml')}"
    raise ModelError(f"model {shown!r}: is {kind}", fix=fix)
