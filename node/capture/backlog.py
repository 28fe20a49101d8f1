"""BacklogMeter: derives from the arrival times of a stream's pictures an upper bound on how much
older each picture is than its stamp."""

from collections import deque
from dataclasses import dataclass

from node.capture.bursts import Bursts

_ASSUMED_FPS, _MAX_FPS = 30.0, 240.0
"""Frame rate assumed for a stream that reports none, and the highest reported rate that is
believed."""
_SHORTEST_NS = 1e9 / 60
"""Shortest period used to count missing pictures: a recorded file served as a stream arrives faster
than it was filmed."""
MOST_LATE_NS = 100_000_000
"""Largest lateness, beyond one period of the stream, of a picture that may still be shown."""
_MIN_EMPTY_WAIT = 1 / 4
"""Fraction of a period. A reader that waited at least this long found the buffers empty. Far below
1, because many cameras run at 60 fps and report 25."""
_MIN_REGULAR, _MAX_REGULAR = 0.8, 1.5
"""Fractions of a period. A picture that the reader waited for, and that came between these
intervals after the previous picture, is not part of a backlog, unless the link carries less than
1.25 times the rate of the stream. After a longer interval the picture may belong to a backlog that
was held up."""
_IGNORED_GROUPS = 2
"""Number of groups at opening that are ignored, because their first pictures may be missing."""
_SLOW_PERIOD_NS = 1e9
"""Period above which one regular picture proves that the buffers are empty."""
_PERIOD_ERROR = 0.1
"""Fraction of a period: the assumed error of the learnt period."""
_KNOWN_AFTER = 16
"""Number of learnt periods after which the period counts as known."""
_MAX_AVERAGED = 8
"""Number of periods over which the learnt period is averaged at most."""
_SILENCE_FACTOR = 2
"""Multiple of the usual period. A longer one counts as a silence, unless the next one is as
long."""
_STEADY = 4
"""Number of consecutive regular single pictures that make a steady stream. Bursts of such a stream
are the link's."""
_FASTEST_ARRIVALS = ((75, 250_000_000), (300, 1_000_000_000))
"""Pairs of (pictures, ns). More pictures in that time than a camera of `_MAX_FPS` can take, jitter
included, come from a buffer or a recorded file."""
_LONG_GROUP, _LONG_GROUP_NS = 30, 1_000_000_000
"""Number of pictures, and time, after which the rate is learnt even from a stream whose reader
never waited: a camera may run at 120 fps and report 25."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Timing of one picture.

    Attributes:
        late_ns: upper bound of the time that the picture spent in transport and buffers beyond the
            stream's usual delay.
        old: `late_ns` is above the limit, or unknown.
        periods: interval since the previous picture, in periods of the stream.
    """

    late_ns: int
    old: bool
    periods: float


class BacklogMeter:
    """Bounds the age of each picture of a stream. Not thread-safe: one thread owns it.

    No field of a stream states the age of a picture. When the network, the server or this process
    stalls, the pictures of that time queue in buffers and then arrive all at once. The same happens
    at opening: the server sends from its last key frame on, and FFmpeg delivers the pictures that
    it probed.

    Derivation: a source takes one picture a period. So a picture that arrives an interval after the
    previous one is older than the previous one by at most the interval less a period. The sum of
    these differences is the lateness. The lateness falls by up to a period with each picture while
    a backlog is read, and is reset to 0 when the reader waited for about a whole period, since the
    buffers were empty then. Before the first such wait every picture counts as old. The same holds
    after pictures that arrive faster than any camera takes them: these come from a recorded file or
    a backlog, and pauses between them prove nothing. A stream that comes in regular bursts from the
    beginning has no such wait; see `Bursts`.

    Not detected: a link or server that is permanently slower than its camera, and a backlog that
    arrives at less than 1.25 times the stream's own rate.

    Args:
        fps: the rate that the source reports; many sources report a wrong rate, so the real one is
            learnt.
        discard: whether pictures may be marked old.
        opened_ns: start of the opening of the source, CLOCK_MONOTONIC.
    """

    def __init__(self, fps: float | None, *, discard: bool, opened_ns: int) -> None:
        self._discard = discard
        self._period_ns = 1e9 / (fps if fps and fps <= _MAX_FPS else _ASSUMED_FPS)
        self._arrival_ns = opened_ns
        self._late_ns = 0.0
        self._was_empty = self._was_steady = False
        self._regular_singles = 0
        self._group = _Group()
        self._bursts = Bursts(1e9 / _MAX_FPS)
        self._groups = 0
        self._learnt = 0
        self._previous_long_ns = 0.0
        self._opening = True
        self._was_regular = False
        self._recent_ns: deque[int] = deque(
            maxlen=max(pictures for pictures, _ in _FASTEST_ARRIVALS)
        )

    @property
    def burst_s(self) -> float | None:
        """Seconds from burst to burst of a stream that comes in regular bursts; None for another.
        Any thread may read it."""
        return None if self._was_steady else self._bursts.span_s

    def next(self, waited_ns: int, came_ns: int) -> Arrival:
        """Returns the timing of the next picture.

        Args:
            waited_ns: how long the reader waited for the picture.
            came_ns: arrival of the picture, CLOCK_MONOTONIC.
        """
        interval_ns, self._arrival_ns = came_ns - self._arrival_ns, came_ns
        waited = waited_ns >= _MIN_EMPTY_WAIT * self._period_ns and not self._opening
        self._opening = False
        if self._is_too_fast(came_ns):
            self._was_empty = self._was_regular = False
        begins = waited and interval_ns >= _MIN_REGULAR * self._period_ns
        group = self._add_to_group(interval_ns, begins=begins)
        if group is not None:
            self._learn_period(group.period_ns)
        is_complete_group = group is not None and self._is_complete(group)
        regular = begins and (is_complete_group or self._is_regular(interval_ns))
        self._update_lateness(interval_ns, begins=begins, regular=regular)
        periods = interval_ns / max(self._period_ns, _SHORTEST_NS)
        late_ns, is_known, bound_ns = self._late_ns, self._was_empty, self._bound_ns
        burst_late_ns = self._bursts.late_ns(came_ns, begins=begins)
        if begins:
            is_single = regular and group is not None and group.pictures == 1
            self._regular_singles = self._regular_singles + 1 if is_single else 0
            self._was_steady |= self._regular_singles >= _STEADY
        if burst_late_ns is not None and not (
            is_known and (self._was_steady or late_ns <= burst_late_ns)
        ):
            late_ns, is_known = burst_late_ns, True
            bound_ns = MOST_LATE_NS + (self._bursts.period_ns or 0.0)
        is_old = self._discard and (not is_known or late_ns > bound_ns)
        return Arrival(round(late_ns), is_old, periods)

    def _is_too_fast(self, came_ns: int) -> bool:
        """Whether pictures arrive faster than any camera takes them. Pictures of a known backlog
        are not counted."""
        if self._was_empty and self._late_ns > self._bound_ns:
            return False
        recent_ns = self._recent_ns
        is_too_fast = any(
            len(recent_ns) >= pictures and came_ns - recent_ns[-pictures] < within_ns
            for pictures, within_ns in _FASTEST_ARRIVALS
        )
        recent_ns.append(came_ns)
        return is_too_fast

    @property
    def _bound_ns(self) -> float:
        return MOST_LATE_NS + self._period_ns

    @property
    def _is_behind(self) -> bool:
        """Whether the pictures are known to come from a backlog. Requires a known period: a fast
        stream that reports a slow rate looks like a backlog before."""
        return self._was_empty and self._learnt >= _KNOWN_AFTER and self._late_ns > self._bound_ns

    def _is_regular(self, interval_ns: float) -> bool:
        return _MIN_REGULAR * self._period_ns <= interval_ns <= _MAX_REGULAR * self._period_ns

    def _is_complete(self, group: "_Group") -> bool:
        """Whether a group holds every picture that the source took in its time. In a longer group,
        the error of the period could hide more missing pictures than the bound allows."""
        is_short = (_MAX_REGULAR - 1) / _MAX_REGULAR * group.ns <= self._bound_ns
        return group.pictures > 1 and is_short and self._is_regular(group.period_ns)

    def _update_lateness(self, interval_ns: int, *, begins: bool, regular: bool) -> None:
        # A single regular picture may belong to a backlog that was held up for about a period. A
        # slow stream would lose too much time by waiting for a second one.
        is_near = self._was_empty and self._late_ns <= self._period_ns
        is_certain = is_near or self._was_regular or self._period_ns >= _SLOW_PERIOD_NS
        if begins:
            self._was_regular = regular
        if regular and is_certain:
            self._late_ns = 0.0
            self._was_empty = True
        period_ns = self._period_ns
        if begins:
            previous_ns = max(0.0, self._late_ns - _PERIOD_ERROR * interval_ns)
            self._late_ns = max(0.0, previous_ns + interval_ns - period_ns)
            return
        if self._learnt >= _KNOWN_AFTER:
            relief_ns = (1 - _PERIOD_ERROR) * period_ns
        else:
            # A fast stream that reports a slow rate may arrive exactly on time.
            relief_ns = min(max(interval_ns, 1e9 / _MAX_FPS), 1e9 / _ASSUMED_FPS)
        self._late_ns = max(0.0, self._late_ns + interval_ns - relief_ns)

    def _add_to_group(self, interval_ns: int, *, begins: bool) -> "_Group | None":
        """Returns the group that this picture completes, None for none. A group is one picture that
        was waited for, about a period or longer, and the pictures that follow it without a wait:
        after a silence, the pictures that it held back make up for its length. A long run without
        any wait also makes a group, since a stream may be much faster than it reports."""
        if not begins:
            self._group = self._group.longer(interval_ns)
            if not self._group.is_long or self._is_behind:
                return None
            group, self._group = self._group, _Group()
            # A camera whose rate rises with daylight.
            if _SILENCE_FACTOR * group.period_ns < self._period_ns:
                self._learnt = 0
            return group
        group, self._group = self._group, _Group(interval_ns, 1)
        self._groups += 1
        # The first group follows the pictures buffered at opening, so the interval before it is not
        # a whole period.
        return group if self._groups > _IGNORED_GROUPS and group.pictures else None

    def _learn_period(self, period_ns: float) -> None:
        if self._learnt and period_ns > _SILENCE_FACTOR * self._period_ns:
            previous_ns, self._previous_long_ns = self._previous_long_ns, period_ns
            if not previous_ns / _SILENCE_FACTOR < period_ns < previous_ns * _SILENCE_FACTOR:
                return  # A silence, unless the next is as long.
            self._learnt = 0
        self._previous_long_ns = 0.0
        if self._is_behind and period_ns < self._period_ns:
            return  # The rate of the link, not of the camera.
        self._learnt += 1
        weight = 1 / min(self._learnt, _MAX_AVERAGED)
        self._period_ns += weight * (max(period_ns, 1e9 / _MAX_FPS) - self._period_ns)


@dataclass(frozen=True, slots=True)
class _Group:
    """Consecutive pictures, and the total of their intervals."""

    ns: int = 0
    pictures: int = 0

    @property
    def period_ns(self) -> float:
        return self.ns / self.pictures

    @property
    def is_long(self) -> bool:
        return self.pictures >= _LONG_GROUP and self.ns >= _LONG_GROUP_NS

    def longer(self, interval_ns: int) -> "_Group":
        return _Group(self.ns + interval_ns, self.pictures + 1)
