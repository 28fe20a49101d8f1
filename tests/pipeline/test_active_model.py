"""The models at hand: a swap that fails gives back the one before, and nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest

from node.config.load import load_config
from node.config.schema import NodeConfig
from node.errors import ControlError, ModelError
from node.pipeline.active_model import PROBATION_FRAMES, ActiveModel


class Model:
    """Stands for a perceiver: what it was last told to do."""

    def __init__(self, config: NodeConfig, refuses: str | None = None) -> None:
        self.info = SimpleNamespace(name=config.model.name)
        self.score: float | None = None
        self._refuses = refuses

    def task_for(self, config: NodeConfig) -> float:
        if self._refuses is not None and self._refuses in config.detect.class_scores:
            raise ModelError(f"no class {self._refuses!r}")
        return config.detect.score

    def use(self, task: float) -> None:
        self.score = task


def active_model(*settings: str, **refuses: str) -> ActiveModel:
    config = load_config(None, ["model.name=first", *settings])

    def build(config: NodeConfig) -> Any:
        return Model(config, refuses.get(config.model.name))

    active = ActiveModel(config, build)
    active.load()
    return active


def named(config: NodeConfig, name: str) -> NodeConfig:
    model = config.model.model_copy(update={"name": name})
    return config.model_copy(update={"model": model})


def scored(config: NodeConfig, **detect: object) -> NodeConfig:
    return config.model_copy(update={"detect": config.detect.model_copy(update=detect)})


def test_what_was_set_during_probation_outlives_a_roll_back() -> None:
    models = active_model()
    second = named(models.config, "second")
    settled = models.swap(Model(second), second)  # type: ignore[arg-type]
    models.note_good(PROBATION_FRAMES - 1)
    models.reconfigure(scored(models.config, score=0.6))
    message = models.rolled_back(RuntimeError("driver"))
    assert message == "model second failed, the one before is back: driver"
    assert (models.config.model.name, models.config.detect.score) == ("first", 0.6)
    assert models.in_use.score == 0.6  # type: ignore[attr-defined]
    with pytest.raises(ControlError, match="driver"):
        settled.result(0)


def test_settings_that_fit_only_the_model_that_failed_go_with_it() -> None:
    models = active_model(first="dog")
    second = named(models.config, "second")
    models.swap(Model(second), second)  # type: ignore[arg-type]
    models.reconfigure(scored(models.config, class_scores={"dog": 0.5}))
    assert models.rolled_back(RuntimeError("driver")) is not None
    assert (models.config.model.name, models.config.detect.class_scores) == ("first", {})


def test_a_model_of_the_ladder_neither_proves_nor_fails_another() -> None:
    models = active_model("degrade.steps=[{model='small'}]", "camera.0.deadline_s=0.1")
    second = named(models.config, "second")
    settled = models.swap(Model(second), second)  # type: ignore[arg-type]
    for tenth in range(100):
        models.note_latency(True, tenth / 10)
    assert models.in_use.info.name == "small"
    models.note_good(PROBATION_FRAMES)
    assert not settled.done()
    assert models.rolled_back(RuntimeError("driver")) is None
    assert models.config.model.name == "second"
