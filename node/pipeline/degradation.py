"""Degradation: steps down when labels are late, and up again after a period without late labels."""

from collections import deque

from node.config.schema import DegradeConfig, StepConfig

_LATE_SHARE = 0.5
"""Share of late messages above which the deadline counts as missed."""
_LONGEST_WAIT = 8
"""Largest factor on `up_after_s` after failed attempts to step up."""


class Degradation:
    """Chooses the step. Each failed attempt to step up doubles the wait for the next one, so a load
    just above the capacity does not cause oscillation. Used by one thread.

    level: number of the step in force, 0 at the configured level.
    """

    def __init__(self, config: DegradeConfig) -> None:
        self._config = config
        self._recent: deque[tuple[float, bool]] = deque(maxlen=10_000)
        self._changed_s: float | None = None
        self._late_s: float | None = None
        self._tried_up = False
        self._patience = 1
        self.level = 0

    @property
    def step(self) -> StepConfig | None:
        """The step in force; None at the configured level."""
        return self._config.steps[self.level - 1] if self.level else None

    @property
    def reason(self) -> tuple[str, ...]:
        """The reason for `degraded`; empty at the configured level."""
        if self.step is None:
            return ()
        measures = [f"model {self.step.model}"] if self.step.model else []
        measures += [f"one frame in {self.step.every}"] if self.step.every > 1 else []
        total = len(self._config.steps)
        return (f"deadline not held, step {self.level} of {total}: {', '.join(measures)}",)

    def note(self, late: bool, at_s: float) -> bool:
        """Notes one message; whether the step changed. at_s: time on a monotonic clock."""
        if self._changed_s is None:
            self._changed_s = at_s
        if late:
            self._late_s = at_s
        self._recent.append((at_s, late))
        while self._recent[0][0] < at_s - self._config.down_after_s:
            self._recent.popleft()
        here_s = at_s - self._changed_s
        if here_s >= self._config.down_after_s and self._mostly_late():
            if self._tried_up:
                self._patience = min(2 * self._patience, _LONGEST_WAIT)
            return self._go(self.level + 1, at_s, tried_up=False)
        quiet_s = at_s - max(self._changed_s, self._late_s or self._changed_s)
        if quiet_s >= self._config.up_after_s * self._patience:
            if self.level == 0:
                self._patience = 1
            return self._go(self.level - 1, at_s, tried_up=True)
        return False

    def _mostly_late(self) -> bool:
        late = sum(late for _, late in self._recent)
        return late > _LATE_SHARE * len(self._recent)

    def _go(self, level: int, at_s: float, *, tried_up: bool) -> bool:
        if not 0 <= level <= len(self._config.steps):
            return False
        self.level, self._changed_s, self._tried_up = level, at_s, tried_up
        self._recent.clear()
        return True
