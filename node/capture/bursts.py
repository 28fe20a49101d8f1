"""Bursts: the age of pictures that a server collects, and sends several at once."""

import itertools
from collections import deque

_MIN_ENDS, _MAX_ENDS = 3, 8
"""Ends of consecutive bursts, by which the period is measured and the freshest picture is found."""
_MIN_PICTURES = 2
_MIN_SPAN_NS, _MAX_SPAN_NS = 250_000_000, 3_500_000_000
"""Time from burst to burst. Shorter ones may be pauses of a server that sends a recorded file as
fast as it can. In longer ones, the error of the period could hide more than the allowed age."""
_MIN_SILENCE = 0.25
"""Fraction of the longest of the latest silences; a shorter one does not end a burst."""
_MAX_DEVIATION, _MAX_MISSING = 0.3, 1.2
"""Fraction of a burst, and number of pictures, by which its length may differ from that of its
pictures: more means that pictures were left behind, or are missing."""


class Bursts:
    """Bounds the lateness of each picture of a stream that comes in regular bursts. Not
    thread-safe.

    Derivation: a source takes one picture a period, and a burst holds the pictures since the
    previous burst, so time and number of pictures from burst to burst give the period. A picture
    that is k-th from the end of its burst waited for k periods. An end
    for its number is late by as much compared with the other ends; the earliest of them counts as
    current.

    Args:
        shortest_period_ns: shorter ones are not of a camera.
    """

    def __init__(self, shortest_period_ns: float) -> None:
        self._shortest_period_ns = shortest_period_ns
        self._count = 0
        self._came_ns = 0
        self._silences_ns = deque([0], maxlen=_MIN_ENDS)
        self._ends: deque[tuple[int, int]] = deque(maxlen=_MAX_ENDS)
        self._period_ns: float | None = None
        self.span_s: float | None = None
        """Mean seconds from burst to burst when they were last regular; None before."""

    @property
    def period_ns(self) -> float | None:
        """Period of the source; None unless the latest bursts are regular."""
        return self._period_ns

    def late_ns(self, came_ns: int, *, begins: bool) -> float | None:
        """Returns by how much the next picture can be older than its stamp, beyond a period and the
        usual delay; None unless the latest bursts are regular.

        Args:
            came_ns: arrival of the picture, CLOCK_MONOTONIC.
            begins: whether the reader waited for it about a period or longer.
        """
        interval_ns = came_ns - self._came_ns
        if begins and self._count and interval_ns >= _MIN_SILENCE * max(self._silences_ns):
            self._silences_ns.append(interval_ns)
            self._ends.append((self._came_ns, self._count))
            self._period_ns = self._regular_period_ns()
        self._count += 1
        self._came_ns = came_ns
        period_ns = self._period_ns
        if period_ns is None:
            return None
        current_ns = min(end_ns - count * period_ns for end_ns, count in self._ends)
        return max(0.0, came_ns - self._count * period_ns - current_ns)

    def _regular_period_ns(self) -> float | None:
        """The period, if all bursts are long and regular; else forgets all but the last."""
        if len(self._ends) == 1:
            return None
        (first_ns, first_count), (last_ns, last_count) = self._ends[0], self._ends[-1]
        period_ns = (last_ns - first_ns) / (last_count - first_count)
        if period_ns < self._shortest_period_ns or not all(
            _is_regular(after[0] - before[0], after[1] - before[1], period_ns)
            for before, after in itertools.pairwise(self._ends)
        ):
            self._ends = deque([self._ends[-1]], maxlen=_MAX_ENDS)
            return None
        if len(self._ends) < _MIN_ENDS:
            return None
        self.span_s = (last_ns - first_ns) / (len(self._ends) - 1) / 1e9
        return period_ns


def _is_regular(ns: int, pictures: int, period_ns: float) -> bool:
    """Whether a burst of so many pictures after so long a time is one of a row."""
    deviation_ns = abs(ns - pictures * period_ns)
    return (
        pictures >= _MIN_PICTURES
        and _MIN_SPAN_NS <= ns <= _MAX_SPAN_NS
        and deviation_ns <= max(_MAX_DEVIATION * ns, _MAX_MISSING * period_ns)
    )
