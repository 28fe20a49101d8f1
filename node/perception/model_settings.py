"""Checks the settings that depend on a model, without loading its network: by its name, its model
card and its class names. A node does so before it publishes, `config check` without a node."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from node.config.schema import ModelConfig, NodeConfig
from node.errors import ModelError, PerceptionError, SettingsError
from node.perception.models.registry import check_name, check_weights, described, load_model
from node.perception.tasks.named_classes import check_named

_Check = Callable[[NodeConfig, ModelConfig], None]
"""Raises an error for settings of a configuration that do not fit a model."""
_ENGINES_OF_FILES = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}
"""Engines that run each kind of model file that has no torch network."""


def check_settings(config: NodeConfig) -> None:
    """Raises the first of `settings_problems`."""
    for error in settings_problems(config):
        raise error


def check_model(config: NodeConfig) -> None:
    """As `check_settings`, for what `model` and `crops` load, without the steps of `[degrade]` and
    what only a live node uses."""
    for error in _problems_of(config, config.model):
        raise error


def settings_problems(config: NodeConfig) -> Iterator[PerceptionError]:
    """Yields a SettingsError for each setting that does not fit a model of the configuration, as
    far as this is known without loading a network, and another error for each model of which not
    even the description can be read."""
    yield from _problems_of(config, config.model, (*_OF_EACH_MODEL, _check_events))
    for step in config.degrade.steps:
        if step.model is not None:
            yield from _problems_of(
                config,
                ModelConfig(name=step.model, weights=step.weights, device=config.model.device),
            )


def settings_notes(config: NodeConfig) -> Iterator[str]:
    """Yields valid settings that have no effect, in words: parts of what a tag's pose needs."""
    try:
        model = described(config.model.name)
    except PerceptionError:
        return
    if model is None:
        return
    sized = config.detect.tag_size_m is not None
    without = [camera.name for camera in config.camera if camera.calibration is None]
    if sized and not model.finds_tags:
        yield (
            f"detect.tag_size_m has no effect: model {config.model.name} finds no tags; "
            "docs/models.md names the models that do"
        )
    elif sized and without:
        yield (
            f"tags of camera {', '.join(without)} get no pose without its calibration; write "
            "[camera.calibration] as docs/models.md shows"
        )
    elif model.finds_tags and not sized and len(without) < len(config.camera):
        yield (
            "tags get no pose without detect.tag_size_m, the side of their black square in metres"
        )


def _problems_of(
    config: NodeConfig, model: ModelConfig, checks: Sequence[_Check] = ()
) -> Iterator[PerceptionError]:
    """Yields the problems with one model. checks: none for those of each model."""
    for check in checks or _OF_EACH_MODEL:
        try:
            check(config, model)
        except PerceptionError as error:
            yield error
            if not isinstance(error, SettingsError):
                break


def _check_names(config: NodeConfig, model: ModelConfig) -> None:
    check_name(model.name)
    check_weights(model.name, model.weights)
    if config.crops.model is not None:
        check_name(config.crops.model)
        check_weights(config.crops.model, config.crops.weights, "crops.weights")


def _check_engine(_: NodeConfig, model: ModelConfig) -> None:
    """Raises SettingsError for a runtime, precision and device that contradict each other or the
    kind of the model. What depends on this computer is left to loading."""
    description = described(model.name)
    if description is not None and description.finds_tags:
        _check_engine_of_tags(model)
        return
    from node.perception.runtimes.select import PRECISIONS

    suffix = Path(model.name).suffix.lower()
    engines = _ENGINES_OF_FILES.get(suffix, tuple(PRECISIONS))
    if suffix == ".onnx" and _may_run_on_gpu(model):
        engines = ("torch", *engines)  # whether the file can be converted shows later
    runtime, precision = model.runtime, model.precision
    if runtime not in ("auto", *engines):
        raise SettingsError(
            f"model.runtime = {runtime!r}: {model.name} runs in {' or '.join(engines)}",
            fix='write model.runtime = "auto"',
        )
    runs_on_gpu = "torch" in (engines if runtime == "auto" else (runtime,))
    if model.device.startswith("cuda") and not runs_on_gpu:
        cause = model.name if runtime == "auto" else f"the runtime {runtime}"
        raise SettingsError(
            f"model.device = {model.device!r}: {cause} runs on the CPU here",
            fix='write model.device = "cpu"',
        )
    possible = _precisions(runtime, model.device)
    if precision not in ("auto", *possible):
        on_cpu = "a CPU" if runtime == "auto" else f"the runtime {runtime}"
        runs = "a GPU" if model.device.startswith("cuda") else on_cpu
        raise SettingsError(
            f"model.precision = {precision!r}: {runs} runs in {' or '.join(possible)} here",
            fix="write one of these, or another model.runtime or model.device",
        )


def _may_run_on_gpu(model: ModelConfig) -> bool:
    from node.perception.runtimes.gpus import has_gpu

    if model.device == "auto":
        return model.runtime == "torch" and has_gpu()
    return model.device != "cpu"


def _precisions(runtime: str, device: str) -> tuple[str, ...]:
    """Returns the precisions that a runtime and a device, each as configured, may have."""
    from node.perception.runtimes.select import GPU_PRECISIONS, PRECISIONS

    if device.startswith("cuda"):
        return GPU_PRECISIONS
    runtimes = tuple(PRECISIONS) if runtime == "auto" else (runtime,)
    on_cpu = tuple(precision for name in runtimes for precision in PRECISIONS[name])
    on_gpu = GPU_PRECISIONS if device == "auto" and "torch" in runtimes else ()
    return tuple(dict.fromkeys((*on_cpu, *on_gpu)))


def _check_engine_of_tags(model: ModelConfig) -> None:
    """Makes the runtime, which needs no network and no time."""
    from node.perception.runtimes.select import build_runtime

    try:
        build_runtime(load_model(model.name), model)
    except ModelError as error:
        raise SettingsError(error.problem, fix=error.fix) from error


def _check_classes(config: NodeConfig, model: ModelConfig) -> None:
    description = described(model.name)
    if description is None:
        return
    if description.task == "detect":
        check_named("detect.classes", config.detect.classes or (), description.label_names)
        check_named(
            "detect.class_scores", config.detect.class_scores, description.label_names, undo="{}"
        )
    elif description.task == "segment":
        check_named("segment.classes", config.segment.classes or (), description.label_names)


def _check_crops(config: NodeConfig, model: ModelConfig) -> None:
    from node.perception.tasks.second_stage import check_tasks

    crops = config.crops
    first = described(model.name)
    second = described(crops.model) if crops.model is not None else None
    if crops.model is None or first is None:
        return
    check_tasks(model.name, first.task, crops.model, second.task if second else None)
    check_named("crops.classes", crops.classes or (), first.label_names)


def _check_events(config: NodeConfig, model: ModelConfig) -> None:
    """Checks the names in the events that write the black box: nothing else has those names."""
    description = described(model.name)
    if description is not None:
        named = [event.name for event in config.recording.black_box_events if event.name]
        names = description.label_names
        check_named("recording.black_box_events", named, names, undo="[]")


_OF_EACH_MODEL: tuple[_Check, ...] = (_check_names, _check_engine, _check_classes, _check_crops)
