"""Connections: who is connected to a bound ZeroMQ socket, and what each peer may cost.

libzmq tells which connection a message came by (`ZMQ_SRCFD`) and, through its monitor, which
connections came and went, each by its file descriptor. It has no call that closes one of them, but
notices an end of file by itself: a connection is closed by shutting its descriptor down. The
descriptor stays libzmq's own. The kernel's cookie of a socket (`SO_COOKIE`) is never used again,
so that a descriptor whose number was used again is not mistaken for the one that was meant.
"""

import contextlib
import itertools
import logging
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import zmq

from node.process.log_limit import LimitedLog

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 256
"""Connections of one socket; a robot has a few dozen."""
HANDSHAKE_MS = 5000
"""A connection that has not said by then that it speaks ZeroMQ is closed (libzmq's own: 30 s)."""
PROTECTED = MOST_CONNECTIONS // 2
"""Of them, those that came first keep their place while they are not idle."""
GRACE_S = 0.5
"""Until it is that old a connection that has not done anything yet is not idle."""
BACKLOG = 1024
"""Connections that the kernel holds until they are accepted. Where it is full, who connects has to
try again a second later; in a flood of connections that meets everybody."""
_TURN_S = 0.005
_SWEEP_S = 1.0
_LEFT_OVER_S = 0.2
"""How long what a closed connection sent can still be in the socket's queue."""
_MUCH_BYTES = 2048
"""Sent within the last second by one of those that hold the socket's thread: 30 subscriptions."""
_CHUNK_BYTES = 64 * 1024
_SO_COOKIE = 57
_BYTES_RECEIVED = struct.Struct("@128xQ")
"""tcpi_bytes_received in struct tcp_info of Linux 4.1 and later."""
_EVENT = struct.Struct("=Hi")
_endpoints = itertools.count()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one peer may send. messages_s: messages a second in the long run; burst: messages at
    once; bytes_s: bytes a second, of any kind, over TCP; burst_bytes: bytes at once."""

    messages_s: float
    burst: float
    bytes_s: float
    burst_bytes: float


@dataclass(slots=True, eq=False)
class Connection:
    """One peer. address: its computer; number: the position among all that ever came.

    active: whether it did what the socket is for. topics: what it subscribes to.
    """

    descriptor: int
    number: int
    address: str
    cookie: bytes
    came_at: float
    heard_at: float
    credit: float
    credit_bytes: float
    counted_at: float
    active: bool = False
    bytes_before: int = 0
    topics: set[bytes] = field(default_factory=set)


Victim = Callable[[Collection[Connection]], Connection]
"""Chooses which of too many connections is closed."""


def idle_first(connections: Collection[Connection]) -> Connection:
    """The oldest that is idle. Where none is, the oldest of the computer with the most, but for
    those that were there before: who came first stays served, and who comes now gets a place."""
    long_here = time.monotonic() - GRACE_S
    for connection in connections:  # in the order in which they came
        if not connection.active and connection.came_at < long_here:
            return connection
    later = tuple(connections)[PROTECTED:]
    crowd = Counter(one.address for one in later)
    return max(later, key=lambda one: (crowd[one.address], -one.number))


def longest_silent(connections: Collection[Connection]) -> Connection:
    """The one that was not heard of for longest: who asks now is answered."""
    return min(connections, key=lambda one: one.heard_at)


class Connections:
    """Used by the thread that owns the socket; `close_floods` is for another one, while that thread
    is held in a call of libzmq. `events` is to be polled beside the socket.

    name: of the socket, for the log. gone: called with each connection that has ended.
    """

    def __init__(
        self,
        context: "zmq.Context[Any]",
        watched: "zmq.Socket[Any]",
        name: str,
        allowance: Allowance,
        victim: Victim,
        *,
        gone: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        self._lock = threading.RLock()
        self._name = name
        self._allowance = allowance
        self._victim = victim
        self._gone = gone
        self._watched = watched
        self._open: dict[int, Connection] = {}
        self._ending: dict[int, Connection] = {}
        self._numbers = itertools.count()
        self._condemned_at: dict[int, float] = {}
        self._swept_at = time.monotonic()
        self._log = LimitedLog(log)
        watched.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        watched.setsockopt(zmq.BACKLOG, BACKLOG)
        address = f"inproc://connections-{next(_endpoints)}"
        # Without a limit: libzmq's I/O thread would wait for who does not read its events.
        self.events: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self.events.setsockopt(zmq.RCVHWM, 0)
        self.events.setsockopt(zmq.LINGER, 0)
        watched.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self.events.connect(address)

    def close(self) -> None:
        """Before the socket itself is closed."""
        with self._lock:
            self._watched.disable_monitor()
            self.events.close(linger=0)

    def __iter__(self) -> Iterator[Connection]:
        with self._lock:
            return iter(tuple(self._open.values()))

    @property
    def unread(self) -> bool:
        """Whether connections came or went that `look_after` has not noted yet."""
        with self._lock:
            return bool(int(self.events.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    @property
    def topics(self) -> int:
        """Subscriptions of all connections together."""
        return sum(len(one.topics) for one in self if one.topics)

    def look_after(self) -> None:
        """Notes who came and went, and closes what is too much. Bounded work."""
        with self._lock:
            self._read_events()
            if time.monotonic() - self._swept_at >= _SWEEP_S:
                self._sweep()

    def close_floods(self, since: float) -> None:
        """For another thread than the socket's, while that one is held in a call since `since`:
        closes who sent much, and who came meanwhile, before it can send anything."""
        with self._lock:
            if self.events.closed:
                return
            self._read_events()
            for connection in self:
                sent = self._received_of(connection)
                if sent is not None and sent - connection.bytes_before > _MUCH_BYTES:
                    self.end(connection, "it floods the socket")
                elif connection.came_at >= since:
                    self.end(connection, "it came while others flood the socket")

    def heard(self, message: "zmq.Frame") -> Connection | None:
        """The connection that a message came by. None where the message is to be ignored: it is of
        a connection that has ended, or that sends too much and is closed with this call."""
        descriptor = _descriptor(message)
        if descriptor is None:
            return None
        with self._lock:
            return self._heard_by(descriptor)

    def _heard_by(self, descriptor: int) -> Connection | None:
        while descriptor not in self._open and self._read_event():
            pass
        connection = self._open.get(descriptor)
        if connection is None or self._is_of_the_one_before(descriptor):
            return None
        now = time.monotonic()
        allowance = self._allowance
        earned = (now - connection.heard_at) * allowance.messages_s
        connection.credit = min(allowance.burst, connection.credit + earned) - 1
        connection.heard_at = now
        if connection.credit < 0:
            self.end(connection, f"more than {allowance.messages_s:g} messages a second")
            return None
        return connection

    def all_heard(self) -> None:
        """The socket's queue is empty: nothing is left in it of connections that were closed."""
        if self._condemned_at:
            self._condemned_at.clear()

    def end(self, connection: Connection, why: str) -> None:
        """Closes a connection."""
        with self._lock:
            if self._open.pop(connection.descriptor, None) is None:
                return
            self._ending[connection.descriptor] = connection
            self._condemned_at[connection.descriptor] = time.monotonic()
        self._log.warning(
            why, f"{self._name}: closed a connection of {connection.address or 'this host'}: {why}"
        )
        with contextlib.suppress(OSError), _borrowed(connection.descriptor) as borrowed:
            if _cookie(borrowed) == connection.cookie:
                borrowed.shutdown(socket.SHUT_RDWR)
                while borrowed.recv(_CHUNK_BYTES, socket.MSG_DONTWAIT):
                    pass  # libzmq would read all of it before it comes to the end

    def takes_more(self, connection: Connection) -> bool:
        """Whether the kernel would take more for a connection now; also of one that has ended."""
        with contextlib.suppress(OSError), _borrowed(connection.descriptor) as borrowed:
            if _cookie(borrowed) == connection.cookie:
                poll = select.poll()
                poll.register(borrowed, select.POLLOUT)
                return bool(poll.poll(0))
        return True

    def _is_of_the_one_before(self, descriptor: int) -> bool:
        condemned_at = self._condemned_at.get(descriptor)
        if condemned_at is None:
            return False
        if time.monotonic() - condemned_at < _LEFT_OVER_S:
            return True
        del self._condemned_at[descriptor]
        return False

    def _read_events(self) -> None:
        until = time.monotonic() + _TURN_S
        while self._read_event():
            while len(self._open) > MOST_CONNECTIONS:
                self.end(self._victim(self._open.values()), f"over {MOST_CONNECTIONS} connections")
            if time.monotonic() > until:
                break

    def _read_event(self) -> bool:
        try:
            parts = self.events.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        event, descriptor = _EVENT.unpack(parts[0])
        before = self._open.pop(descriptor, None) or self._ending.pop(descriptor, None)
        if before is not None:
            self._gone(before)
        if event == zmq.EVENT_ACCEPTED:
            self._add(descriptor)
        return True

    def _add(self, descriptor: int) -> None:
        now = time.monotonic()
        with contextlib.suppress(OSError), _borrowed(descriptor) as borrowed:
            peer = borrowed.getpeername()
            self._open[descriptor] = Connection(
                descriptor, next(self._numbers), str(peer[0]) if peer else "", _cookie(borrowed),
                now, now, self._allowance.burst, self._allowance.burst_bytes, now,
            )  # fmt: skip

    def _sweep(self) -> None:
        self._swept_at = time.monotonic()
        for connection in self:
            received = self._received_of(connection)
            if received is not None:
                self._count(connection, received)

    def _received_of(self, connection: Connection) -> int | None:
        """Bytes that ever came by a connection; None where that is not known, or it has ended."""
        with contextlib.suppress(OSError), _borrowed(connection.descriptor) as borrowed:
            if _cookie(borrowed) == connection.cookie:
                return _received(borrowed)
        self._open.pop(connection.descriptor, None)  # its end is about to be told
        self._gone(connection)
        return None

    def _count(self, connection: Connection, received: int) -> None:
        """Ends a connection that sent too many bytes. received: all that it ever sent."""
        now, allowance = time.monotonic(), self._allowance
        credit = connection.credit_bytes + (now - connection.counted_at) * allowance.bytes_s
        credit -= received - connection.bytes_before
        connection.credit_bytes = min(allowance.burst_bytes, credit)
        connection.counted_at, connection.bytes_before = now, received
        if credit < 0:
            self.end(connection, f"more than {allowance.bytes_s:g} bytes a second")


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A descriptor of libzmq's as a socket, for a moment. Raises OSError where it is closed."""
    borrowed = socket.socket(fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _cookie(of: socket.socket) -> bytes:
    try:
        return of.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    except OSError:  # a kernel before 4.6: the two addresses are as good for TCP
        return repr(of.getpeername()).encode()


def _received(of: socket.socket) -> int | None:
    """Bytes that came by a TCP connection; None for other kinds and older kernels."""
    try:
        info = of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
    except OSError:
        return None
    return int(_BYTES_RECEIVED.unpack(info)[0]) if len(info) == _BYTES_RECEIVED.size else None


def _descriptor(message: "zmq.Frame") -> int | None:
    """None for what libzmq itself says, at the end of a connection."""
    try:
        return int(message.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None
