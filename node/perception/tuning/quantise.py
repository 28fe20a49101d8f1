"""Quantise: a model's exported graph in 8-bit integers, calibrated on real frames with NNCF."""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import openvino as ov
import torch
from openvino._offline_transformations import apply_moc_transformations

from node.errors import ModelError
from node.perception.cache import kept
from node.perception.models.model import Model
from node.perception.runtimes.export import export_key, exported
from node.perception.runtimes.openvino_runtime import has_native_bf16

log = logging.getLogger(__name__)

MIN_FRAMES = 25
"""Fewest frames to calibrate on: with fewer the ranges of the activations are chance."""
MAX_FRAMES = 300
"""NNCF's own default; more change nothing."""
_FILE = "model.xml"
_RECIPE = 3
"""Raised when the way to quantise changes, so that kept graphs of an older way are not used."""
_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")


def quantised(model: Model, pixels: Sequence[torch.Tensor], float_layers: int = 0) -> Path:
    """The int8 graph of a model as an OpenVINO IR file; made on first use and kept in the cache.

    pixels: calibration frames, each [1, height, width, 3] uint8 BGR as `Preprocessor` makes them.
    float_layers: how many of the first weighted layers stay in floating point: they see the raw
    picture and lose most by rounding, and cost the most time.
    Input and output as `exported`. Raises ModelError where it cannot be made.
    """
    if len(pixels) < MIN_FRAMES:
        raise ModelError(
            f"int8: {len(pixels)} frames to calibrate on; give at least {MIN_FRAMES}, of what the "
            "robot sees"
        )
    chosen = pixels[:: -(-len(pixels) // MAX_FRAMES)]
    name = f"{model.name}-{export_key(model)}-int8-{_key(chosen, float_layers)}"
    return kept(name, functools.partial(_make, model, chosen, float_layers)) / _FILE


def _key(pixels: Sequence[torch.Tensor], float_layers: int) -> str:
    computer = f"{sums_are_exact()} {has_native_bf16()}"
    digest = hashlib.sha256(f"{ov.__version__} {_RECIPE} {float_layers} {computer}".encode())
    for frame in pixels:
        digest.update(frame.numpy().tobytes())
    return digest.hexdigest()[:16]


def _make(model: Model, pixels: Sequence[torch.Tensor], float_layers: int, folder: Path) -> None:
    started = time.monotonic()
    graph = _simplified(exported(model))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # NNCF draws its progress on stdout
            result = _calibrated(graph, pixels, float_layers)
    except Exception as error:  # NNCF's exceptions share no base class
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"model {model.name!r} cannot be quantised to int8 ({reason}); run it in fp32 or bf16"
        ) from error
    ov.save_model(result, folder / _FILE, compress_to_fp16=False)
    log.info(
        "model %s quantised to int8 on %d frames in %.1f s",
        model.name, len(pixels), time.monotonic() - started,
    )  # fmt: skip


def _calibrated(graph: ov.Model, pixels: Sequence[torch.Tensor], float_layers: int) -> ov.Model:
    # NNCF reports its use to its makers by default; a robot tells nobody.
    os.environ["NNCF_CI"] = "1"
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        graph,
        nncf.Dataset([frame.numpy() for frame in pixels]),
        subset_size=len(pixels),
        # Asymmetric activations: bounded ones, such as ReLU6, use all 8 bits.
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=_left_out(graph, float_layers)),
        advanced_parameters=AdvancedQuantizationParameters(
            # Without VNNI the sums of two products overflow 16 bits, so weights get 7 bits. On
            # EfficientNet-Lite0 that costs 2 photographs in 100.
            overflow_fix=OverflowFix.DISABLE if sums_are_exact() else OverflowFix.ENABLE,
            # The range that loses least, not the widest one seen.
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
        ),
    )


def _simplified(file: Path) -> ov.Model:
    """An exported graph with its constants folded and its operators fused. In a graph as it was
    exported NNCF takes no addition for a bias, so it corrects none. ov.convert_model does the same,
    and reports its use to its makers."""
    graph = ov.Core().read_model(file)
    apply_moc_transformations(graph, cf=True)
    return graph


def _left_out(graph: ov.Model, float_layers: int) -> list[str]:
    """Names of the operators that stay in floating point."""
    layers = [op for op in graph.get_ordered_ops() if op.get_type_name() in _WEIGHTED]
    kept = [*layers[:float_layers], *_silus(graph)]
    if has_native_bf16():
        # Depthwise convolutions lose much by 8 bits, and in bfloat16 they take no longer.
        kept += [op for op in layers if op.get_type_name() == "GroupConvolution"]
    return sorted({op.get_friendly_name() for op in kept})


def _silus(graph: ov.Model) -> list[ov.Node]:
    """The operators of every SiLU, x * sigmoid(x). NNCF would round x and sigmoid(x) to int8 each,
    which on YOLOX-nano loses two objects of three and takes longer than the float32 in between."""
    found: list[ov.Node] = []
    for sigmoid in graph.get_ordered_ops():
        if sigmoid.get_type_name() != "Sigmoid":
            continue
        x = sigmoid.input_value(0)
        for target in sigmoid.output(0).get_target_inputs():
            product = target.get_node()
            factors = [product.input_value(i) for i in range(product.get_input_size())]
            if product.get_type_name() == "Multiply" and x in factors:
                found += [sigmoid, product]
    return found


def sums_are_exact() -> bool:
    """Whether this CPU adds products of 8-bit integers in 32 bits (VNNI on x86, and all ARM)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        return "_vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
