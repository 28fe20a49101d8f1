"""Subscriber: what control code uses to receive labels. Needs pyzmq and msgpack only;
`node.client_async` has the same for asyncio.

A subscriber belongs to the thread (or event loop) that made it.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import zmq

from node.client_events import EventStream
from node.errors import EndpointError, MessageError
from node.wire.calibration import Bearing, Calibration
from node.wire.messages import (
    DEFAULT_ENDPOINT,
    MAX_MESSAGE_BYTES,
    Box,
    Detection,
    EventMessage,
    InfoMessage,
    Label,
    LabelsMessage,
    MessageKind,
    Status,
    decode,
    topic,
)

__all__ = [
    "Bearing",
    "Box",
    "Calibration",
    "Detection",
    "EventMessage",
    "EventStream",
    "Gap",
    "Label",
    "LabelsMessage",
    "NoMessageError",
    "NotSeenError",
    "Status",
    "Subscriber",
]

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 5.0
_RECEIVE_HIGH_WATER_MARK = 256
MOST_DRAINED = 10_000


class NotSeenError(TimeoutError):
    """Messages came, and none showed what was waited for."""


class NoMessageError(TimeoutError):
    """Nothing was received in the time given: the node is gone, unreachable, or silent."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What is missing between a message and the one before it of the same camera.

    dropped: frames that the node gave up in favour of newer ones, before inference.
    lost: messages that were sent and did not arrive.
    restarted: the node was started anew in between; what it sent before is not counted.
    """

    dropped: int = 0
    lost: int = 0
    restarted: bool = False

    def __bool__(self) -> bool:
        """Whether anything is missing."""
        return bool(self.dropped or self.lost or self.restarted)


class Inbox:
    """Decodes what was received, leaves out what came twice, and tells the gaps.

    rejected: messages that could not be read; last_rejection: the reason of the newest.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._last: dict[str, LabelsMessage] = {}
        self.rejected = 0
        self.last_rejection: str | None = None

    def open(self, parts: list[bytes]) -> tuple[LabelsMessage, Gap] | None:
        """The message in `parts` and the gap before it; None if it is unreadable or not new."""
        try:
            message = decode(parts)
        except MessageError as error:
            self._reject(str(error))
            return None
        if not isinstance(message, LabelsMessage):
            return None
        last = self._last.get(message.camera)
        if last is not None and last.session == message.session and message.seq <= last.seq:
            return None  # retained for somebody else who joined
        self._last[message.camera] = message
        return message, _gap(last, message)

    def newest(self) -> list[LabelsMessage]:
        """The newest message of each camera."""
        return list(self._last.values())

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        if reason != self.last_rejection:  # once for each kind, not once for each message
            self.last_rejection = reason
            log.warning("%s: message left out: %s", self._endpoint, reason)


def _gap(last: LabelsMessage | None, message: LabelsMessage) -> Gap:
    if last is None:
        return Gap()
    if last.session != message.session:
        return Gap(dropped=message.dropped, restarted=True)
    lost = message.seq - last.seq - 1
    dropped = message.dropped
    if lost and message.frame_id is not None and last.frame_id is not None:
        # The lost messages took their own counts of dropped frames with them.
        dropped = max(dropped, message.frame_id - last.frame_id - 1 - lost)
    return Gap(dropped=dropped, lost=lost)


def freshest(messages: list[LabelsMessage], max_age_s: float) -> LabelsMessage | None:
    """The youngest of those that are not older than `max_age_s`."""
    fresh = [message for message in messages if message.age_s <= max_age_s]
    return min(fresh, key=lambda message: message.age_s, default=None)


def connect(
    socket: "zmq.Socket[Any]", endpoint: str, camera: str | None, kind: MessageKind = "labels"
) -> None:
    socket.setsockopt(zmq.RCVHWM, _RECEIVE_HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
    socket.setsockopt(zmq.SUBSCRIBE, topic(kind, camera) if camera else f"{kind}/".encode())
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(
            f"endpoint {endpoint!r} cannot be connected to: {error.strerror}; "
            f"write tcp://HOST:PORT or ipc://PATH, for example {DEFAULT_ENDPOINT}"
        ) from error


class Subscriber:
    """Receives the labels of a node.

    camera: only this one; None: all. timeout_s: how long iteration waits for the next message.
    Raises EndpointError for an endpoint that is not one; a node that is not there yet is waited
    for, and one that comes back is found again.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        camera: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self._timeout_s = timeout_s
        self._endpoint = endpoint
        self._inbox = Inbox(endpoint)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._camera = camera
        self._events: EventStream | None = None
        self._sockets = [self._socket]
        try:
            connect(self._socket, endpoint, camera)
        except EndpointError:
            self.close()
            raise

    def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message not older than `max_age_s` seconds, or None; older ones are read away.

        Waits up to `timeout_s` for one; 0 returns at once. Look at `status` before `labels`: a
        fresh message may say that the camera cannot see.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._drain()
            found = freshest(self._inbox.newest(), max_age_s)
            left_s = deadline - time.monotonic()
            if found is not None or left_s <= 0:
                return found
            self._socket.poll(int(left_s * 1000) + 1, zmq.POLLIN)

    @property
    def events(self) -> EventStream:
        """What came, changed and went; received from the first use on, what is open then first."""
        if self._events is None:
            socket = self._context.socket(zmq.SUB)
            self._sockets.append(socket)
            connect(socket, self._endpoint, self._camera, "events")
            self._events = EventStream(socket)
        return self._events

    def wait_for(self, name: str, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """The next message that shows a class (see `LabelsMessage.shows`).

        Raises NotSeenError when none does in time, NoMessageError when nothing came at all.
        """
        deadline = time.monotonic() + timeout_s
        heard = False
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                message, _ = self.receive(left_s)
            except NoMessageError:
                break
            heard = True
            if message.shows(name, min_score):
                return message
        if not heard:
            raise NoMessageError(silence(self._endpoint, timeout_s))
        raise NotSeenError(f"{self._endpoint}: no {name!r} was seen for {timeout_s:g} s")

    def calibration(self, camera: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Calibration:
        """A camera's calibration, as the node's configuration gives it. Raises NoMessageError
        where the node does not say in time, LookupError where the camera has none."""
        socket = self._context.socket(zmq.SUB)
        try:
            connect(socket, self._endpoint, None, "info")
            if not socket.poll(int(timeout_s * 1000), zmq.POLLIN):
                raise NoMessageError(silence(self._endpoint, timeout_s))
            info = decode(socket.recv_multipart(zmq.NOBLOCK))
        finally:
            socket.close()
        for found in info.calibrations if isinstance(info, InfoMessage) else ():
            if found.camera == camera:
                return found
        raise LookupError(
            f"camera {camera!r} has no calibration; give [camera.calibration] in the node's file"
        )

    def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """The next message in order, and what is missing before it. Raises NoMessageError."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._socket.poll(int(left_s * 1000) + 1, zmq.POLLIN):
                opened = self._inbox.open(self._socket.recv_multipart(zmq.NOBLOCK))
                if opened is not None:
                    return opened
        raise NoMessageError(silence(self._endpoint, timeout_s))

    def __iter__(self) -> Iterator[tuple[LabelsMessage, Gap]]:
        """Every message in order, each with the gap before it. Raises NoMessageError."""
        while True:
            yield self.receive(self._timeout_s)

    @property
    def rejected(self) -> int:
        """Messages received that could not be read: random bytes, a newer schema."""
        return self._inbox.rejected

    @property
    def last_rejection(self) -> str | None:
        """Why the newest of them could not be read."""
        return self._inbox.last_rejection

    def close(self) -> None:
        """Lets go of the connection; twice does no harm."""
        for socket in self._sockets:
            socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drain(self) -> None:
        for _ in range(MOST_DRAINED):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._inbox.open(parts)


def silence(endpoint: str, timeout_s: float) -> str:
    return f"{endpoint}: no message for {timeout_s:g} s; is the node running, on this endpoint?"
