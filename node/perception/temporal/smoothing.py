"""Smoothing: a classification's scores averaged over time, and the labels that are stable."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node.config.schema import SmoothConfig
from perception_client.messages.kinds import Label


class Smoother:
    """Averages the scores of one camera with a time constant, the same at any frame rate, and
    keeps the labels that have entered and not yet left.

    After t seconds of a new score the average has gone 1 - exp(-t / time_constant_s) of the way
    (a first-order low-pass filter), so a label of score s enters after
    time_constant_s * ln(s / (s - enter)) seconds.
    """

    def __init__(self, names: tuple[str, ...], config: SmoothConfig) -> None:
        self._names = names
        self._config = config
        self._average: NDArray[np.float64] | None = None
        self._last_s = 0.0
        self._since_ns: dict[int, int] = {}

    def update(
        self, labels: tuple[Label, ...], scores: NDArray[np.float64], at_s: float, stamp_ns: int
    ) -> tuple[Label, ...]:
        """The frame's labels, each with whether it is stable, then the stable ones beside them.

        scores: [classes]; at_s: the frame's time in seconds; stamp_ns: its stamp.
        """
        if self._average is None:
            # Nothing was seen before, so a label has its delay at the start too.
            self._average = np.zeros_like(scores)
            self._last_s = at_s
        step_s = max(0.0, at_s - self._last_s)
        self._last_s = at_s
        share = 1.0 - math.exp(-step_s / self._config.time_constant_s)
        self._average += share * (scores - self._average)
        self._note(self._average, stamp_ns)
        shown = {label.id for label in labels}
        beside = [
            Label(id=i, name=self._names[i], score=float(scores[i]))
            for i in self._since_ns
            if i not in shown
        ]
        beside.sort(key=lambda label: -label.score)
        return tuple(
            replace(label, stable=label.id in self._since_ns, since_ns=self._since_ns.get(label.id))
            for label in (*labels, *beside)
        )

    def reset(self) -> None:
        """Forgets what was: what comes next is another scene."""
        self._average = None
        self._since_ns.clear()

    def _note(self, average: NDArray[np.float64], stamp_ns: int) -> None:
        for i in [i for i in self._since_ns if average[i] < self._config.leave]:
            del self._since_ns[i]
        for entered in np.flatnonzero(average >= self._config.enter):
            self._since_ns.setdefault(int(entered), stamp_ns)
