"""Selects the runtime of a model: as configured, as tuned for this computer, or by default."""

import logging
from dataclasses import replace

import numpy as np

from node.config.schema import ModelConfig
from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.models.torch_parts import TorchMissingError, check_torch
from node.perception.models.weights_file import WeightsError
from node.perception.runtimes.base import Runtime
from node.perception.runtimes.export import exported
from node.perception.runtimes.fallback import CpuFallback
from node.perception.runtimes.gpus import has_gpu
from node.perception.runtimes.tuning_result import Choice, kept_result

log = logging.getLogger(__name__)

PRECISIONS = {
    "torch": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16", "int8"),
}
"""Precisions of each runtime on a CPU."""
GPU_PRECISIONS = ("fp16", "bf16", "fp32")
"""Precisions of torch on a GPU, the default first."""


def build_runtime(model: Model, config: ModelConfig) -> Runtime:
    """Returns the runtime for a configuration. Raises ModelError if it cannot run here.

    `auto` selects the result of `perception-node tune` for this computer; without one, torch on a
    GPU, else OpenVINO, in bfloat16 if the CPU supports it: the fastest that keeps full accuracy
    (see scripts/bench.py). A runtime that cannot run the model, which an inference of a black
    frame shows, is followed by the next.
    """
    if model.classical is not None:
        _check_classical(model, config)
        return model.classical.runtime()
    choices = _choices(model, config)
    if len(choices) == 1:
        return _build_with_fallback(model, choices[0], config)
    errors: list[ModelError] = []
    for choice in choices:
        if errors:
            log.warning("%s; trying %s", errors[-1].problem, choice.runtime)
        try:
            runtime = build_choice(model, choice)
            # An engine can find only now that it has no kernel for an operator.
            runtime.infer(np.zeros((1, *model.preprocess.crop_px, 3), np.uint8))
            return runtime
        except (TorchMissingError, WeightsError):
            raise  # the other runtimes need the same
        except ModelError as error:
            errors.append(error)
    problems = list(dict.fromkeys(error.problem for error in errors))
    if len(problems) == 1:
        raise errors[0]
    raise ModelError(
        f"model {model.name!r}: no runtime can run it: {'; '.join(problems)}",
        fix="export it again with other operators",
    )


def _check_classical(model: Model, config: ModelConfig) -> None:
    """Raises ModelError for settings of an engine or a GPU: a model without a network has neither,
    and its messages would name another engine than the configuration."""
    for key, value in (
        ("runtime", config.runtime), ("precision", config.precision), ("device", config.device)
    ):  # fmt: skip
        if value not in ("auto", "cpu"):
            raise ModelError(
                f"model.{key} = {value!r}: model {model.name!r} has no network, and runs in OpenCV "
                "on the CPU",
                fix=f'write model.{key} = "auto"',
            )


def build_choice(model: Model, choice: Choice) -> Runtime:
    """Returns the runtime for a choice. Raises ModelError if it cannot run here."""
    if choice.precision == "bf16" and choice.device == "cpu":
        _check_bf16()
    if choice.runtime == "torch":
        return _torch_runtime(model, choice)
    if choice.runtime == "onnxruntime":
        from node.perception.runtimes.onnxruntime_runtime import OnnxRuntime

        return OnnxRuntime(exported(model), choice.threads)
    from node.perception.runtimes.openvino_runtime import OpenVinoRuntime

    file = choice.graph or exported(model)
    return OpenVinoRuntime(file, choice.precision, choice.threads)  # type: ignore[arg-type]


def _torch_runtime(model: Model, choice: Choice) -> Runtime:
    if choice.device != "cpu" and model.is_onnx:
        model = _as_torch(model)
    if model.build is None:
        raise ModelError(
            f"model {model.name!r}: torch cannot run {model.graph}",
            fix='write model.runtime = "auto"',
        )
    check_torch(
        f"model {model.name!r}: the runtime torch",
        or_else=', or write model.runtime = "openvino" and model.device = "cpu"',
    )
    from node.perception.runtimes.torch_runtime import TorchRuntime

    return TorchRuntime(
        model, choice.device, choice.precision, choice.threads, compiles=choice.compiles
    )


def _check_bf16() -> None:
    from node.perception.runtimes.openvino_runtime import has_native_bf16

    if not has_native_bf16():
        # Emulated, bfloat16 takes twenty times as long as float32.
        raise ModelError(
            'model.precision = "bf16": this CPU has no bfloat16 arithmetic', fix='write "fp32"'
        )


def _build_with_fallback(model: Model, choice: Choice, config: ModelConfig) -> Runtime:
    if choice.device == "cpu":
        try:
            return build_choice(model, choice)
        except ModelError as error:
            if error.problem.startswith("model "):
                raise
            raise ModelError(f"model {model.name!r}: {error.problem}", fix=error.fix) from error
    standby = config.model_copy(update={"device": "cpu", "runtime": "auto", "precision": "auto"})
    return CpuFallback(
        lambda: build_choice(model, choice), lambda: build_runtime(model, standby), choice.device
    )


def _choices(model: Model, config: ModelConfig) -> list[Choice]:
    """Returns the choices to try, in order."""
    tuned = _tuned(model, config)
    if tuned is not None:
        return [tuned]
    device = _device(model, config)
    if device != "cpu":
        return [_on_gpu(model, config, device)]
    if model.preprocess.keeps_frame and config.runtime == "auto":
        # The network resizes by itself, in a way that only torch runs.
        precision = "fp32" if config.precision == "auto" else str(config.precision)
        candidates = [("torch", precision)]
    elif config.runtime == "auto":
        defaults = _by_default(config.precision)
        runtimes = runtimes_of(model)
        candidates = [choice for choice in defaults if choice[0] in runtimes] or defaults
    else:
        candidates = [(config.runtime, "fp32" if config.precision == "auto" else config.precision)]
    for runtime, precision in candidates:
        _check_precision(runtime, precision)
    return [Choice(runtime, precision, "cpu", config.threads) for runtime, precision in candidates]


def _tuned(model: Model, config: ModelConfig) -> Choice | None:
    """Returns the tuned choice if the configuration leaves the choice open or requires int8, else
    None."""
    if config.precision == "int8":
        choice: Choice | None = _tuned_int8(model, config)
    elif config.runtime == config.precision == config.device == "auto":
        result = kept_result(model)
        choice = result.winner if result else None
    else:
        return None
    if choice is not None and config.threads is not None:
        return replace(choice, threads=config.threads)
    return choice


def _tuned_int8(model: Model, config: ModelConfig) -> Choice:
    if config.runtime not in ("auto", "openvino") or config.device not in ("auto", "cpu"):
        raise ModelError(
            'model.precision = "int8": runs in openvino on the CPU',
            fix='write model.runtime = "openvino" and model.device = "cpu"',
        )
    result = kept_result(model)
    choice = result.fastest("int8") if result else None
    if choice is None:
        reason = "lost too many labels when it was tuned" if result else "is not calibrated here"
        raise ModelError(
            f'model {model.name!r}: model.precision = "int8": {reason}',
            fix="run "
            f"perception-node tune --model {model.name} --frames FOLDER with 50 or more frames of "
            "what the robot sees",
        )
    return choice


def _by_default(precision: str) -> list[tuple[str, str]]:
    from node.perception.runtimes.openvino_runtime import has_native_bf16

    exact = [("openvino", "fp32"), ("onnxruntime", "fp32"), ("torch", "fp32")]
    if precision == "fp32":
        return exact
    if precision == "bf16":
        return [("openvino", "bf16")]
    if precision != "auto":
        return [("torch", precision)]
    return [("openvino", "bf16"), *exact[1:]] if has_native_bf16() else exact


def _on_gpu(model: Model, config: ModelConfig, device: str) -> Choice:
    """Returns the choice of a GPU. Raises ModelError for a model or a setting that it does not
    run."""
    if model.is_onnx:
        _as_torch(model)
    elif "torch" not in runtimes_of(model):
        raise ModelError(
            f"model {model.name!r}: {model.graph} runs on the CPU only, and model.device is "
            f"{device!r}",
            fix='write model.device = "cpu", or export the model to ONNX',
        )
    if config.runtime not in ("auto", "torch"):
        raise ModelError(
            f"runtime {config.runtime!r} runs on the CPU here, and model.device is {device!r}",
            fix='write model.device = "cpu" or model.runtime = "torch"',
        )
    # torchvision's detectors compute boxes in the precision of their weights: float16 is too
    # coarse.
    default = "fp32" if model.preprocess.keeps_frame else GPU_PRECISIONS[0]
    precision = default if config.precision == "auto" else config.precision
    return Choice("torch", precision, device, config.threads, compiles=config.compile)


def _check_precision(runtime: str, precision: str) -> None:
    if precision not in PRECISIONS[runtime]:
        raise ModelError(
            f"model.precision = {precision!r}: {runtime} on a CPU runs in "
            f"{' or '.join(PRECISIONS[runtime])} here",
            fix='write "fp32", or another model.runtime',
        )


def runtimes_of(model: Model) -> tuple[str, ...]:
    """Returns the runtimes that read the form of a model: a user's graph has no torch network, and
    only OpenVINO reads its own files."""
    if model.graph is None:
        return tuple(PRECISIONS)
    return ("openvino",) if model.graph.suffix.lower() == ".xml" else ("onnxruntime", "openvino")


def runs_on_gpu(model: Model) -> bool:
    """Whether torch runs the model on a GPU of this computer. The reason why not is logged."""
    if not has_gpu() or (model.graph is not None and not model.is_onnx):
        return False
    if not model.is_onnx:
        return True
    try:
        _as_torch(model)
    except ModelError as error:
        log.warning("%s; it runs on the CPU", error)
        return False
    return True


def _device(model: Model, config: ModelConfig) -> str:
    if config.device != "auto":
        return config.device
    on_cpu = config.runtime in ("onnxruntime", "openvino")
    return "cuda" if not on_cpu and runs_on_gpu(model) else "cpu"


def _as_torch(model: Model) -> Model:
    # onnx and ONNX Runtime take a quarter of a second of a start that needs neither.
    from node.perception.models.onnx_to_torch import as_torch

    return as_torch(model)
