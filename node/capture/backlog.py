"""BacklogMeter: the arrival times of a stream's pictures bound how much older each picture can be
than its stamp."""

from collections import deque
from dataclasses import dataclass

_UNKNOWN_FPS, _MOST_FPS = 30.0, 240.0
"""Where a stream names no rate, or one that is none."""
_SHORTEST_NS = 1e9 / 60
"""Period by which missing pictures are counted at least: a file behind an address comes faster."""
MOST_LATE_NS = 100_000_000
"""Hidden age, beyond one of the stream's own periods, above which a picture is too old to show."""
_WAITED = 1 / 4
"""Of a period: a reader that waited so long found nothing in the buffers. Many a camera of 60 fps
says 25."""
_WHOLE, _REGULAR = 0.8, 1.5
"""Of a period: a picture that comes so long after the one before, and was waited for, is none of a
backlog, unless the link carries less than 1.25 times the stream. After a longer time it may be one
of a backlog that stood still."""
_PARTIAL = 2
"""Groups of pictures at opening that may be cut off."""
_SLOW_NS = 1e9
"""Period from which on one picture is enough to tell that no others wait."""
_UNSURE = 0.1
"""Of a period: how wrong the one that was learnt may be."""
_KNOWN = 16
"""Periods learnt from which on the period is held to be known."""
_SLOWEST_WEIGHT = 8
_LONGER = 2
"""Times the usual period above which one is a silence, unless the next is as long."""
_RUSHES = ((75, 250_000_000), (300, 1_000_000_000))
"""So many pictures in so many ns are more than a camera of `_MOST_FPS` takes, jitter counted in."""
_NEVER_WAITED, _NEVER_WAITED_NS = 30, 1_000_000_000
"""Pictures, and time, after which the rate of a stream that was never waited for is learnt all the
same: it may be one of 120 fps that says 25."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Timing of one picture.

    late_ns: the most that it can have been under way or in buffers longer than the pictures usually
    are; old: that is too much, or unknown; periods: how many of the stream's periods it came after
    the one before.
    """

    late_ns: int
    old: bool
    periods: float


class BacklogMeter:
    """Nothing in a stream tells how old a picture is. Where the network, the server or this process
    stood still, the pictures of that time wait in buffers and come all at once; the same at
    opening, where the server sends from its last key frame on and FFmpeg keeps what it probed.

    What is known: a source takes one picture each period. So a picture that comes an interval after
    the one before can be older than that one by the interval less a period, and by no more; this
    sum is its lateness. It falls as a backlog is read, a period with each picture. It ends where a
    reader had to wait about a whole period: then nothing was in the buffers. Until that happened
    for the first time, everything is old, and again after pictures that came faster than any camera
    takes them: they are of a recorded file or a backlog, and pauses between them prove nothing.
    Owned by one thread.

    fps: what the source says of its rate; many say what is not so, and the real one is learnt.
    discard: whether any picture is to be called old. opened_ns: when the opening of the source
    began, CLOCK_MONOTONIC.

    Not found: a link or server that stays slower than its camera for good, and a backlog that comes
    at less than 1.25 times the stream's own rate.
    """

    def __init__(self, fps: float | None, *, discard: bool, opened_ns: int) -> None:
        self._discard = discard
        self._period_ns = 1e9 / (fps if fps and fps <= _MOST_FPS else _UNKNOWN_FPS)
        self._came_ns = opened_ns
        self._late_ns = 0.0
        self._met = False
        self._group = _Group()
        self._groups = 0
        self._learnt = 0
        self._longer_ns = 0.0
        self._opening = True
        self._was_regular = False
        self._recent_ns: deque[int] = deque(maxlen=max(pictures for pictures, _ in _RUSHES))

    def next(self, waited_ns: int, came_ns: int) -> Arrival:
        """Of the picture that came at this moment (CLOCK_MONOTONIC) to a reader who waited so
        long for it."""
        interval_ns, self._came_ns = came_ns - self._came_ns, came_ns
        waited = waited_ns >= _WAITED * self._period_ns and not self._opening
        self._opening = False
        if self._rushes(came_ns):
            self._met = self._was_regular = False
        begins = waited and interval_ns >= _WHOLE * self._period_ns
        group = self._grouped(interval_ns, begins=begins)
        if group is not None:
            self._adopt(group.period_ns)
        together = group is not None and self._are_whole(group)
        regular = begins and (together or self._is_regular(interval_ns))
        self._note_late(interval_ns, begins=begins, regular=regular)
        periods = interval_ns / max(self._period_ns, _SHORTEST_NS)
        old = self._discard and (not self._met or self._late_ns > self._bound_ns)
        return Arrival(round(self._late_ns), old, periods)

    def _rushes(self, came_ns: int) -> bool:
        """Whether pictures come faster than any camera takes them; what is known to be a backlog
        does not count."""
        if self._met and self._late_ns > self._bound_ns:
            return False
        recent_ns = self._recent_ns
        rushes = any(
            len(recent_ns) >= pictures and came_ns - recent_ns[-pictures] < within_ns
            for pictures, within_ns in _RUSHES
        )
        recent_ns.append(came_ns)
        return rushes

    @property
    def _bound_ns(self) -> float:
        return MOST_LATE_NS + self._period_ns

    @property
    def _is_behind(self) -> bool:
        """Whether what comes is known to be a backlog. Before the period is known, the pictures of
        a fast stream that says it is slow only look like one."""
        return self._met and self._learnt >= _KNOWN and self._late_ns > self._bound_ns

    def _is_regular(self, interval_ns: float) -> bool:
        return _WHOLE * self._period_ns <= interval_ns <= _REGULAR * self._period_ns

    def _are_whole(self, group: "_Group") -> bool:
        """Whether pictures that came together are all that were taken in their time. Of a longer
        time more could be missing than the bound allows, for what a period may be off."""
        short = (_REGULAR - 1) / _REGULAR * group.ns <= self._bound_ns
        return group.pictures > 1 and short and self._is_regular(group.period_ns)

    def _note_late(self, interval_ns: int, *, begins: bool, regular: bool) -> None:
        # One alone may be of a backlog that stood still for about a period. A slow stream would
        # lose too much time by it.
        near = self._met and self._late_ns <= self._period_ns
        sure = near or self._was_regular or self._period_ns >= _SLOW_NS
        if begins:
            self._was_regular = regular
        if regular and sure:
            self._late_ns = 0.0
            self._met = True
        period_ns = self._period_ns
        if begins:
            before_ns = max(0.0, self._late_ns - _UNSURE * interval_ns)
            self._late_ns = max(0.0, before_ns + interval_ns - period_ns)
            return
        if self._learnt >= _KNOWN:
            relief_ns = (1 - _UNSURE) * period_ns
        else:  # it may be a fast stream that says it is slow, and comes as it should
            relief_ns = min(max(interval_ns, 1e9 / _MOST_FPS), 1e9 / _UNKNOWN_FPS)
        self._late_ns = max(0.0, self._late_ns + interval_ns - relief_ns)

    def _grouped(self, interval_ns: int, *, begins: bool) -> "_Group | None":
        """The pictures of which it is known now that they came together: one that was waited for
        about a period or longer, and those behind it. What a silence held back makes up for its
        length. Also those of a stream that is much faster than it says."""
        if not begins:
            self._group = self._group.longer(interval_ns)
            if not self._group.is_long or self._is_behind:
                return None
            group, self._group = self._group, _Group()
            if _LONGER * group.period_ns < self._period_ns:  # a camera at daybreak
                self._learnt = 0
            return group
        group, self._group = self._group, _Group(interval_ns, 1)
        self._groups += 1
        # Before the first of them came what had waited at opening, so the time to it is no whole
        # period.
        return group if self._groups > _PARTIAL and group.pictures else None

    def _adopt(self, period_ns: float) -> None:
        if self._learnt and period_ns > _LONGER * self._period_ns:
            before_ns, self._longer_ns = self._longer_ns, period_ns
            if not before_ns / _LONGER < period_ns < before_ns * _LONGER:
                return  # a silence, unless the next is as long
            self._learnt = 0
        self._longer_ns = 0.0
        if self._is_behind and period_ns < self._period_ns:
            return  # the speed of the link, not of the camera
        self._learnt += 1
        weight = 1 / min(self._learnt, _SLOWEST_WEIGHT)
        self._period_ns += weight * (max(period_ns, 1e9 / _MOST_FPS) - self._period_ns)


@dataclass(frozen=True, slots=True)
class _Group:
    """Pictures in a row, and how long they took together."""

    ns: int = 0
    pictures: int = 0

    @property
    def period_ns(self) -> float:
        return self.ns / self.pictures

    @property
    def is_long(self) -> bool:
        return self.pictures >= _NEVER_WAITED and self.ns >= _NEVER_WAITED_NS

    def longer(self, interval_ns: int) -> "_Group":
        return _Group(self.ns + interval_ns, self.pictures + 1)
