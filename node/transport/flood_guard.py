"""FloodGuard: closes connections that send too much while the thread that owns their socket cannot.

Any call on a socket makes libzmq process the messages that have arrived, for as long as more
arrive: peers that send as fast as a loopback or a fast link allows hold the call, and its thread,
without an end. libzmq has no bound for this, so another thread closes the connections.
"""

import threading
import time
from dataclasses import dataclass

from node.transport.connections import Connections

_PERIOD_S = 0.005
_LONG_TURN_S = 0.015
"""Processor time of a turn of the owning thread, which takes about a millisecond; a turn that is
held reads without an end. On a busy computer a turn may also wait for a processor, for long, and
nobody floods the socket."""


class FloodGuard:
    """A thread beside the thread that owns a socket. The owner marks the begin and the end of each
    turn; a call of libzmq outside of a turn is not guarded."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._turn: _Turn | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood-guard", daemon=True)
        self._thread.start()

    def turn_begins(self) -> None:
        """Marks that the owner is about to call libzmq."""
        clock = time.pthread_getcpuclockid(threading.get_ident())
        self._turn = _Turn(time.monotonic(), clock, time.clock_gettime(clock))

    def turn_ends(self) -> None:
        """Marks that the owner is about to wait."""
        self._turn = None

    def close(self) -> None:
        """Ends the thread. To be called before the connections are closed."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(_PERIOD_S):
            turn = self._turn
            if turn is not None and turn.used_s() > _LONG_TURN_S:
                self._connections.close_floods(turn.began_s)


@dataclass(frozen=True, slots=True)
class _Turn:
    """began_s: on CLOCK_MONOTONIC. clock: of the owner's processor time. began_cpu_s: its time at
    the begin."""

    began_s: float
    clock: int
    began_cpu_s: float

    def used_s(self) -> float:
        """Processor time of the owner since then, in seconds; 0 after the owner's end."""
        try:
            return time.clock_gettime(self.clock) - self.began_cpu_s
        except OSError:
            return 0.0
