"""Export: a model's whole graph, from uint8 pixels to logits, as an ONNX file in a cache.

The graph holds the normalisation too, so every runtime that reads it is fed the same pixels.
"""

import hashlib
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import nn

from node import __version__
from node.errors import ModelError
from node.perception.folding import folded
from node.perception.model import Model
from node.perception.preprocess import Normalise

log = logging.getLogger(__name__)

OPSET = 17
"""ONNX operator set of the export: the newest that torch's TorchScript exporter writes in full."""
INPUT, OUTPUT = "pixels", "logits"


def exported(model: Model) -> Path:
    """The ONNX file of a model; made on first use and kept in the cache.

    Input `pixels` [n, height, width, 3] uint8 BGR, output `logits` [n, classes] float32; n is free.
    The file is keyed by weights and versions, written atomically, and made anew where it does not
    match the checksum beside it. Raises ModelError where the model cannot be exported or the cache
    cannot be written.
    """
    file = cache_folder() / f"{model.name}-{_key(model)}.onnx"
    if _is_whole(file):
        return file
    started = time.monotonic()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(model, file)
    except OSError as error:
        raise ModelError(
            f"{file.parent} cannot be written: {error.strerror}; it keeps exported models, and "
            "XDG_CACHE_HOME moves it"
        ) from error
    log.info("model %s exported to %s in %.1f s", model.name, file, time.monotonic() - started)
    return file


def cache_folder() -> Path:
    """Where exported models are kept (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "perception-node" / "models"


def _key(model: Model) -> str:
    parts = (model.digest, repr(model.preprocess), torch.__version__, __version__, str(OPSET))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_whole(file: Path) -> bool:
    try:
        return _checksum_file(file).read_text() == hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return False


def _write(model: Model, file: Path) -> None:
    """Two processes that do this at once both end with a whole file: each renames its own."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        _export(model, made)
        checksum = Path(folder) / "checksum"
        checksum.write_text(hashlib.sha256(made.read_bytes()).hexdigest())
        os.replace(made, file)
        os.replace(checksum, _checksum_file(file))


def _checksum_file(file: Path) -> Path:
    return file.with_suffix(".sha256")


def _export(model: Model, file: Path) -> None:
    network = nn.Sequential(Normalise(model.preprocess), folded(model)).eval()
    pixels = torch.zeros((1, *model.preprocess.crop_px, 3), dtype=torch.uint8)
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
                dynamic_axes={INPUT: {0: "n"}, OUTPUT: {0: "n"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"model {model.name!r} cannot be exported to ONNX "
            f"({str(error).strip().partition(chr(10))[0]}); run it with --runtime torch"
        ) from error
