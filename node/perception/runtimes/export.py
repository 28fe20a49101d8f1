"""Export: writes a model's whole graph, from uint8 pixels to logits, as a cached ONNX file.

The graph includes the normalisation, so every runtime gets the same pixels.
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
from node.perception.runtimes import normalised_graph
from node.perception.runtimes.fuse_batchnorm import folded
from node.perception.runtimes.normalised_graph import INPUT, OUTPUT

log = logging.getLogger(__name__)

OPSET = 17
"""ONNX operator set: the newest that torch's TorchScript exporter fully supports."""
_FILE = "model.onnx"
_RECIPE = 2
"""Version of the export; raise it with each change, so that cached graphs of older versions are not
used."""


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
        elif model.graph.suffix.lower() == ".xml":
            normalised_graph.write_ir(
                model.graph, model.preprocess, folder / normalised_graph.IR_FILE
            )
        else:
            normalised_graph.write_onnx(model.graph, model.preprocess, folder / _FILE)
    log.info("model %s exported in %.1f s", model.name, time.monotonic() - started)


def _export(model: Model, file: Path) -> None:
    network = nn.Sequential(Normalise(model.preprocess), folded(model)).eval()
    pixels = torch.zeros((1, *model.preprocess.crop_px, 3), dtype=torch.uint8)
    free = {0: "n"} if not model.preprocess.free_size else {0: "n", 1: "h", 2: "w"}
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
                dynamic_axes={INPUT: free, OUTPUT: {0: "n"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"model {model.name!r} cannot be exported to ONNX "
            f"({str(error).strip().partition(chr(10))[0]})",
            fix="run it with --runtime torch",
        ) from error
