"""ActiveModel: the models that a labeller has at hand, and which of them is in use."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from node.config.schema import ModelConfig, NodeConfig, StepConfig
from node.errors import ControlError, ModelError
from node.pipeline.degradation import Degradation

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver

log = logging.getLogger(__name__)

PROBATION_FRAMES = 10
"""Frames for which the model before is kept at hand after another has taken its place."""

Builder = Callable[[NodeConfig], "Perceiver"]
"""Loads the model of a configuration and warms it up."""


class ActiveModel:
    """The configured model, those of the ladder's steps, all loaded at the start, and after a swap
    the one before, until the new one has proved itself. Used by the labeller's thread."""

    def __init__(self, config: NodeConfig, build: Builder) -> None:
        self.config = config
        self._build = build
        self._degradation = Degradation(config.degrade)
        # By level of the ladder; None: the configured one.
        self._on_level: list[Perceiver | None] = [None]
        self._configured = build(config)
        self._on_level += self._built_steps()
        self._before: tuple[Perceiver, NodeConfig] | None = None
        self._probation = 0
        self._settled: Future[None] = Future()

    @property
    def in_use(self) -> "Perceiver":
        """What is to look at the next frame."""
        return self._on_level[self._degradation.level] or self._configured

    @property
    def step(self) -> StepConfig | None:
        """The ladder's step in force, None at the top."""
        return self._degradation.step

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why this is not all as configured."""
        return self._degradation.reason

    def reconfigure(self, config: NodeConfig) -> None:
        """Other thresholds and top-k for every model. Raises ModelError and changes nothing where
        they do not fit one."""
        models = [self._configured, *(x for x in self._on_level if x is not None)]
        tasks = [model.task_for(config) for model in models]
        for model, task in zip(models, tasks, strict=True):
            model.use(task)
        self.config = config

    def swap(self, model: "Perceiver", config: NodeConfig) -> "Future[None]":
        """Another configured model, on probation. The Future is done when it has proved itself, or
        has the ControlError of its failure."""
        self._before, self._probation = (self._configured, self.config), PROBATION_FRAMES
        self._configured, self.config = model, config
        self._settled = Future()
        return self._settled

    def note_good(self, frames: int) -> None:
        """So many frames were looked at without failure."""
        if self._before is None or self.in_use is not self._configured:
            return
        self._probation -= frames
        if self._probation <= 0:
            self._before = None
            self._settled.set_result(None)

    def rolled_back(self, error: Exception) -> str | None:
        """Puts the model before in the place of one on probation that failed, and says so; None
        where it was none on probation. What else was set meanwhile stays as set."""
        if self._before is None or self.in_use is not self._configured:
            return None
        told = f"model {self._configured.info.name} failed, the one before is back: {error}"
        log.error("%s", told)
        (self._configured, config), self._before = self._before, None
        named = {"name": config.model.name, "weights": config.model.weights}
        now = self.config.model_copy(update={"model": self.config.model.model_copy(update=named)})
        try:
            self._configured.use(self._configured.task_for(now))
            self.config = now
        except ModelError:  # set for the model that failed, and no other
            self.config = config
        self._settled.set_exception(ControlError(told))
        return told

    def note_latency(self, late: bool, at_s: float) -> None:
        """One message of a camera with a deadline, for the ladder. at_s: CLOCK_MONOTONIC."""
        if self.config.degrade.steps and self._degradation.note(late, at_s):
            log.warning("%s", "; ".join(self.degraded) or "the deadline is held again, all as set")

    def _built_steps(self) -> "list[Perceiver | None]":
        """A step without a model of its own has that of the step above."""
        built: list[Perceiver | None] = []
        for step in self.config.degrade.steps:
            if step.model is None:
                built.append(built[-1] if built else None)
                continue
            model = ModelConfig(
                name=step.model,
                weights=step.weights,
                device=self.config.model.device,
                threads=self.config.model.threads,
                top_k=self.config.model.top_k,
            )
            built.append(self._build(self.config.model_copy(update={"model": model})))
        return built
