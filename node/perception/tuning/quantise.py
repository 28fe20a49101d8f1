"""Quantises a model's exported graph to 8-bit integers, calibrated on real frames with NNCF."""

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

import numpy as np
from numpy.typing import NDArray
from openvino._offline_transformations import apply_moc_transformations

from node.errors import ModelError
from node.perception.cache import kept
from node.perception.models.model import Model
from node.perception.openvino_import import core, ov, save_ir
from node.perception.runtimes.export import exported
from node.perception.runtimes.export_key import export_key
from node.perception.runtimes.openvino_runtime import has_native_bf16

log = logging.getLogger(__name__)

MIN_FRAMES = 25
"""Fewest frames for calibration: with fewer, the ranges of the activations are random."""
MAX_FRAMES = 300
"""NNCF's default; more frames change nothing."""
_FILE = "model.xml"
_RECIPE = 3
"""Version of the quantisation; raise it with each change, so that cached graphs of older versions
are not used."""
_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
"""Types of operators with weights."""


def quantised(model: Model, pixels: Sequence[NDArray[np.uint8]], float_layers: int = 0) -> Path:
    """Returns the int8 graph of a model as an OpenVINO IR file; made on first use and cached. Input
    and output as `exported`.

    Args:
        model: the model.
        pixels: calibration frames, each [1, height, width, 3] uint8 BGR, as `Preprocessor`
            produces.
        float_layers: how many of the first weighted layers stay in floating point: these see the
            raw picture, so they lose the most by rounding, and they take the most time.

    Raises:
        ModelError: too few frames, or the graph cannot be quantised.
    """
    if len(pixels) < MIN_FRAMES:
        raise ModelError(
            f"int8: {len(pixels)} frames to calibrate on",
            fix=f"give at least {MIN_FRAMES}, of what the robot sees",
        )
    calibration_frames = pixels[:: -(-len(pixels) // MAX_FRAMES)]
    name = f"{model.name}-{export_key(model)}-int8-{_key(calibration_frames, float_layers)}"
    return kept(name, functools.partial(_make, model, calibration_frames, float_layers)) / _FILE


def _key(pixels: Sequence[NDArray[np.uint8]], float_layers: int) -> str:
    computer = f"{sums_are_exact()} {has_native_bf16()}"
    digest = hashlib.sha256(f"{ov.__version__} {_RECIPE} {float_layers} {computer}".encode())
    for frame in pixels:
        digest.update(frame.tobytes())
    return digest.hexdigest()[:16]


def _make(
    model: Model, pixels: Sequence[NDArray[np.uint8]], float_layers: int, folder: Path
) -> None:
    started = time.monotonic()
    graph = _simplified(exported(model))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            # NNCF shows its progress on stdout.
            result = _calibrated(graph, pixels, float_layers)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"int8 needs the package {error.name}", fix='install "perception-node[torch]"'
        ) from error
    except Exception as error:
        # NNCF's exceptions share no base class.
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"model {model.name!r} cannot be quantised to int8 ({reason})",
            fix="run it in fp32 or bf16",
        ) from error
    save_ir(result, folder / _FILE)
    log.info(
        "model %s quantised to int8 on %d frames in %.1f s",
        model.name, len(pixels), time.monotonic() - started,
    )  # fmt: skip


def _calibrated(
    graph: ov.Model, pixels: Sequence[NDArray[np.uint8]], float_layers: int
) -> ov.Model:
    # Disables NNCF's telemetry, which is on by default.
    os.environ["NNCF_CI"] = "1"
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # nncf.set_log_level would also set the level of handlers that others have added to its logger.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf.quantize(
        graph,
        nncf.Dataset([frame for frame in pixels]),
        subset_size=len(pixels),
        # Asymmetric activations: bounded ones, such as ReLU6, use all 8 bits.
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=_float_operator_names(graph, float_layers)),
        advanced_parameters=AdvancedQuantizationParameters(
            # Without VNNI the sum of two products overflows 16 bits, so weights get 7 bits. On
            # EfficientNet-Lite0 that costs 2 photographs in 100.
            overflow_fix=OverflowFix.DISABLE if sums_are_exact() else OverflowFix.ENABLE,
            # The range with the smallest error, not the widest one.
            activations_range_estimator_params=RangeEstimatorParametersSet.HISTOGRAM,
        ),
    )


def _simplified(file: Path) -> ov.Model:
    """Returns an exported graph with its constants folded and operators fused. In an unfused graph
    NNCF recognises no bias, so it corrects none. ov.convert_model does the same, but sends
    telemetry."""
    graph = core().read_model(file)
    apply_moc_transformations(graph, cf=True)
    return graph


def _float_operator_names(graph: ov.Model, float_layers: int) -> list[str]:
    """Returns the names of the operators that stay in floating point."""
    layers = [op for op in graph.get_ordered_ops() if op.get_type_name() in _WEIGHTED]
    float_operators = [*layers[:float_layers], *_silus(graph)]
    if has_native_bf16():
        # Depthwise convolutions lose much accuracy in 8 bits, and are as fast in bfloat16.
        float_operators += [op for op in layers if op.get_type_name() == "GroupConvolution"]
    return sorted({op.get_friendly_name() for op in float_operators})


def _silus(graph: ov.Model) -> list[ov.Node]:
    """Returns the operators of every SiLU, x * sigmoid(x). NNCF would round x and sigmoid(x)
    separately, which on YOLOX-nano loses two objects of three and takes longer than float32."""
    operators: list[ov.Node] = []
    for sigmoid in graph.get_ordered_ops():
        if sigmoid.get_type_name() != "Sigmoid":
            continue
        sigmoid_input = sigmoid.input_value(0)
        for target in sigmoid.output(0).get_target_inputs():
            product = target.get_node()
            factors = [product.input_value(index) for index in range(product.get_input_size())]
            if product.get_type_name() == "Multiply" and sigmoid_input in factors:
                operators += [sigmoid, product]
    return operators


def sums_are_exact() -> bool:
    """Whether this CPU adds products of 8-bit integers in 32 bits (VNNI on x86, and all ARM)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        return "_vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
