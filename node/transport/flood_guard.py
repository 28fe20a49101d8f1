"""FloodGuard: closes connections that send too much while the thread that owns their socket cannot.

Any call on a socket makes libzmq process the messages that have arrived, for as long as more
arrive: peers that send as fast as a loopback or a fast link allows hold the call, and its thread,
without an end. libzmq has no bound for this, so another thread closes the connections.
"""

import threading
import time

from node.transport.connections import Connections

_PERIOD_S = 0.005
_LONG_TURN_S = 0.015
"""A turn of the owning thread takes about a millisecond; a turn that is held has no end. On a busy
computer a turn may be as long without a flood, so the connections' bytes decide what is closed."""


class FloodGuard:
    """A thread beside the thread that owns a socket. The owner marks the begin and the end of each
    turn; a call of libzmq outside of a turn is not guarded."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._began: float | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood-guard", daemon=True)
        self._thread.start()

    def turn_begins(self) -> None:
        """Marks that the owner is about to call libzmq."""
        self._began = time.monotonic()

    def turn_ends(self) -> None:
        """Marks that the owner is about to wait."""
        self._began = None

    def close(self) -> None:
        """Ends the thread. To be called before the connections are closed."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD_S):
            began = self._began
            if began is not None and time.monotonic() - began > _LONG_TURN_S:
                self._connections.close_floods(began)
