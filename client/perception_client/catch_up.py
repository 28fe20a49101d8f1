"""CatchUp: decides when a subscriber is so far behind that a new connection is the quickest way to
new messages. Needs the standard library only.

A subscriber that did not read for a while fills its own queue, then the kernel's buffers on both
sides, which closes TCP's window. Once the subscriber reads again, the sender's kernel probes the
window at growing intervals, and hands over old messages in pieces, a fifth of a second apart: for
seconds no new message comes while the node sends. A new connection gets the newest ones at once.

A subscriber that reads in order (`receive`, iteration) gets the old messages in order, and keeps
its connection.
"""

import math
import time
from collections.abc import Sequence

from perception_client.inbox import MOST_DRAINED, RECEIVE_HIGH_WATER_MARK

PATIENCE_S = 0.1
"""Longest wait for the messages behind a full queue, before a new connection is made."""
_JOINED_S = 1.0
"""Longest time from a new connection to its first messages."""
FULL = RECEIVE_HIGH_WATER_MARK // 2
"""Messages read in one go that show that the queue may have been full: libzmq learns at each half
of the queue what was read. No more are read in one go, as each may be large."""
FOLLOWS_S = 0.03
"""Longest time that libzmq takes to refill its queue from the kernel's buffers, after a read."""
_SETTLES_S = 0.1
"""How long one call waits for the messages behind a full queue, while none is fresh."""

Parts = list[bytes]


class CatchUp:
    """Follows the queue of one socket, and keeps the time since its reader is behind."""

    def __init__(self) -> None:
        self._behind_since_s: float | None = None
        self._connected_s = -math.inf
        self._begun_s = -math.inf
        self._read = 0
        self._was_full = False
        self._follows_full = False

    def begin(self) -> None:
        """At the beginning of each call that reads the queue."""
        self._begun_s = time.monotonic()
        self._read = 0
        self._was_full = False

    def take(self, queued: Sequence[Parts]) -> Sequence[Parts]:
        """The messages that are worth decoding: all, but of a full queue only the newest of each
        topic. Decoding hundreds would take longer than their successors take to come."""
        self._read += len(queued)
        was_full, self._was_full = self._was_full, len(queued) >= FULL
        self._follows_full = was_full and not self._was_full
        if not self._was_full:
            return queued
        self._behind_since_s = time.monotonic()
        return newest(queued)

    def goes_on(self, is_fresh: bool) -> bool:
        """Whether the same call has to read on as soon as more is there (FOLLOWS_S): newer messages
        follow a full queue within a moment.

        is_fresh: whether a message that was read is fresh enough.
        """
        settling = time.monotonic() < self._begun_s + _SETTLES_S
        if self._was_full:
            return settling or self._read < MOST_DRAINED
        if self._follows_full:  # the rest of a queue of which `wait` took the first message
            return settling
        return settling and not is_fresh and self._behind_since_s is not None

    def found_fresh(self) -> None:
        """A message that was read is fresh enough for the caller."""
        self._behind_since_s = None

    def connected_anew(self) -> None:
        """The old connection was closed, and the messages in it are lost."""
        self._behind_since_s = None
        self._connected_s = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether to make a new connection now."""
        return self.left_s(math.inf) <= 0.0

    def left_s(self, otherwise_s: float) -> float:
        """Seconds until a new connection is due; `otherwise_s` where none is."""
        if self._behind_since_s is None:
            return otherwise_s
        return max(0.0, self._behind_since_s + PATIENCE_S - time.monotonic())

    @property
    def is_under_way(self) -> bool:
        """Whether the reader did not read for a while, and new messages are still on their way."""
        joining = time.monotonic() - self._connected_s < _JOINED_S
        return joining or self._behind_since_s is not None


def newest(queued: Sequence[Parts]) -> list[Parts]:
    """The newest message of each topic, in the order in which they came."""
    last = {parts[0]: index for index, parts in enumerate(queued)}
    return [queued[index] for index in sorted(last.values())]
