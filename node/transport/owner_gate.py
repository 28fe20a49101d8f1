"""OwnerGate: the TCP endpoint of a socket without keys, for processes of the node's own user (and
root) only.

libzmq accepts connections by itself and identifies them by a descriptor, which may belong to
another connection at the time of a lookup. So the gate accepts the connection, looks its user up
while it is open, and only then connects it to the ZeroMQ socket, which listens in the abstract
namespace and admits this process's user only.
"""

import contextlib
import errno
import ipaddress
import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterator

from node.errors import EndpointError
from node.process.descriptors import spare_descriptors
from node.transport import connections
from node.transport.local_peer import LocalPeers
from node.transport.socket_file import in_use
from node.transport.socket_thread import WakeUp
from perception_client.endpoint import address_of

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 2 * connections.MOST_CONNECTIONS
"""Most connections of the node's user; the gate closes further ones. The ZeroMQ socket closes its
oldest idle connections at half as many, so that a new one finds a place here."""
_CHUNK_BYTES = 64 * 1024
"""Most bytes that wait for an end that does not read; beyond that the other end is not read."""
_BACKLOG = 1024
"""Connections that may wait: clients of other users that connect fast do not displace others."""
_BATCH = 64
"""Connections that one read of the kernel's table serves."""
_BETWEEN_REFUSALS_S = 0.0005
"""Pause after a batch with a refusal, so that refused clients do not take a whole core."""
_BETWEEN_LOG_LINES_S = 10.0
_DESCRIPTORS = 2
"""Of an admitted connection, in addition to its own: both ends of that to the ZeroMQ socket."""


@contextlib.contextmanager
def owner_gate(endpoint: str) -> Iterator[str]:
    """Listens on a TCP endpoint within the block. Gives the ipc endpoint that the ZeroMQ socket is
    to bind. Raises EndpointError."""
    name = f"perception-node-{os.getpid()}-{secrets.token_hex(8)}"
    gate = OwnerGate(endpoint, name)
    try:
        yield f"ipc://@{name}"
    finally:
        gate.close()


class OwnerGate:
    """Owns the listener and every connection through it, on a thread of its own.

    endpoint: tcp://ADDRESS:PORT. inner: the name of the ZeroMQ socket in the abstract namespace.
    Raises EndpointError.
    """

    def __init__(self, endpoint: str, inner: str) -> None:
        self._endpoint = endpoint
        self._inner = b"\0" + inner.encode()
        self._listener = _listening(endpoint)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_up = WakeUp()
        self._selector.register(self._wake_up.reader, selectors.EVENT_READ)
        self._connections = 0
        self._refused = 0
        self._logged_at = -_BETWEEN_LOG_LINES_S
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control-gate", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Closes the endpoint and every connection."""
        self._closing.set()
        self._wake_up.wake()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                for key, ready in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.data, _End):
                        self._relay(key.data, ready)
        finally:
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()
            self._wake_up.close()

    def _accept(self) -> None:
        accepted = self._accepted()
        peers = LocalPeers()  # asked while all accepted connections are open
        refused_before = self._refused
        spare = spare_descriptors() if accepted else 0
        for connection in accepted:
            spare -= _DESCRIPTORS * self._admit(connection, peers.uid(connection), spare)
        if self._refused > refused_before or not accepted:
            self._closing.wait(_BETWEEN_REFUSALS_S)

    def _accepted(self) -> list[socket.socket]:
        accepted: list[socket.socket] = []
        # Until none waits, or no descriptor is free: the next turn tries again.
        with contextlib.suppress(OSError):
            while len(accepted) < _BATCH:
                accepted.append(self._listener.accept()[0])
        return accepted

    def _admit(self, connection: socket.socket, uid: int | None, spare: int) -> bool:
        """Connects a connection to the ZeroMQ socket, or refuses it; whether it is connected. uid:
        of its other end. spare: descriptors that may be opened."""
        if self._connections >= MOST_CONNECTIONS:
            self._refuse(connection, f"{MOST_CONNECTIONS} connections are open already")
            return False
        if uid not in (0, os.geteuid()):
            peer = "a process that has ended or is in a container" if uid is None else f"uid {uid}"
            self._refuse(connection, f"{peer} is not the node's user, uid {os.geteuid()}")
            return False
        if spare < _DESCRIPTORS:
            self._refuse(
                connection, "three quarters of the open files allowed (ulimit -n) are in use"
            )
            return False
        with contextlib.ExitStack() as unless_joined:
            unless_joined.callback(connection.close)
            try:
                inner = unless_joined.enter_context(socket.socket(socket.AF_UNIX))
                inner.setblocking(False)
                inner.connect(self._inner)
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # the ZeroMQ socket is not bound yet, closed, or busy
                return False
            unless_joined.pop_all()
        self._join(connection, inner)
        return True

    def _refuse(self, connection: socket.socket, why: str) -> None:
        connection.close()
        self._refused += 1
        now = time.monotonic()
        if now - self._logged_at >= _BETWEEN_LOG_LINES_S:
            self._logged_at = now
            log.warning(
                "endpoint %s: refused, %s (%d refused so far); others need keys "
                "(perception-node keys FOLDER, wire.keys)",
                self._endpoint, why, self._refused,
            )  # fmt: skip

    def _join(self, outer: socket.socket, inner: socket.socket) -> None:
        ends = _End(outer), _End(inner)
        ends[0].other, ends[1].other = ends[1], ends[0]
        for end in ends:
            self._selector.register(end.socket, selectors.EVENT_READ, end)
        self._connections += 1

    def _relay(self, end: "_End", ready: int) -> None:
        if end.socket.fileno() < 0:  # closed earlier in this turn
            return
        if ready & selectors.EVENT_READ:
            end.read()
        if ready & selectors.EVENT_WRITE:
            end.write()
        end.other.write()
        if end.over or end.other.over:
            self._connections -= 1
        for side in (end, end.other):
            self._watch(side)
            if end.over or end.other.over:
                side.socket.close()

    def _watch(self, end: "_End") -> None:
        """Registers the events that an end wants now, which may be none."""
        events = 0 if end.over or end.other.over else end.wants
        if end.socket not in self._selector.get_map():
            if events:
                self._selector.register(end.socket, events, end)
        elif events:
            self._selector.modify(end.socket, events, end)
        else:
            self._selector.unregister(end.socket)


class _End:
    """One of the two sockets of a relayed connection. over: the end is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.other: _End = self
        self.over = False
        self._pending = bytearray()

    @property
    def wants(self) -> int:
        """The events to wait for."""
        reads = len(self.other._pending) < _CHUNK_BYTES
        return reads * selectors.EVENT_READ | bool(self._pending) * selectors.EVENT_WRITE

    def read(self) -> None:
        """Reads the bytes that have arrived, for the other end."""
        try:
            data = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.over = not data
        self.other._pending += data

    def write(self) -> None:
        """Writes as many bytes of the other end as the kernel accepts."""
        try:
            while self._pending:
                del self._pending[: self.socket.send(self._pending)]
        except BlockingIOError:
            return
        except OSError:
            self.over = True


def _listening(endpoint: str) -> socket.socket:
    host, _, port = address_of(endpoint).removeprefix("tcp://").rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), int(port)))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise in_use(endpoint) from error
        raise EndpointError(
            f"endpoint {endpoint} cannot be bound: {error.strerror}",
            fix="use an address of this computer",
        ) from error
    listener.setblocking(False)
    return listener
