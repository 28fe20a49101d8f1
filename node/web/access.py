"""Gate: limits the connections of the page in number, in idle time and in processor time."""

import asyncio
import contextlib
import fcntl
import struct
import termios
import time
from collections.abc import Callable
from typing import cast

MOST_CONNECTIONS = 64
IDLE_S = 10.0
"""How long a connection may be idle: before the first request, between two requests, while a
request arrives, and while the client does not read its answer."""
WORK_S = 45.0
"""Longest time of an answer; a live view (WebSocket) has heartbeats instead."""
SWEEP_S = 1.0
SHARE = 0.15
"""Processor time of the server's thread in the long run, of one core. While the thread works, the
inference waits for Python's lock, so a flood of requests would slow it down."""
BURST_S = 0.1
"""Processor time at once: a page with its files takes 0.02 s."""
REST_S = 0.05
"""Longest rest before one connection or request: the live views of others wait for it too."""


class Gate:
    """Admits connections to the protocols of an HTTP server. Used on the loop of the server
    only."""

    def __init__(self, inner: Callable[[], asyncio.Protocol]) -> None:
        self._inner = inner
        self._open: dict[asyncio.BaseTransport, _Guarded] = {}
        self.brake = Brake(SHARE, BURST_S, REST_S)

    def __call__(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return _Guarded(self, self._inner())

    def working(self, transport: asyncio.BaseTransport | None, *, endless: bool = False) -> None:
        """Marks a connection as busy with an answer. endless: the answer is a live view."""
        guarded = self._open.get(transport) if transport is not None else None
        if guarded is not None:
            now = asyncio.get_running_loop().time()
            guarded.working = True
            guarded.until = float("inf") if endless else now + WORK_S

    def idle(self, transport: asyncio.BaseTransport | None) -> None:
        """Marks a connection as idle: its request is answered, up to the bytes still to be sent."""
        guarded = self._open.get(transport) if transport is not None else None
        if guarded is not None:
            guarded.rest()

    async def look_after(self) -> None:
        """Ends connections that are idle for too long, until it is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            for transport, guarded in tuple(self._open.items()):
                guarded.look_for_progress()
                if (
                    transport.is_closing()
                ):  # the rest of an answer has the time of an idle connection
                    guarded.until = min(guarded.until, now + IDLE_S)
                if guarded.until <= now:
                    cast(asyncio.Transport, transport).abort()

    def enter(self, transport: asyncio.Transport, guarded: "_Guarded") -> None:
        """Notes a connection. Beyond the limit, ends the one that is idle for longest, else this
        one."""
        self._open[transport] = guarded
        if len(self._open) > MOST_CONNECTIONS:
            idle = [
                (connection.until, number)
                for number, connection in enumerate(self._open.values())
                if not connection.working
            ]
            number = min(idle)[1] if idle else len(self._open) - 1
            victim = tuple(self._open)[number]
            del self._open[victim]
            cast(asyncio.Transport, victim).abort()

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """Notes the end of a connection."""
        self._open.pop(transport, None)


class Brake:
    """Bounds the processor time of the thread that uses it.

    share: of one core, in the long run. burst_s: processor time at once. rest_s: longest rest; what
    the thread used beyond that is forgotten. Both in seconds.
    """

    def __init__(self, share: float, burst_s: float, rest_s: float) -> None:
        self._share = share
        self._burst_s = burst_s
        self._debt_s = rest_s * share
        self._credit_s = burst_s
        self._at_s = time.monotonic()
        self._used_s = time.thread_time()

    def rest(self) -> None:
        """Sleeps until the thread has earned what it used since the last call."""
        self._count()
        if self._credit_s < 0:
            time.sleep(-self._credit_s / self._share)
            self._count()

    def _count(self) -> None:
        now_s, used_s = time.monotonic(), time.thread_time()
        earned_s = self._share * (now_s - self._at_s) - (used_s - self._used_s)
        self._credit_s = max(-self._debt_s, min(self._burst_s, self._credit_s + earned_s))
        self._at_s, self._used_s = now_s, used_s


class _Guarded(asyncio.Protocol):
    """Forwards everything to the inner protocol."""

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self.working = False
        self.until = float("inf")
        self._unsent = 0

    def look_for_progress(self) -> None:
        """A client that reads its answer is not idle, however slowly it reads."""
        before, self._unsent = self._unsent, _unsent_bytes(self._transport)
        if self._unsent < before and not self.working:
            self.rest()

    def rest(self) -> None:
        """Begins the idle time anew."""
        self.working = False
        self.until = asyncio.get_running_loop().time() + IDLE_S

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._gate.brake.rest()
        self._transport = cast(asyncio.Transport, transport)
        self.rest()
        self._inner.connection_made(transport)
        self._gate.enter(self._transport, self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._gate.leave(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._gate.brake.rest()
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        if not self.working:  # the client reads its answer
            self.rest()
        self._inner.resume_writing()


def _unsent_bytes(transport: asyncio.Transport | None) -> int:
    """Bytes that the client has not received yet, in this process and in the kernel."""
    if transport is None:
        return 0
    unsent = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed meanwhile
        queued = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        unsent += struct.unpack("i", queued)[0]
    return unsent
