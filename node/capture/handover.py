"""Hand-overs: where undecoded pictures wait between the thread that reads a stream and the one that
decodes it. All are bounded, so no age and no memory can grow there."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from node.capture.backlog import MOST_LATE_NS, Arrival
from node.capture.shortfall import Shortfall
from node.errors import BacklogError
from node.image.frame import Stamp

MOST_WAITING_NS = 500_000_000
"""How long a picture may wait to be decoded. More is given up up to a key frame."""
MOST_PICTURES, MOST_BYTES = 256, 16 * 2**20
"""That may wait; one picture may, however large it is."""
NEWER_WINS_NS = 50_000_000
"""How long a picture that stands alone may wait until a newer one takes its place. Less is no sign
of a slow decoder: Wi-Fi and some servers pass pictures on in groups."""
USELESS_NS, USELESS = 1_000_000_000, 8
"""Time and pictures after which `take` raises BacklogError: they come and none can be shown."""
_GLANCE_S = 0.2
"""How often a waiting thread checks for that."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One picture as it came, undecoded.

    is_key: a decoder can begin with it. dropped: pictures given up before it, since the last one
    that was taken. follows: it is the next one of its stream, so a decoder can go on with it.
    """

    data: bytes
    stamp: Stamp
    is_key: bool
    arrival: Arrival
    dropped: int = 0
    follows: bool = True

    @property
    def came_ns(self) -> int:
        """When it came, on CLOCK_MONOTONIC."""
        assert self.stamp.mono_ns is not None
        return self.stamp.mono_ns

    @property
    def periods(self) -> float:
        """How many periods after the one before that was taken; infinite where one is missing."""
        return self.arrival.periods if self.follows else math.inf


class HandOver:
    """Every picture, in order: who puts waits while it is full."""

    def __init__(
        self, shortfall: Shortfall, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._shortfall = shortfall
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._waiting: deque[Packet] = deque()
        self._bytes = 0
        self._dropped = 0
        self._end: Exception | None = None
        self._closed = False
        self._came = 0
        self._shown_ns = clock_ns()

    @property
    def waiting(self) -> int:
        """Pictures that wait now."""
        return len(self._waiting)

    def put(self, packet: Packet) -> None:
        """Leaves a picture for the taker."""
        with self._changed:
            self._came += 1
            self._shortfall.came()
            admitted = self._admitted(packet)
            if admitted is not None:
                self._waiting.append(admitted)
                self._bytes += len(admitted.data)
                self._changed.notify_all()

    def end(self, error: Exception) -> None:
        """No more pictures come; `take` raises this once all are taken."""
        with self._changed:
            self._end = error
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the taking: a thread that waits in `put` goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> Packet:
        """The next picture to decode. Raises BacklogError where pictures come and none was shown
        for a second; what ended the stream, at its end."""
        with self._changed:
            while True:
                self._raise_if_useless()
                self._skim()
                if self._waiting:
                    return self._taken()
                if self._end is not None:
                    raise self._end
                self._changed.wait(_GLANCE_S)

    def shown(self) -> None:
        """The taker could show a picture."""
        with self._changed:
            self._came, self._shown_ns = 0, self._clock_ns()
            self._shortfall.shown()

    def _admitted(self, packet: Packet) -> Packet | None:
        """A picture that comes, as it is to wait; None where it is not to."""
        while self._full and not self._closed:
            self._changed.wait(_GLANCE_S)
        return None if self._closed else packet

    def _skim(self) -> None:
        """Gives up what need not be decoded."""

    @property
    def _full(self) -> bool:
        return len(self._waiting) >= MOST_PICTURES or self._bytes >= MOST_BYTES

    def _taken(self) -> Packet:
        packet = self._waiting.popleft()
        self._bytes -= len(packet.data)
        dropped, self._dropped = self._dropped, 0
        self._changed.notify_all()
        return replace(packet, dropped=dropped) if dropped else packet

    def _drop(self, pictures: int) -> None:
        """Gives up so many, oldest first."""
        for _ in range(pictures):
            packet = self._waiting.popleft()
            self._bytes -= len(packet.data)
            self._count(packet)

    def _count(self, packet: Packet) -> None:
        self._dropped += 1
        self._shortfall.passed(1, "late" if packet.arrival.old else "slow")

    def _raise_if_useless(self) -> None:
        now_ns = self._clock_ns()
        if now_ns - self._shown_ns < USELESS_NS or self._came < USELESS:
            return
        self._came, self._shown_ns = 0, now_ns
        raise BacklogError(self._shortfall.complaint)


class NewestPicture(HandOver):
    """The newest picture wins over those that waited for long, where each stands alone: motion
    JPEG."""

    def _admitted(self, packet: Packet) -> Packet | None:
        if packet.arrival.old:
            self._count(packet)
            return None
        if self._full:
            self._drop(len(self._waiting))
        return packet

    def _skim(self) -> None:
        if self._waiting and self._clock_ns() - self._waiting[0].came_ns > NEWER_WINS_NS:
            self._drop(len(self._waiting) - 1)


class NewestKey(HandOver):
    """A picture is decoded after those that it builds on. Who falls behind goes on with the newest
    key frame that is there; where none is, and it waited for too long, all is given up until the
    next comes."""

    _needs_key = False

    def _admitted(self, packet: Packet) -> Packet | None:
        if self._full:
            self._give_up()
        if not self._needs_key:
            return packet
        if not packet.is_key:
            self._count(packet)
            return None
        self._needs_key = False
        return replace(packet, follows=False)

    def _skim(self) -> None:
        if not self._waiting:
            return
        head = self._waiting[0]
        waits_ns = self._clock_ns() - head.came_ns
        if not head.arrival.old and waits_ns + head.arrival.late_ns <= MOST_LATE_NS:
            return
        newest = max((at for at, x in enumerate(self._waiting) if x.is_key), default=0)
        if newest:
            self._drop(newest)
            self._waiting[0] = replace(self._waiting[0], follows=False)
        elif waits_ns > MOST_WAITING_NS and not head.is_key:
            self._give_up()

    def _give_up(self) -> None:
        self._drop(len(self._waiting))
        self._needs_key = True
