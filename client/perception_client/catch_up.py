"""CatchUp: when a subscriber is so far behind that a new connection is its quickest way to what is
new. Needs the standard library only.

A subscriber that did not read for a while fills its own queue, then the kernel's buffers on both
sides; TCP's window is closed then. Once it reads again, the sender's kernel asks for the window
ever more seldom, and hands over what is old in bits, a fifth of a second apart: seconds in which
nothing new comes while the node sends. A new connection has the newest messages at once.

Who reads in order (`receive`, iteration) gets what is old in order and is left alone.
"""

import math
import time
from collections.abc import Sequence

from perception_client.inbox import MOST_DRAINED, RECEIVE_HIGH_WATER_MARK

PATIENCE_S = 0.1
"""How long what is behind a full queue may take to come, before a new connection is made."""
_JOINED_S = 1.0
"""From a new connection to its first messages, at most."""
FULL = RECEIVE_HIGH_WATER_MARK // 2
"""Messages read in one go that show that the queue may have been full: libzmq learns of what was
read at every half. No more are read in one go, as each may be large."""
FOLLOWS_S = 0.03
"""Within which libzmq fills its queue again from what the kernel has, once the queue was read."""
_SETTLES_S = 0.1
"""How long one call waits for what follows on a full queue, where nothing is fresh yet."""

Parts = list[bytes]


class CatchUp:
    """Takes what one reader of one socket found in its queue, and keeps the time since it is
    behind."""

    def __init__(self) -> None:
        self._behind_since_s: float | None = None
        self._connected_s = -math.inf
        self._begun_s = -math.inf
        self._read = 0
        self._was_full = False

    def begin(self) -> None:
        """One call begins to read what is there."""
        self._begun_s = time.monotonic()
        self._read = 0

    def take(self, queued: Sequence[Parts]) -> Sequence[Parts]:
        """What is worth decoding of what was queued: all of it, but of many messages only the
        newest of each topic. Decoding hundreds would take longer than their successors to come."""
        self._read += len(queued)
        self._was_full = len(queued) >= FULL
        if not self._was_full:
            return queued
        self._behind_since_s = time.monotonic()
        return newest(queued)

    def goes_on(self, found: bool) -> bool:
        """Whether the same call has to read on, as soon as more is there (FOLLOWS_S): behind a full
        queue is what is newer, a moment away.

        found: whether what was read is new enough.
        """
        settling = time.monotonic() < self._begun_s + _SETTLES_S
        if self._was_full:
            return settling or self._read < MOST_DRAINED
        return settling and not found and self._behind_since_s is not None

    def found_fresh(self) -> None:
        """What was read is new enough for whoever reads."""
        self._behind_since_s = None

    def connected_anew(self) -> None:
        """The old connection is gone, with all that was in it."""
        self._behind_since_s = None
        self._connected_s = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether to connect anew: what is new has been waited for long enough."""
        return self.left_s(math.inf) <= 0.0

    def left_s(self, otherwise_s: float) -> float:
        """Seconds until a new connection is due; `otherwise_s` where none is going to be."""
        if self._behind_since_s is None:
            return otherwise_s
        return max(0.0, self._behind_since_s + PATIENCE_S - time.monotonic())

    @property
    def is_under_way(self) -> bool:
        """Whether this reader rested, and what is new is still on its way."""
        joining = time.monotonic() - self._connected_s < _JOINED_S
        return joining or self._behind_since_s is not None


def newest(queued: Sequence[Parts]) -> list[Parts]:
    """The newest message of each topic, in the order in which they came."""
    last = {parts[0]: place for place, parts in enumerate(queued)}
    return [queued[place] for place in sorted(last.values())]
