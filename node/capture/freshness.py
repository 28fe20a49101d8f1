"""Freshness: whether a camera's picture is a new one. `read` may go on succeeding after an unplug
or a freeze, with the same picture or the same stamp for ever."""

import numpy as np
from numpy.typing import NDArray

from node.capture.cadence import Cadence
from node.capture.source import Picture, SourceFacts

_EVERY_ROW = 8
"""Rows apart that are compared: a sensor's noise shows in each, and an eighth costs 0.03 ms at
720p."""


_MOST_CLAIMED_S = 60.0
"""A source that says it is slower than this is not believed."""


def period_s(cadence: Cadence, facts: SourceFacts, max_fps: float | None) -> float:
    """Seconds between two pictures: as learnt, and before that by what the source says and the rate
    at which its pictures are wanted; 0 where nothing is known."""
    learnt_s = cadence.period_s(max_fps)
    if learnt_s is not None:
        return learnt_s
    claimed_s = min(1 / facts.fps, _MOST_CLAIMED_S) if facts.fps else 0.0
    return max(claimed_s, 1 / max_fps if max_fps else 0.0)


class Freshness:
    """Compares each picture with the one before. Owned by one thread."""

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._rows: NDArray[np.uint8] | None = None

    def repeats(self, picture: Picture) -> str | None:
        """What of the picture is the same as in the one before: `stamp`, `picture` or nothing."""
        stamp = picture.stamp
        stamp_ns = stamp.mono_ns if stamp is not None and stamp.clock == "driver" else None
        same_stamp = stamp_ns is not None and stamp_ns == self._stamp_ns
        self._stamp_ns = stamp_ns
        rows = picture.image[::_EVERY_ROW]
        same_rows = self._rows is not None and np.array_equal(rows, self._rows)
        if not same_rows:
            self._rows = rows.copy()
        if same_stamp:
            return "stamp"
        return "picture" if same_rows else None
