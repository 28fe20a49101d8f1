"""Export: a model's whole graph, from uint8 pixels to logits, as an ONNX file in a cache.

The graph holds the normalisation too, so every runtime that reads it is fed the same pixels.
"""

import functools
import hashlib
import logging
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from node import __version__
from node.errors import ModelError
from node.perception.cache import kept
from node.perception.models.model import Model
from node.perception.preprocess.geometry import Normalise
from node.perception.runtimes import normalised_graph as prefixed
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.runtimes.normalised_graph import INPUT, OUTPUT

log = logging.getLogger(__name__)

OPSET = 17
"""ONNX operator set of the export: the newest that torch's TorchScript exporter writes in full."""
_FILE = "model.onnx"
_RECIPE = 2
"""Raised when the way to export changes, so that kept graphs of an older way are not used."""


def exported(model: Model) -> Path:
    """The ONNX file of a model (OpenVINO's IR, where the user's own file is one); made on first
    use and kept in the cache.

    Input `pixels` [n, height, width, 3] uint8 BGR, output `logits` [n, classes] float32; n is free.
    Raises ModelError where the model cannot be exported or the cache cannot be written.
    """
    folder = kept(f"{model.name}-{export_key(model)}", functools.partial(_make, model))
    ir = folder / prefixed.IR_FILE
    return ir if ir.exists() else folder / _FILE


def export_key(model: Model) -> str:
    """What an export depends on, as 16 hexadecimal digits: weights, preprocessing, versions."""
    versions = (torch.__version__, __version__, str(OPSET), str(_RECIPE))
    parts = (model.digest, repr(model.preprocess), *versions)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(model: Model, folder: Path) -> None:
    started = time.monotonic()
    if model.preprocess.fit == "none":
        raise ModelError(
            f"model {model.name!r} resizes by itself, by rules that only torch runs; "
            'write model.runtime = "torch" or "auto"'
        )
    # How far it is nobody says; on a terminal something moves at least.
    with Console(stderr=True).status(f"exporting model {model.name}, once for this computer"):
        if model.graph is None:
            _export(model, folder / _FILE)
        elif model.graph.suffix.lower() == ".xml":
            prefixed.write_ir(model.graph, model.preprocess, folder / prefixed.IR_FILE)
        else:
            prefixed.write_onnx(model.graph, model.preprocess, folder / _FILE)
    log.info("model %s exported in %.1f s", model.name, time.monotonic() - started)


def _export(model: Model, file: Path) -> None:
    network = nn.Sequential(Normalise(model.preprocess), folded(model)).eval()
    pixels = torch.zeros((1, *model.preprocess.crop_px, 3), dtype=torch.uint8)
    free = {0: "n"} if model.preprocess.fit != "short" else {0: "n", 1: "h", 2: "w"}
    try:
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated in favour of one that needs onnxscript; it
            # writes these networks in a second and tracing warns of every shape it fixes.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (pixels,),
                str(file),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: free, OUTPUT: {0: "n"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"model {model.name!r} cannot be exported to ONNX "
            f"({str(error).strip().partition(chr(10))[0]}); run it with --runtime torch"
        ) from error
