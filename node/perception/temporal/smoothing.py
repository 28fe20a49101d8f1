"""Smoother: averages a classification's scores over time and determines the stable labels."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node.config.schema import SmoothConfig
from perception_client.messages.kinds import Label


class Smoother:
    """Averages the scores of one camera with a time constant that does not depend on the frame
    rate. A label is stable from the time its average reaches `enter` until it falls below `leave`.
    Not thread-safe.

    First-order low-pass filter: the average reaches the fraction 1 - exp(-t / time_constant_s) of a
    step t seconds after it. So a label of constant score s becomes stable after
    time_constant_s * ln(s / (s - enter)) seconds.

    Args:
        names: of the classes, in order.
        config: time constant and thresholds.
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
        """Returns the frame's labels with `stable` and `since_ns`, followed by the stable labels
        that are not among them.

        Args:
            labels: of the frame.
            scores: [classes] float64.
            at_s: time of the frame in seconds, on a monotonic clock.
            stamp_ns: stamp of the frame.
        """
        if self._average is None:
            # Starting from zero delays the first labels like later ones.
            self._average = np.zeros_like(scores)
            self._last_s = at_s
        step_s = max(0.0, at_s - self._last_s)
        self._last_s = at_s
        weight = 1.0 - math.exp(-step_s / self._config.time_constant_s)
        self._average += weight * (scores - self._average)
        self._update_stable(self._average, stamp_ns)
        shown = {label.id for label in labels}
        others = [
            Label(id=class_id, name=self._names[class_id], score=float(scores[class_id]))
            for class_id in self._since_ns
            if class_id not in shown
        ]
        others.sort(key=lambda label: -label.score)
        return tuple(
            replace(label, stable=label.id in self._since_ns, since_ns=self._since_ns.get(label.id))
            for label in (*labels, *others)
        )

    def reset(self) -> None:
        """Clears the state: the next frame shows another scene."""
        self._average = None
        self._since_ns.clear()

    def _update_stable(self, average: NDArray[np.float64], stamp_ns: int) -> None:
        for class_id in [
            class_id for class_id in self._since_ns if average[class_id] < self._config.leave
        ]:
            del self._since_ns[class_id]
        for entered in np.flatnonzero(average >= self._config.enter):
            self._since_ns.setdefault(int(entered), stamp_ns)
