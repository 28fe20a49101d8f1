"""ActiveModel: the loaded models, and which of them the next frame is inferred with."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from node.config.schema import ModelConfig, NodeConfig, StepConfig
from node.errors import ControlError, ModelError
from node.pipeline.degradation import Degradation
from node.process.memory import trim

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver

log = logging.getLogger(__name__)

PROBATION_FRAMES = 10
"""Frames for which the previous model stays loaded after a swap."""

Builder = Callable[[NodeConfig], "Perceiver"]
"""Loads the model of a configuration and warms the model up. Raises ModelError."""


class ActiveModel:
    """Holds the configured model, the model of each degradation step, all loaded at the start, and
    after a swap the previous model, until the new one has passed its probation.

    The inference thread calls the methods; any thread reads the properties. config: the
    configuration in force.
    """

    def __init__(self, config: NodeConfig, build: Builder) -> None:
        """build: loads a model; called by `load` alone, on its thread."""
        self.config = config
        self._build = build
        self._degradation = Degradation(config.degrade)
        # By degradation level; None: the configured model.
        self._by_level: list[Perceiver | None] = [None]
        self._configured: Perceiver | None = None
        self._before: tuple[Perceiver, NodeConfig] | None = None
        self._probation = 0
        self._settled: Future[None] = Future()

    def load(self) -> None:
        """Loads all models. Raises ModelError."""
        configured = self._build(self.config)
        self._by_level += self._built_steps()
        trim()
        self._configured = configured  # last: from here on `loaded` is true for other threads

    @property
    def loaded(self) -> bool:
        """Whether `load` has returned; until then no model is in use."""
        return self._configured is not None

    @property
    def in_use(self) -> "Perceiver":
        """The model that the next frame is inferred with."""
        return self._by_level[self._degradation.level] or self._loaded

    @property
    def step(self) -> StepConfig | None:
        """The degradation step in force, None at the configured level."""
        return self._degradation.step

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the node runs below its configuration; empty at the configured level."""
        return self._degradation.reason

    @property
    def _loaded(self) -> "Perceiver":
        assert self._configured is not None, "load() comes first"
        return self._configured

    def reconfigure(self, config: NodeConfig) -> None:
        """Applies other thresholds and another top-k to every model. Raises ModelError and changes
        nothing where a model does not support them."""
        models = [self._loaded, *(model for model in self._by_level if model is not None)]
        tasks = [model.task_for(config) for model in models]
        for model, task in zip(models, tasks, strict=True):
            model.use(task)
        self.config = config

    def swap(self, model: "Perceiver", config: NodeConfig) -> "Future[None]":
        """Replaces the configured model, on probation. The Future is done when the new model has
        passed its probation, or has a ControlError when the new model failed."""
        self._before, self._probation = (self._loaded, self.config), PROBATION_FRAMES
        self._configured, self.config = model, config
        self._settled = Future()
        return self._settled

    def note_good(self, frames: int) -> None:
        """Counts frames that were inferred without a failure towards the probation."""
        if self._before is None or self.in_use is not self._configured:
            return
        self._probation -= frames
        if self._probation <= 0:
            self._before = None
            self._settled.set_result(None)

    def rolled_back(self, error: Exception) -> str | None:
        """Replaces a model on probation that failed by the previous model, and returns the reason;
        None where the model in use is not on probation. Settings that were changed since the swap
        stay changed."""
        if self._before is None or self.in_use is not self._configured:
            return None
        reason = f"model {self._loaded.info.name} failed, the one before is back: {error}"
        log.error("%s", reason)
        (previous, config), self._before = self._before, None
        self._configured = previous
        named = {"name": config.model.name, "weights": config.model.weights}
        now = self.config.model_copy(update={"model": self.config.model.model_copy(update=named)})
        try:
            previous.use(previous.task_for(now))
            self.config = now
        except ModelError:  # the settings fit the model that failed alone
            self.config = config
        self._settled.set_exception(ControlError(reason))
        return reason

    def note_latency(self, late: bool, at_s: float) -> None:
        """Counts one message of a camera with a deadline for the degradation. at_s: its time on
        CLOCK_MONOTONIC."""
        if self.config.degrade.steps and self._degradation.note(late, at_s):
            log.warning("%s", "; ".join(self.degraded) or "the deadline is held again, all as set")

    def _built_steps(self) -> "list[Perceiver | None]":
        """The models of the steps. A step without a model uses the model of the step above."""
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
