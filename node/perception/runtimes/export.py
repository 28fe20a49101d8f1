"""Export: writes a model's whole graph, from uint8 pixels to logits, as a cached ONNX file.

The graph includes the normalisation, so every runtime gets the same pixels.
"""

import functools
import hashlib
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from node import __version__
from node.errors import ModelError
from node.perception.cache import kept
from node.perception.models.engine_errors import engine_reason
from node.perception.models.model import Model, digest_of
from node.perception.preprocess.geometry import Normalise
from node.perception.runtimes import normalised_graph
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.runtimes.normalised_graph import INPUT, OUTPUT

log = logging.getLogger(__name__)

OPSET = 17
"""ONNX operator set: the newest that torch's TorchScript exporter fully supports."""
_FILE = "model.onnx"
_RECIPE = 3
"""Version of the export; raise it with each change, so that cached graphs of older versions are not
used."""

_TOLERANCE = 1e-3
"""Largest difference of an output, relative to the largest one, that rounding explains."""


def exported(model: Model) -> Path:
    """Returns the ONNX file of a model, or the OpenVINO IR file of a model that is one; made on
    first use and cached.

    The graph has the input `pixels` [n, height, width, 3] uint8 BGR and the output `logits` [n,
    classes] float32, for any n. Raises ModelError if the model cannot be exported or the cache is
    not writable.
    """
    folder = kept(f"{model.name}-{export_key(model)}", functools.partial(_make, model))
    ir = folder / normalised_graph.IR_FILE
    return ir if ir.exists() else folder / _FILE


def export_key(model: Model) -> str:
    """Returns a digest of all that an export depends on (weights, preprocessing, versions), 16
    hexadecimal digits."""
    versions = (torch.__version__, __version__, str(OPSET), str(_RECIPE))
    parts = (model.digest, repr(model.preprocess), *versions)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(model: Model, folder: Path) -> None:
    started = time.monotonic()
    if model.preprocess.keeps_frame:
        raise ModelError(
            f"model {model.name!r} resizes by itself, by rules that only torch runs",
            fix='write model.runtime = "torch" or "auto"',
        )
    # The exporter reports no progress; on a terminal a spinner shows activity.
    with Console(stderr=True).status(f"exporting model {model.name}, once for this computer"):
        if model.graph is None:
            _export(model, folder / _FILE)
        else:
            _copy(model, model.graph, folder)
    log.info("model %s exported in %.1f s", model.name, time.monotonic() - started)


def _copy(model: Model, graph: Path, folder: Path) -> None:
    if graph.suffix.lower() == ".xml":
        normalised_graph.write_ir(graph, model.preprocess, folder / normalised_graph.IR_FILE)
    else:
        normalised_graph.write_onnx(graph, model.preprocess, folder / _FILE)
    try:
        unchanged = digest_of(model.files) == model.digest
    except OSError:
        unchanged = False
    if not unchanged:
        # The copy would be kept under the digest of the files that were there before.
        raise ModelError(f"{graph} or a file of it changed while it was in use", fix="start again")


def _export(model: Model, file: Path) -> None:
    """Exports a network for batches of any length; for single frames if it, or its trace, gives
    frames in a batch other results."""
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
    import onnxruntime as ort

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
