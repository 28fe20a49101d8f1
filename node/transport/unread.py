"""Unread: limits the memory of large answers that their clients have not read yet. libzmq keeps
unread messages and limits their number only: a client that requests pictures and never reads could
fill the memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from node.transport.connections import Connection

MIB = 1024 * 1024
MOST_OF_ONE = 32 * MIB
"""Most bytes that wait for one client; the first answer is sent whatever its size."""
MOST_OF_ALL = 64 * MIB
LARGE_BYTES = 64 * 1024
"""Smaller answers do not count: their number is limited."""
_SETTLE_S = 0.05
"""Time after which libzmq has handed to the kernel what the kernel accepts of an answer."""


@dataclass(slots=True)
class _Waiting:
    size: int
    since: float


class Unread:
    """Used by one thread. takes_more: whether the kernel accepts more bytes for a connection; false
    while libzmq still has bytes of an earlier answer."""

    def __init__(self, takes_more: Callable[[Connection], bool]) -> None:
        self._takes_more = takes_more
        self._waiting: dict[Connection, _Waiting] = {}

    def admit(self, connection: Connection, size: int) -> bool:
        """Whether an answer of `size` bytes may be sent to a client now; it then counts as sent."""
        if size < LARGE_BYTES:
            return True
        self._forget_what_was_read()
        now = time.monotonic()
        of_one = self._waiting.get(connection, _Waiting(0, now))
        of_all = sum(waiting.size for waiting in self._waiting.values())
        if (of_one.size and of_one.size + size > MOST_OF_ONE) or (
            of_all and of_all + size > MOST_OF_ALL
        ):
            return False
        self._waiting[connection] = _Waiting(of_one.size + size, now)
        return True

    def forget(self, connection: Connection) -> None:
        """Forgets a client that has disconnected."""
        self._waiting.pop(connection, None)

    def _forget_what_was_read(self) -> None:
        now = time.monotonic()
        for connection, waiting in tuple(self._waiting.items()):
            if now - waiting.since >= _SETTLE_S and self._takes_more(connection):
                del self._waiting[connection]
