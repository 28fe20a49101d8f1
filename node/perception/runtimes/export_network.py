"""Writes a torch network, with the normalisation, as an ONNX file."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.engine_errors import engine_reason
from node.perception.models.model import Model
from node.perception.preprocess.normalise import Normalise
from node.perception.runtimes.export_key import OPSET
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.runtimes.normalised_graph import INPUT, OUTPUT

log = logging.getLogger(__name__)

_TOLERANCE = 1e-3
"""Largest difference of an output, relative to the largest one, that rounding explains."""


def export_network(model: Model, file: Path) -> None:
    """Exports a network for batches of any length; for single frames if it, or its trace, gives
    frames in a batch other results. Raises ModelError."""
    network = nn.Sequential(Normalise(model.preprocess), folded(model)).eval()
    noise = torch.Generator().manual_seed(0)
    size = (2, *model.preprocess.crop_px, 3)
    frames = torch.randint(0, 256, size, generator=noise, dtype=torch.uint8)
    for batch in (1,) if model.decoder == "boxes" else (2, 1):
        _trace(model, network, file, free_batch=batch > 1)
        if _agrees(file, network, frames[:batch]):
            return
    raise ModelError(
        f"model {model.name!r} cannot be exported to ONNX (the exported graph gives other results)",
        fix="run it with --runtime torch",
    )


def _trace(model: Model, network: nn.Module, file: Path, *, free_batch: bool) -> None:
    pixels = torch.zeros((1, *model.preprocess.crop_px, 3), dtype=torch.uint8)
    free = {0: "n"} if free_batch else {}
    free_size = {1: "h", 2: "w"} if model.preprocess.free_size else {}
    try:
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated, but its successor needs onnxscript. It exports
            # these networks in a second, with a warning for each shape that tracing fixes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (pixels,),
                str(file),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: free | free_size, OUTPUT: free},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"model {model.name!r} cannot be exported to ONNX ({engine_reason(error)})",
            fix="run it with --runtime torch",
        ) from error


def _agrees(file: Path, network: nn.Module, frames: torch.Tensor) -> bool:
    """Whether an exported graph gives for a batch what the network gives frame by frame: a trace
    fixes the lengths and the branches of the frame that it was made with."""
    from node.perception.onnxruntime_import import ort

    with torch.inference_mode():
        outputs = [network(frame[None]) for frame in frames]
    single = [(output,) if isinstance(output, torch.Tensor) else output for output in outputs]
    expected = [torch.cat(parts).float().numpy() for parts in zip(*single, strict=True)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # another model may be labelling meanwhile
    try:
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        actual = session.run(None, {INPUT: frames.numpy()})
    except Exception as error:  # onnxruntime's exceptions share no public base class
        log.debug("%s: %s", file, error)
        return False
    return len(actual) == len(expected) and all(
        own.shape == other.shape and np.allclose(own, other, atol=tolerance, equal_nan=True)
        for own, other in zip(actual, expected, strict=True)
        for tolerance in (_TOLERANCE * np.abs(other).max(initial=0.0),)
    )
