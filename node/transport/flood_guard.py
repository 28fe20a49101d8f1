"""FloodGuard: closes connections that send too much while the thread that owns their socket cannot.

libzmq reads what has come to a socket inside of whatever call is made on it, as long as more comes:
peers that send as fast as a loopback or a fast link allows hold that call, and the thread in it,
for as long as they like. Nothing in libzmq bounds this; who sends too much is closed from outside.
"""

import threading
import time

from node.transport.connections import Connections

_PERIOD_S = 0.005
_LONG_TURN_S = 0.015
"""A turn of the owning thread takes about a millisecond; one that is stuck has no end."""


class FloodGuard:
    """A thread beside the one that owns a socket, which tells it when a turn begins and ends."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._began: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood-guard", daemon=True)
        self._thread.start()

    def turn_begins(self) -> None:
        """The owning thread is about to call libzmq."""
        self._began = time.monotonic()

    def turn_ends(self) -> None:
        """It is about to wait."""
        self._began = None

    def close(self) -> None:
        """Before the connections are closed."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD_S):
            began = self._began
            if began is not None and time.monotonic() - began > _LONG_TURN_S:
                self._connections.close_floods(began)
