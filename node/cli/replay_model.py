"""The model and settings of a replay: those of the recording, unless the command says otherwise."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.cli.options import configured, load_perceiver
from node.config.schema import CameraConfig, NodeConfig
from node.errors import ModelError
from node.replay.golden import Map, check_model
from node.replay.recorded_settings import for_another_model, settings_of
from perception_client.messages.kinds import ModelInfo

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver
    from node.recording.in_force import InForce

log = logging.getLogger(__name__)

_ENGINE: Mapping[str, Any] = {"runtime": "auto", "precision": "auto", "device": "auto"}
_MOST_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command that make its configuration; as those of `configured`."""

    config_file: Path | None
    settings: tuple[str, ...]
    model: str | None
    runtime: str | None
    endpoint: str | None

    def configured(
        self, *, source: str | None = None, base: Mapping[str, Any] | None = None
    ) -> NodeConfig:
        """Builds the configuration. Raises ConfigError."""
        return configured(
            self.config_file, self.settings, source=source, model=self.model,
            runtime=self.runtime, endpoint=self.endpoint, base=base,
        )  # fmt: skip

    def before_the_recording(self) -> None:
        """Sets up the log and the limits, which reading the recording needs. Raises ConfigError."""
        if self.config_file is not None:
            self.configured()
            return
        early = [text for text in self.settings if text.strip().startswith(("limits.", "log."))]
        configured(None, tuple(early))

    def names(self, *keys: str) -> bool:
        """Whether `--set` gives one of these keys of the section `model`."""
        set_keys = {text.partition("=")[0].strip() for text in self.settings}
        return any(f"model.{key}" in set_keys for key in keys)


def with_recorded(options: Options, recorded: "InForce", cameras: tuple[str, ...]) -> NodeConfig:
    """Returns the configuration of a replay of a recording. A configuration file replaces all
    recorded settings, an option or `--set` one of them. A camera without settings has the defaults.
    Raises ConfigError."""
    base: dict[str, Any] = {}
    if options.config_file is None and recorded.config is not None:
        base, problems = settings_of(recorded.config)
        for problem in problems:
            log.warning("%s", problem)
    config = options.configured(base=base)
    if "model" in base and config.model.name != base["model"].get("name"):
        base = for_another_model(base)
        config = options.configured(base=base)
    known = options.config_file is not None or "camera" in base
    by_name = {camera.name: camera for camera in config.camera} if known else {}
    replayed = tuple(by_name.get(name) or CameraConfig(name=name) for name in cameras)
    return config.model_copy(update={"camera": replayed})


@dataclass(frozen=True, slots=True)
class ReplayModel:
    """Loads the model of a replay, and says how it relates to the recorded one.

    Attributes:
        recording: the name of the recording; None for a replay of anything else.
        recorded: what was in force in it.
        options: of the command.
        golden: the expected messages; None without any.
        expect: their file.
    """

    recording: str | None
    recorded: "InForce | None"
    options: Options
    golden: list[Map] | None
    expect: Path | None

    def load(self, config: NodeConfig) -> "Perceiver":
        """Loads the model. Raises ModelError, or ConfigError if the golden file is of another
        model."""
        perceiver = self._loaded(config)
        if self.recording is not None:
            self._compare(config, perceiver)
        if self.golden is not None and self.expect is not None:
            check_model(self.golden, self.expect, perceiver.info)
        return perceiver

    def _loaded(self, config: NodeConfig) -> "Perceiver":
        try:
            return load_perceiver(config)
        except ModelError as error:
            if self._is_chosen(config):
                raise
            problem = error.problem
        try:
            # The engine of the robot may not run here, and is no part of the model.
            model = config.model.model_copy(update=_ENGINE)
            perceiver = load_perceiver(config.model_copy(update={"model": model}))
        except ModelError as error:
            raise ModelError(
                f"{self.recording} was recorded with {self._recorded_name(config)}, which cannot "
                f"be loaded here: {error.problem}",
                fix="bring its files, or name another model with --model",
            ) from error
        log.warning("%s; the replay runs the model in an engine of this computer", problem)
        return perceiver

    def _is_chosen(self, config: NodeConfig) -> bool:
        """Whether the command names the model or its engine, or the recording names none."""
        options, recorded = self.options, self.recorded
        return (
            recorded is None
            or recorded.config is None
            or options.config_file is not None
            or config.model.name != _name_in(recorded)
            or options.runtime is not None
            or options.names("weights", *_ENGINE)
        )

    def _recorded_name(self, config: NodeConfig) -> str:
        model = self.recorded.model if self.recorded is not None else None
        return config.model.name if model is None else _named(model)

    def _compare(self, config: NodeConfig, perceiver: "Perceiver") -> None:
        """Logs one line on the model and the settings, or one for each model that is another."""
        recorded = self.recorded
        if recorded is None or recorded.model is None:
            log.info("%s names no model; replayed with %s", self.recording, _named(perceiver.info))
            return
        was = (recorded.model, recorded.crop_model)
        runs = (perceiver.info, perceiver.crop_info)
        if all(_same(model, running) for model, running in zip(was, runs, strict=True)):
            log.info("%s: replayed with its own model, %s, and %s", self.recording,
                     _named(perceiver.info), self._whose_settings(recorded))  # fmt: skip
            return
        for model, running in zip(was, runs, strict=True):
            if not _same(model, running):
                changed = model is not None and running is not None and model.name == running.name
                is_named = self._names_the_model() and config.model.name != _name_in(recorded)
                log.log(
                    logging.INFO if is_named else logging.WARNING,
                    "%s: recorded with %s, replayed with %s%s",
                    self.recording, _named(model), _named(running),
                    ": its files have changed since" if changed and not is_named else "",
                )  # fmt: skip

    def _names_the_model(self) -> bool:
        options = self.options
        return (
            options.config_file is not None
            or options.model is not None
            or options.names("name", "weights")
        )

    def _whose_settings(self, recorded: "InForce") -> str:
        if self.options.config_file is not None:
            return "the settings of a configuration file"
        if recorded.config is None:
            return "the default settings"
        others = self.options.settings or self.options.runtime
        return f"its own settings{' but for those of the command' if others else ''}"


def _name_in(recorded: "InForce") -> object:
    model = (recorded.config or {}).get("model")
    return model.get("name") if isinstance(model, Mapping) else None


def _same(model: ModelInfo | None, other: ModelInfo | None) -> bool:
    if model is None or other is None:
        return model is other
    return (model.name, model.digest) == (other.name, other.digest)


def _named(model: ModelInfo | None) -> str:
    if model is None:
        return "no second model"
    return f"{model.name} ({model.digest[:_MOST_DIGITS]})"
