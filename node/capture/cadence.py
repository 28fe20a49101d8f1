"""Cadence: learns the period of a source from the arrival of its pictures. The reported rate is
often wrong: many streams of one picture a second report 25."""

import statistics
from dataclasses import dataclass

_MEDIAN_OF = 5
"""Number of intervals whose median is the period: a camera that slows down is recognised after
three."""
_MAX_INTERVAL_NS = 60_000_000_000
"""Cap on an interval: a longer one is an outage, not a period."""
_OWN_PERIOD_FACTOR = 1.5
"""Multiple of the requested period; a longer interval is set by the source and not by the
request."""


@dataclass(frozen=True, slots=True)
class _Interval:
    ns: int
    requested_ns: float


class Cadence:
    """Median interval between pictures. One thread calls `note` and `interrupt`; any thread may
    call `period_s`. A period is known after the first interval.

    The lower median counts as the period: at least three of five intervals have to be long before
    it grows. So neither a gap nor a burst changes the period, and a fast camera that falls silent
    keeps its short period.
    """

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._intervals: tuple[_Interval, ...] = ()

    def note(self, at_ns: int, max_fps: float | None) -> None:
        """Records a picture.

        Args:
            at_ns: arrival of the picture, on a monotonic clock.
            max_fps: requested rate, pictures a second; None: every picture.
        """
        if self._last_ns is not None:
            ns = min(at_ns - self._last_ns, _MAX_INTERVAL_NS)
            interval = _Interval(ns, _period_ns(max_fps))
            self._intervals = (*self._intervals[1 - _MEDIAN_OF :], interval)
        self._last_ns = at_ns

    def interrupt(self) -> None:
        """Excludes the interval up to the next picture, because the source is reopened in it."""
        self._last_ns = None

    def period_s(self, max_fps: float | None) -> float | None:
        """Seconds between two pictures at a requested rate; None before the first interval."""
        requested_ns = _period_ns(max_fps)
        own_ns = [
            interval.ns
            for interval in self._intervals
            if interval.requested_ns == requested_ns
            or interval.ns > _OWN_PERIOD_FACTOR * interval.requested_ns
        ]
        return max(statistics.median_low(own_ns), requested_ns) / 1e9 if own_ns else None


def _period_ns(max_fps: float | None) -> float:
    return 1e9 / max_fps if max_fps else 0.0
