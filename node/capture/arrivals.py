"""Arrivals: when the pictures of a stream come tells which of them had waited in a buffer, and how
many may be missing before one."""

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)

_UNKNOWN_FPS, _MOST_FPS = 30.0, 240.0
"""Where a stream names no rate, or one that is none."""
_SHORTEST_NS = 1e9 / 60
"""Period by which missing pictures are counted at least: a file behind an address comes faster."""
_SILENCE_NS = 500_000_000
"""Silence after which pictures may be too old; of less than this, none is."""
_PERIODS_OF_SILENCE = 3
_WAITED = 1 / 3
"""Of a period: who has to wait so long is not behind. Many a camera of 60 fps says 25."""
_LEAST_NS, _MOST_NS = 1_000_000_000, 5_000_000_000
"""How long pictures are passed over at most, beginning with the first after a silence."""
_WEIGHT = 1 / 8
_STEEPEST = 8
"""Times the usual period that one interval counts for in the average at most."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Of one picture. old: it had waited in a buffer, for nobody knows how long. periods: how many
    of the stream's periods it came after the one before."""

    old: bool
    periods: float


class Arrivals:
    """Nothing in a stream tells how old a picture is. Where the network, the server or this process
    stood still, the pictures of that time wait in buffers and come all at once; the same at
    opening, where the server sends from its last key frame on and FFmpeg keeps what it probed. So
    after a silence pictures are held to be old until one has to be waited for. Owned by one thread.

    fps: what the source says of its rate; many say what is not so, and the real one is learnt.
    discard: whether any picture is to be called old.
    """

    def __init__(self, who: str, fps: float | None, *, discard: bool) -> None:
        self._who = who
        self._discard = discard
        self._period_ns = 1e9 / (fps if fps and fps <= _MOST_FPS else _UNKNOWN_FPS)
        self._came_ns: int | None = None
        self._until_ns: int | None = None
        self._passed = 0

    def next(self, asked_ns: int, came_ns: int) -> Arrival:
        """Of the picture that was asked for and came at these moments (CLOCK_MONOTONIC)."""
        before_ns, self._came_ns = self._came_ns, came_ns
        if before_ns is None:
            return Arrival(self._begins(came_ns, 0), 1.0)
        interval_ns = came_ns - before_ns
        periods = interval_ns / max(self._period_ns, _SHORTEST_NS)
        silent = interval_ns > max(_SILENCE_NS, _PERIODS_OF_SILENCE * self._period_ns)
        # The first after a silence ends it, whether or not it had to be waited for, in a stream
        # that is slow; in one that is not, another silence has begun among what waited.
        if self._until_ns is not None and not (silent and self._passed > 1):
            old = self._goes_on(asked_ns, came_ns)
        elif silent:
            old = self._begins(came_ns, interval_ns)
        else:
            old = False
        if not old:
            most_ns = _STEEPEST * self._period_ns
            self._period_ns += _WEIGHT * (min(interval_ns, most_ns) - self._period_ns)
        return Arrival(old, periods)

    def _begins(self, came_ns: int, silence_ns: int) -> bool:
        if self._discard:
            self._until_ns = came_ns + max(_LEAST_NS, min(silence_ns, _MOST_NS))
            self._passed = 1
        return self._discard

    def _goes_on(self, asked_ns: int, came_ns: int) -> bool:
        assert self._until_ns is not None
        waited = came_ns - asked_ns >= _WAITED * self._period_ns
        if not waited and came_ns < self._until_ns:
            self._passed += 1
            return True
        self._until_ns = None
        if not waited:
            log.warning(
                "%s: pictures come faster than they can be read, and are older than their stamps "
                "say; lower their rate or size",
                self._who,
            )
        elif self._passed > 1:
            log.info("%s: passed over %d pictures of before", self._who, self._passed)
        return False
