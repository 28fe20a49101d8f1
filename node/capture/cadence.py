"""Cadence: how fast the pictures of a source come, learnt from their coming. What a source says of
its rate is often not so: many a stream of one picture a second claims 25."""

import statistics
from dataclasses import dataclass

_KEPT = 5
"""Intervals whose median is the period: a camera that became slow is believed after three."""
_LONGEST_NS = 60_000_000_000
"""What comes less often is no rhythm, but a camera that is silent again and again."""
_OWN = 1.5
"""Times the period that was asked for; an interval longer than this is the source's own."""


@dataclass(frozen=True, slots=True)
class _Interval:
    ns: int
    asked_ns: float


class Cadence:
    """One thread notes, any may ask. From the first interval on there is a period.

    The slower half of the intervals has to be slow for a slow period, so neither a gap nor a burst
    counts, and a fast camera that falls silent has still been fast.
    """

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._intervals: tuple[_Interval, ...] = ()

    def note(self, at_ns: int, max_fps: float | None) -> None:
        """A picture came, at this moment in ns, of those wanted at this rate."""
        if self._last_ns is not None:
            ns = min(at_ns - self._last_ns, _LONGEST_NS)
            interval = _Interval(ns, _period_ns(max_fps))
            self._intervals = (*self._intervals[1 - _KEPT :], interval)
        self._last_ns = at_ns

    def interrupt(self) -> None:
        """The time until the next picture is not the source's: it is opened anew."""
        self._last_ns = None

    def period_s(self, max_fps: float | None) -> float | None:
        """Seconds between two pictures that are wanted at this rate; None before it is learnt."""
        asked_ns = _period_ns(max_fps)
        own_ns = [
            interval.ns
            for interval in self._intervals
            if interval.asked_ns == asked_ns or interval.ns > _OWN * interval.asked_ns
        ]
        return max(statistics.median_low(own_ns), asked_ns) / 1e9 if own_ns else None


def _period_ns(max_fps: float | None) -> float:
    return 1e9 / max_fps if max_fps else 0.0
