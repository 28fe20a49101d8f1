"""Unread: how much of the large answers their clients have not read yet. libzmq keeps what a client
does not read, and counts messages only: who asks for pictures and never reads could fill the
memory."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from node.transport.connections import Connection

MIB = 1024 * 1024
MOST_OF_ONE = 32 * MIB
"""Bytes that may wait for one client; one answer is always sent, however large it is."""
MOST_OF_ALL = 64 * MIB
LARGE_BYTES = 64 * 1024
"""Smaller answers are not counted: their number is limited."""
_SETTLE_S = 0.05
"""After that libzmq has given the kernel what the kernel took of an answer."""


@dataclass(slots=True)
class _Waiting:
    size: int
    since: float


class Unread:
    """One thread. takes_more: whether the kernel would take more for a connection, which it does
    not while some of what was sent before is still with libzmq."""

    def __init__(self, takes_more: Callable[[Connection], bool]) -> None:
        self._takes_more = takes_more
        self._waiting: dict[Connection, _Waiting] = {}

    def admit(self, connection: Connection, size: int) -> bool:
        """Whether an answer may be sent to a client now; if so it counts as sent."""
        if size < LARGE_BYTES:
            return True
        self._forget_what_was_read()
        now = time.monotonic()
        of_one = self._waiting.get(connection, _Waiting(0, now))
        of_all = sum(one.size for one in self._waiting.values())
        if (of_one.size and of_one.size + size > MOST_OF_ONE) or (
            of_all and of_all + size > MOST_OF_ALL
        ):
            return False
        self._waiting[connection] = _Waiting(of_one.size + size, now)
        return True

    def forget(self, connection: Connection) -> None:
        """A client has gone."""
        self._waiting.pop(connection, None)

    def _forget_what_was_read(self) -> None:
        now = time.monotonic()
        for connection, waiting in tuple(self._waiting.items()):
            if now - waiting.since >= _SETTLE_S and self._takes_more(connection):
                del self._waiting[connection]
