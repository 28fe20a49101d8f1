"""Connections: the peers of a bound ZeroMQ socket, and the limits of what each may cost.

libzmq reports the connection of a message (`ZMQ_SRCFD`) and, through its monitor, the begin and end
of connections, each by its file descriptor. libzmq has no call that closes a connection, but
notices an end of file by itself: a shutdown of the descriptor closes the connection. libzmq keeps
the descriptor. The kernel never reuses the cookie of a socket (`SO_COOKIE`), so a descriptor whose
number was reused is not mistaken for the previous one.
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
"""Time for the ZeroMQ handshake of a connection, before it is closed (default of libzmq: 30 s)."""
PROTECTED = MOST_CONNECTIONS // 2
"""The oldest connections that keep their place while they are not idle."""
GRACE_S = 0.5
"""Age up to which a connection without activity does not count as idle."""
BACKLOG = 1024
"""Connections that the kernel holds until they are accepted. With a full backlog, each new client
has to retry after a second; in a flood of connections that affects every client."""
_TURN_S = 0.005
_SWEEP_S = 1.0
_LEFT_OVER_S = 0.2
"""How long messages of a closed connection can still be in the queue of the socket."""
_MUCH_BYTES = 2048
"""Bytes within a second that make a connection a flood: 30 subscriptions."""
_FLOOD_S = 1.0
"""How long after a flood the next one is expected, from a new connection."""
_CHUNK_BYTES = 64 * 1024
_SO_COOKIE = 57
_BYTES_RECEIVED = struct.Struct("@128xQ")
"""tcpi_bytes_received in struct tcp_info of Linux 4.1 and later."""
_EVENT = struct.Struct("=Hi")
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_endpoints = itertools.count()


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits of what one peer may send.

    messages_s: messages a second in the long run. burst: messages at once. bytes_s: bytes a
    second, of any kind, over TCP. burst_bytes: bytes at once.
    """

    messages_s: float
    burst: float
    bytes_s: float
    burst_bytes: float


@dataclass(slots=True, eq=False)
class Connection:
    """One peer.

    address: IP address, empty on this host. number: count of earlier connections. active: whether
    the peer has used the socket for its purpose. topics: the subscriptions of the peer.
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
"""Chooses the connection to close beyond the limit."""


def idle_first(connections: Collection[Connection]) -> Connection:
    """The oldest idle connection. Without one, the oldest of the computer with the most
    connections, except for the protected ones: early clients stay served, and a new client gets a
    place."""
    long_here = time.monotonic() - GRACE_S
    for connection in connections:  # in the order in which they came
        if not connection.active and connection.came_at < long_here:
            return connection
    later = tuple(connections)[PROTECTED:]
    per_address = Counter(peer.address for peer in later)
    return max(later, key=lambda peer: (per_address[peer.address], -peer.number))


def longest_silent(connections: Collection[Connection]) -> Connection:
    """The connection whose last message is the oldest: the client that sends now is answered."""
    return min(connections, key=lambda peer: peer.heard_at)


class Connections:
    """Used by the thread that owns the socket; only `close_floods` is for another thread, while the
    owner is held in a call of libzmq.

    events: the monitor, which the owner polls beside the socket.
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
        """watched: the socket, before its bind. name: of the socket, for the log. victim: chooses
        the connection to close beyond the limit. gone: called with each connection that has
        ended."""
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
        self._flooded_at = -_FLOOD_S
        self._mechanism_differs = False
        self._log = LimitedLog(log)
        watched.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        watched.setsockopt(zmq.BACKLOG, BACKLOG)
        address = f"inproc://connections-{next(_endpoints)}"
        # Without a limit: the I/O thread of libzmq would wait for a reader of its events.
        self.events: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self.events.setsockopt(zmq.RCVHWM, 0)
        self.events.setsockopt(zmq.LINGER, 0)
        watched.monitor(address, _EVENTS)
        self.events.connect(address)

    def close(self) -> None:
        """Ends the monitor. To be called before the socket is closed."""
        with self._lock:
            self._watched.disable_monitor()
            self.events.close(linger=0)

    def __iter__(self) -> Iterator[Connection]:
        with self._lock:
            return iter(tuple(self._open.values()))

    @property
    def unread(self) -> bool:
        """Whether a begin or end of a connection waits for `look_after`."""
        with self._lock:
            return bool(int(self.events.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    @property
    def topics(self) -> int:
        """Number of subscriptions of all connections."""
        return sum(len(peer.topics) for peer in self if peer.topics)

    def look_after(self) -> None:
        """Notes new and ended connections, and closes those beyond a limit. Bounded work."""
        with self._lock:
            self._read_events()
            if time.monotonic() - self._swept_at >= _SWEEP_S:
                self._sweep()

    def close_floods(self, since: float) -> None:
        """Closes connections that send much; during a flood and shortly after it also new ones,
        before they can send. For a thread beside the owner, which may be held in a call of libzmq.
        since: begin of that call, on CLOCK_MONOTONIC in s."""
        with self._lock:
            if self.events.closed:
                return
            self._read_events()
            now = time.monotonic()
            for connection in self:
                sent = self._received_of(connection)
                if sent is not None and sent - connection.bytes_before > _MUCH_BYTES:
                    self.end(connection, "it floods the socket")
                    self._flooded_at = now
            if now - self._flooded_at < _FLOOD_S:
                for connection in self:
                    if connection.came_at >= since:
                        self.end(connection, "it came while others flood the socket")

    def heard(self, message: "zmq.Frame") -> Connection | None:
        """The connection of a message. None where the message is to be ignored: its connection has
        ended, or exceeds its allowance and is closed by this call."""
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
        """Notes that the queue of the socket is empty: it has no message of a closed connection."""
        if self._condemned_at:
            self._condemned_at.clear()

    def end(self, connection: Connection, why: str) -> None:
        """Closes a connection. why: the reason, for the log."""
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
                    pass  # libzmq would read all of it before it notices the end

    def takes_more(self, connection: Connection) -> bool:
        """Whether the kernel accepts more bytes for a connection now; true after its end."""
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
        event, value = _EVENT.unpack(parts[0])
        if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:  # the end of this connection follows
            self._mechanism_differs = value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
            return True
        self._note_begin_or_end(event, descriptor=value)
        return True

    def _note_begin_or_end(self, event: int, descriptor: int) -> None:
        before = self._open.pop(descriptor, None) or self._ending.pop(descriptor, None)
        if before is not None:
            self._gone(before)
            if self._mechanism_differs:
                self._log_mechanism(before.address or "this host")
        self._mechanism_differs = False
        if event == zmq.EVENT_ACCEPTED:
            self._add(descriptor)

    def _log_mechanism(self, address: str) -> None:
        why = (
            "it has no keys; make keys for it (perception-node keys)"
            if self._watched.getsockopt(zmq.MECHANISM) == zmq.CURVE
            else "it has keys, and this node runs without (wire.keys)"
        )
        self._log.warning(
            f"mechanism {address}", f"{self._name}: refused a client at {address}: {why}"
        )

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
        """Bytes received from a connection so far; None where unknown, or after its end."""
        with contextlib.suppress(OSError), _borrowed(connection.descriptor) as borrowed:
            if _cookie(borrowed) == connection.cookie:
                return _received(borrowed)
        self._open.pop(connection.descriptor, None)  # the event of its end is on the way
        self._gone(connection)
        return None

    def _count(self, connection: Connection, received: int) -> None:
        """Ends a connection that exceeds its bytes. received: bytes since its begin."""
        now, allowance = time.monotonic(), self._allowance
        credit = connection.credit_bytes + (now - connection.counted_at) * allowance.bytes_s
        credit -= received - connection.bytes_before
        connection.credit_bytes = min(allowance.burst_bytes, credit)
        connection.counted_at, connection.bytes_before = now, received
        if credit < 0:
            self.end(connection, f"more than {allowance.bytes_s:g} bytes a second")


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A descriptor of libzmq as a socket, within the block. Raises OSError for a closed one."""
    borrowed = socket.socket(fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _cookie(of: socket.socket) -> bytes:
    try:
        return of.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    except OSError:  # a kernel before 4.6: for TCP the two addresses serve as well
        return repr(of.getpeername()).encode()


def _received(of: socket.socket) -> int | None:
    """Bytes received on a TCP connection; None for other kinds and older kernels."""
    try:
        info = of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.size)
    except OSError:
        return None
    return int(_BYTES_RECEIVED.unpack(info)[0]) if len(info) == _BYTES_RECEIVED.size else None


def _descriptor(message: "zmq.Frame") -> int | None:
    """The descriptor of a message; None for a message that libzmq makes at the end of a
    connection."""
    try:
        return int(message.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None
