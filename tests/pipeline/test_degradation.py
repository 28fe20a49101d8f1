"""The ladder: down when the deadline is not held, up again with hysteresis."""

import numpy as np
import pytest

from node.config.load import load_config
from node.config.schema import DegradeConfig, NodeConfig, StepConfig
from node.errors import ConfigError
from node.pipeline.degradation import Degradation

TWO = DegradeConfig(
    steps=(StepConfig(every=2), StepConfig(model="resnet18", every=2)), down_after_s=1.0,
    up_after_s=5.0,
)  # fmt: skip


def levels(
    degradation: Degradation, start_s: float, end_s: float, late: bool
) -> list[tuple[float, int]]:
    """When each level began."""
    return [
        (round(float(at_s), 1), degradation.level)
        for at_s in np.arange(start_s, end_s, 0.1)
        if degradation.note(late, float(at_s))
    ]


def test_it_goes_down_step_by_step_and_says_so() -> None:
    degradation = Degradation(TWO)
    assert levels(degradation, 0, 10, late=True) == [(1.0, 1), (2.0, 2)]
    assert degradation.reason == ("deadline not held, step 2 of 2: model resnet18, one frame in 2",)
    assert levels(degradation, 10, 21, late=False) == [(15.0, 1), (20.1, 0)]
    assert degradation.reason == ()
    assert levels(degradation, 21, 60, late=False) == []


def test_single_late_messages_change_nothing() -> None:
    degradation = Degradation(TWO)
    assert not any(degradation.note(index % 3 == 0, index / 10) for index in range(300))


def test_a_try_that_fails_makes_the_next_wait_longer() -> None:
    degradation = Degradation(TWO)
    changes = [
        (round(float(at_s), 1), degradation.level)
        for at_s in np.arange(0, 60, 0.1)
        if degradation.note(
            degradation.level == 0, float(at_s)
        )  # step 1 holds the deadline, the top does not
    ]
    ups = [at_s for at_s, level in changes if level == 0]
    waits = np.diff([at_s for at_s, level in changes if level == 1])
    assert [round(wait_s) for wait_s in waits] == [6, 11, 21]
    assert len(ups) == 3


def test_steps_without_a_deadline_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no camera has a deadline to hold; set deadline_s"):
        load_config(None, ["degrade.steps=[{every=2}]"])
    config = load_config(None, ["degrade.steps=[{every=2}]", "camera.0.deadline_s=0.1"])
    assert isinstance(config, NodeConfig)
    assert config.degrade.steps == (StepConfig(every=2),)
