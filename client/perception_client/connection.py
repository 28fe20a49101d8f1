"""Connection: the sockets of one client, the thread that owns them, and why a node refuses them.
Needs pyzmq only; the same for asyncio, with a context of zmq.asyncio."""

import contextlib
import os
import struct
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from perception_client.endpoint import address_of
from perception_client.errors import ArgumentTypeError, EndpointError
from perception_client.inbox import connect
from perception_client.keys import Keys
from perception_client.messages.topics import MessageKind
from perception_client.ownership import Owner

_WATCHED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_FINAL = (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH)
"""Failures after which libzmq does not connect again by itself."""
_EVENT = struct.Struct("=Hi")
"""Event and value (zmq_socket_monitor(3)). zmq.utils.monitor has it too, and loads asyncio."""
_TRY_AGAIN_S = 1.0
_BROKEN_OFF_AGAIN = 2
"""Handshakes in a row that were broken off, until it is no node that ended in between. A node that
asks for keys often closes the connection before the client has read what it asks for."""


class Handshakes:
    """Watches the handshakes of one socket: libzmq keeps a refusal to itself, and its connection
    looks like one to a node that is not there.

    keyed: whether the socket presents keys. access: the node's list of keys, `labels` or `control`.
    """

    def __init__(
        self,
        sockets: "Sockets",
        socket: "zmq.Socket[Any]",
        endpoint: str,
        *,
        keyed: bool,
        access: str = "labels",
    ) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._keyed = keyed
        self._access = access
        self._failed: int | None = None
        self._broken_off = 0
        self._tried_s = time.monotonic()
        self._events: zmq.Socket[bytes] = sockets.open(zmq.PAIR, socket_class=zmq.Socket)
        # Without a limit: libzmq's I/O thread would block on a monitor that is not read.
        self._events.setsockopt(zmq.RCVHWM, 0)
        self._events.setsockopt(zmq.LINGER, 0)
        address = f"inproc://handshakes-{id(self)}"
        socket.monitor(address, _WATCHED)
        self._events.connect(address)

    def refusal(self) -> str | None:
        """Why the node refuses the connection; None where it does not, or is not there. Tries the
        connection again, at most once a second, where libzmq has given it up."""
        while self._events.poll(0):
            event, _ = _EVENT.unpack(self._events.recv_multipart()[0])
            self._broken_off += event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failed = None
                self._broken_off = 0
            elif self._failed not in _FINAL or event in _FINAL:
                self._failed = event
        if self._failed in _FINAL:
            self._try_again()
        return self._reason()

    def _reason(self) -> str | None:
        if self._failed is None:
            return None
        if self._failed == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return (
                f"the node refuses this client's key: it is not in the folder {self._access} of "
                "the node's keys (perception-node keys adds it), or was added after the node "
                "started"
            )
        if self._failed == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            if self._keyed:
                return "the node has no keys (wire.keys), and this client has: connect without keys"
            return "the node asks for keys (wire.keys), and this client uses none: give keys=FOLDER"
        if self._keyed:
            return (
                "the node breaks off the handshake: either the node has no keys (wire.keys), or "
                "server.key in this client's folder of keys is of another node"
            )
        if self._broken_off < _BROKEN_OFF_AGAIN:
            return None
        other = (
            "it has no keys, and answers its own user and root only (its log names others): run "
            "this as that user, or make keys (perception-node keys)"
            if self._access == "control"
            else "it closes new connections, which its log says"
        )
        return (
            "the node breaks off the handshake: either the node asks for keys (wire.keys), and "
            f"this client uses none: give keys=FOLDER; or {other}"
        )

    def _try_again(self) -> None:
        now_s = time.monotonic()
        if now_s - self._tried_s < _TRY_AGAIN_S:
            return
        self._tried_s = now_s
        address = address_of(self._endpoint)
        with contextlib.suppress(zmq.ZMQError):  # libzmq may have dropped the connection already
            self._socket.disconnect(address)
        self._socket.connect(address)


class Sockets:
    """A context and its sockets, which are closed by `close`, or with the owner of this object.

    Left to the garbage collector, pyzmq may end the context before its sockets, and so wait for
    ever; the finalizer holds both, and closes the sockets first.
    """

    def __init__(self, context: "zmq.Context[Any]") -> None:
        self.context = context
        self._all: list[zmq.Socket[Any]] = []
        self._finalizer = weakref.finalize(self, _close_all, context, self._all, os.getpid())
        self._finalizer.atexit = False  # a process that ends needs none of it

    def open(self, kind: int, **options: Any) -> Any:
        """A new socket."""
        socket = self.context.socket(kind, **options)
        self._all.append(socket)
        return socket

    def close(self) -> None:
        """Closes the sockets and ends the context; a second call does nothing."""
        self._finalizer()


def _close_all(context: "zmq.Context[Any]", sockets: "list[zmq.Socket[Any]]", process: int) -> None:
    if os.getpid() == process:
        for socket in sockets:
            socket.close(linger=0)
        context.term()


class Connection:
    """The sockets of one subscriber. Raises EndpointError, ConfigError.

    new_context: makes the context of the sockets. keys: a client's folder of keys, or the keys.
    """

    def __init__(
        self,
        new_context: "Callable[[], zmq.Context[Any]]",
        endpoint: str,
        camera: str | None,
        keys: Path | str | Keys | None,
    ) -> None:
        self.keys = keys_of(keys)
        self.endpoint = endpoint
        self.owner = Owner(f"subscriber of {endpoint}")
        self._camera = camera
        self._sockets = Sockets(new_context())
        self._handshakes: Handshakes | None = None
        try:
            self.labels: Any = self._sockets.open(zmq.SUB)
            self._handshakes = Handshakes(
                self._sockets, self.labels, str(endpoint), keyed=self.keys is not None
            )
            connect(self.labels, endpoint, camera, keys=self.keys)
        except zmq.ZMQError as error:
            self.close()
            raise EndpointError(f"endpoint {endpoint!r}: no socket: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def subscribe(self, kind: MessageKind) -> Any:
        """Another socket, for one kind of message."""
        socket = self._sockets.open(zmq.SUB)
        connect(socket, self.endpoint, self._camera, kind, self.keys)
        return socket

    def refusal(self) -> str | None:
        """Why the node refuses this client; None where it does not, or is not there."""
        return None if self._handshakes is None else self._handshakes.refusal()

    def close(self) -> None:
        """Closes the sockets. A second call does nothing, nor does one in a forked process. Raises
        WrongThreadError while another thread uses them."""
        if self.owner.close():
            self._sockets.close()


def keys_of(keys: Path | str | Keys | None) -> Keys | None:
    """The keys that a caller gave, read where it named their folder. Raises ConfigError."""
    if keys is None or isinstance(keys, Keys):
        return keys
    if not isinstance(keys, str | Path):
        raise ArgumentTypeError(f"keys is {keys!r:.40}", fix="give a client's folder of keys")
    return Keys.read(keys)
