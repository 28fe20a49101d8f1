"""Hand-overs: bounded queues of undecoded pictures between the thread that reads a stream and the
thread that decodes it. Age and memory are bounded."""

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
"""Longest time that a picture may wait for the decoder. After that, all pictures up to the next key
frame are dropped."""
MOST_PICTURES, MOST_BYTES = 256, 16 * 2**20
"""Most pictures and bytes in the queue. A single picture may exceed the bytes."""
NEWER_WINS_NS = 50_000_000
"""Longest time that an independently coded picture waits before a newer one replaces it. A shorter
wait does not mean a slow decoder: Wi-Fi and some servers deliver pictures in groups."""
USELESS_NS, USELESS = 1_000_000_000, 8
"""Time, and number of pictures, without a shown picture after which `take` raises BacklogError."""
_CHECK_INTERVAL_S = 0.2
"""Seconds between two checks of these limits by a blocked thread."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One undecoded picture.

    Attributes:
        data: the coded bytes.
        stamp: arrival of the bytes.
        is_key: whether a decoder can start with it.
        arrival: its timing.
        dropped: pictures dropped between the previous taken packet and this one.
        follows: whether it directly follows the previous packet of its stream, so that a decoder
            can continue with it.
    """

    data: bytes
    stamp: Stamp
    is_key: bool
    arrival: Arrival
    dropped: int = 0
    follows: bool = True

    @property
    def came_ns(self) -> int:
        """Arrival, CLOCK_MONOTONIC."""
        assert self.stamp.mono_ns is not None
        return self.stamp.mono_ns

    @property
    def periods(self) -> float:
        """Periods since the previous taken packet; infinite if packets between them are missing."""
        return self.arrival.periods if self.follows else math.inf


class HandOver:
    """Passes every picture in order; `put` blocks while the queue is full.

    Args:
        shortfall: counts the pictures that are not shown.
        clock_ns: a monotonic clock.
    """

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
        self._arrived = 0
        self._shown_ns = clock_ns()

    @property
    def waiting(self) -> int:
        """Number of queued pictures."""
        return len(self._waiting)

    def put(self, packet: Packet) -> None:
        """Queues a picture."""
        with self._changed:
            self._arrived += 1
            self._shortfall.came()
            accepted = self._admit(packet)
            if accepted is not None:
                self._waiting.append(accepted)
                self._bytes += len(accepted.data)
                self._changed.notify_all()

    def end(self, error: Exception) -> None:
        """Marks the end of the stream: `take` raises `error` once the queue is empty."""
        with self._changed:
            self._end = error
            self._changed.notify_all()

    def close(self) -> None:
        """Releases a thread that is blocked in `put`; later pictures are discarded."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> Packet:
        """Returns the next picture to decode; blocks until there is one.

        Raises:
            BacklogError: pictures arrive, but for a second none could be shown.
            Exception: the error given to `end`, once the queue is empty.
        """
        with self._changed:
            while True:
                self._raise_if_useless()
                self._drop_superseded()
                if self._waiting:
                    return self._pop()
                if self._end is not None:
                    raise self._end
                self._changed.wait(_CHECK_INTERVAL_S)

    def shown(self) -> None:
        """Records that the consumer could show a picture."""
        with self._changed:
            self._arrived, self._shown_ns = 0, self._clock_ns()
            self._shortfall.shown()

    def _admit(self, packet: Packet) -> Packet | None:
        """Returns the picture to queue; None to discard it."""
        while self._is_full and not self._closed:
            self._changed.wait(_CHECK_INTERVAL_S)
        return None if self._closed else packet

    def _drop_superseded(self) -> None:
        """Drops queued pictures that need not be decoded."""

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) >= MOST_PICTURES or self._bytes >= MOST_BYTES

    def _pop(self) -> Packet:
        packet = self._waiting.popleft()
        self._bytes -= len(packet.data)
        dropped, self._dropped = self._dropped, 0
        self._changed.notify_all()
        return replace(packet, dropped=dropped) if dropped else packet

    def _drop(self, pictures: int) -> None:
        """Drops the given number of pictures, oldest first."""
        for _ in range(pictures):
            packet = self._waiting.popleft()
            self._bytes -= len(packet.data)
            self._count_dropped(packet)

    def _count_dropped(self, packet: Packet) -> None:
        self._dropped += 1
        self._shortfall.passed(1, "late" if packet.arrival.old else "slow")

    def _raise_if_useless(self) -> None:
        now_ns = self._clock_ns()
        if now_ns - self._shown_ns < USELESS_NS or self._arrived < USELESS:
            return
        self._arrived, self._shown_ns = 0, now_ns
        raise BacklogError(self._shortfall.complaint)


class NewestPicture(HandOver):
    """Drops all queued pictures but the newest once the oldest has waited for NEWER_WINS_NS. For
    independently coded pictures (motion JPEG)."""

    def _admit(self, packet: Packet) -> Packet | None:
        if packet.arrival.old:
            self._count_dropped(packet)
            return None
        if self._is_full:
            self._drop(len(self._waiting))
        return packet

    def _drop_superseded(self) -> None:
        if self._waiting and self._clock_ns() - self._waiting[0].came_ns > NEWER_WINS_NS:
            self._drop(len(self._waiting) - 1)


class NewestKey(HandOver):
    """Drops whole runs of pictures, because a picture is decodable only after the pictures that it
    refers to. When the decoder falls behind, it continues at the newest queued key frame. If none
    is queued and the oldest picture has waited for too long, all pictures up to the next key frame
    are dropped."""

    _needs_key = False

    def _admit(self, packet: Packet) -> Packet | None:
        if self._is_full:
            self._drop_until_key()
        if not self._needs_key:
            return packet
        if not packet.is_key:
            self._count_dropped(packet)
            return None
        self._needs_key = False
        return replace(packet, follows=False)

    def _drop_superseded(self) -> None:
        if not self._waiting:
            return
        head = self._waiting[0]
        waited_ns = self._clock_ns() - head.came_ns
        if not head.arrival.old and waited_ns + head.arrival.late_ns <= MOST_LATE_NS:
            return
        newest_key = max(
            (index for index, packet in enumerate(self._waiting) if packet.is_key), default=0
        )
        if newest_key:
            self._drop(newest_key)
            self._waiting[0] = replace(self._waiting[0], follows=False)
        elif waited_ns > MOST_WAITING_NS and not head.is_key:
            self._drop_until_key()

    def _drop_until_key(self) -> None:
        self._drop(len(self._waiting))
        self._needs_key = True
