"""Inbox: what a subscriber knows of a node, whichever way it receives. Needs pyzmq and msgpack
only."""

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import zmq

from perception_client.endpoint import address_of, keep_alive, prepare
from perception_client.errors import (
    CannotSeeError,
    EndpointError,
    MessageError,
    NodeGoneError,
    NotLookingError,
    NotUsableError,
    TooOldError,
)
from perception_client.keys import Keys
from perception_client.messages.clock import elapsing_s, monotonic_s, virtual_ns
from perception_client.messages.codec import decode
from perception_client.messages.kinds import (
    DEFAULT_ENDPOINT,
    MAX_MESSAGE_BYTES,
    HealthMessage,
    LabelsMessage,
    Message,
    MessageKind,
    Status,
    boot_id,
    topic,
)

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 5.0
ALIVE_S = 2.5
"""Silence after which a node is taken for gone: it sends its health once a second."""
RECEIVE_HIGH_WATER_MARK = 256
"""Messages that libzmq keeps for a reader who rests, beside what the kernel keeps."""
MOST_DRAINED = 1_000
"""Messages that one call reads at least, where so many are there: more than a full queue holds."""
_CURRENT_S = 0.1
"""Age of a message up to which it was not held back on its way."""


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


@dataclass(slots=True)
class _Session:
    """When one run of a node was heard, in seconds of `monotonic_s`.

    Of a node on this computer that is when its messages were sent: what a dead one left in the
    queue is no sign of life. Labels carry that moment; health its node's uptime on the same clock,
    so its moment is known once the latest is at which that uptime can have been 0.
    """

    received_s: float = -math.inf
    health_received_s: float = -math.inf
    here: bool = False
    labels_sent_s: float = -math.inf
    uptime_s: float = -math.inf
    began_s: float = math.inf

    def take(self, message: Message, now_s: float) -> None:
        self.received_s = now_s
        if isinstance(message, HealthMessage):
            self.health_received_s = now_s
            self.uptime_s = message.uptime_s
            self.began_s = min(self.began_s, now_s - message.uptime_s)
        elif isinstance(message, LabelsMessage) and virtual_ns() is None:
            self._take_labels(message, now_s)

    @property
    def heard_s(self) -> float:
        return max(self.labels_sent_s, self.health_s) if self.here else self.received_s

    @property
    def health_s(self) -> float:
        if not self.here or self.health_received_s == -math.inf:
            return self.health_received_s
        return self.began_s + self.uptime_s

    def _take_labels(self, message: LabelsMessage, now_s: float) -> None:
        sent_ns = message.published_mono_ns
        if sent_ns is None or message.boot_id is None or message.boot_id != boot_id():
            return
        self.here = True
        sent_s = min(now_s, sent_ns / 1e9)
        self.labels_sent_s = max(self.labels_sent_s, sent_s)
        if not message.retained:  # else the health before it was sent after it
            self.began_s = min(self.began_s, sent_s - self.uptime_s)


class Inbox:
    """Decodes what was received, leaves out what came twice, and tells the gaps.

    rejected: messages that could not be read; last_rejection: the reason of the newest.
    late: by camera, messages that came after their camera's deadline. health: the newest.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._last: dict[str, LabelsMessage] = {}
        self._received_s: dict[str, float] = {}
        self._session = _Session()
        self._session_name: str | None = None
        self.health: HealthMessage | None = None
        self.late: Counter[str] = Counter()
        self.rejected = 0
        self.last_rejection: str | None = None

    def open(self, parts: list[bytes]) -> tuple[LabelsMessage, Gap] | None:
        """The message in `parts` and the gap before it; None if it is unreadable or not new."""
        try:
            message = decode(parts)
        except MessageError as error:
            self._reject(str(error))
            return None
        return self.accept(message)

    def accept(self, message: Message) -> tuple[LabelsMessage, Gap] | None:
        """A message that was read, and the gap before it; None if it tells of no labels, or is not
        new."""
        now_s = monotonic_s()
        if message.session != self._session_name:
            self._session, self._session_name = _Session(), message.session
        self._session.take(message, now_s)
        if isinstance(message, HealthMessage):
            self.health = message
        if not isinstance(message, LabelsMessage):
            return None
        last = self._last.get(message.camera)
        if last is not None and last.session == message.session and message.seq <= last.seq:
            return None  # retained for somebody else who joined
        self._last.pop(message.camera, None)  # so that the order is that of receipt
        self._last[message.camera] = message
        self._received_s[message.camera] = elapsing_s()
        self.late[message.camera] += message.late
        return message, _gap(last, message)

    def freshest(self, max_age_s: float) -> LabelsMessage | None:
        """The youngest of the cameras' newest messages that are not older than `max_age_s`."""
        return self._freshest(self._last.values(), max_age_s)

    @property
    def silent_s(self) -> float:
        """Seconds since the node said anything, whatever it was, as far as can be known."""
        return monotonic_s() - self._session.heard_s

    @property
    def is_current(self) -> bool:
        """Whether the newest message was sent just now. Known of a node on this computer only."""
        return self._session.here and self.silent_s <= _CURRENT_S

    @property
    def fresh_health(self) -> HealthMessage | None:
        """The newest health, unless it is older than a node that lives would let it become."""
        return self.health if monotonic_s() - self._session.health_s <= ALIVE_S else None

    @property
    def alive(self) -> bool:
        """Whether the node was heard lately, and did not say that it goes."""
        going = self.health is not None and self.health.state == "stopping"
        return self.silent_s <= ALIVE_S and not going

    def required(self, max_age_s: float, camera: str | None) -> LabelsMessage:
        """The freshest labels, or the NotUsableError that says why there are none."""
        known = [x for x in self._last.values() if camera is None or x.camera == camera]
        seen = [x for x in known if x.status is Status.OK]
        fresh = self._freshest(seen, max_age_s)
        if fresh is not None:
            return fresh
        if not self.alive:
            if self.silent_s <= ALIVE_S:
                gone = "the node said that it stops"
            elif math.isinf(self.silent_s):
                gone = "nothing from the node yet; is it running, on this endpoint?"
            else:
                gone = f"nothing from the node for {self.silent_s:.1f} s"
            raise NodeGoneError(f"{self._endpoint}: {gone}", None)
        newest = known[-1] if known else None
        if newest is None:
            raise TooOldError(f"{self._endpoint}: the node lives, and has sent no labels yet", None)
        if newest.status is Status.PAUSED:
            raise NotLookingError(f"camera {newest.camera!r} is paused", newest)
        if newest.status is not Status.OK:
            raise CannotSeeError(f"camera {newest.camera!r} cannot see: {newest.status}", newest)
        raise TooOldError(
            f"camera {newest.camera!r}: the newest labels are {self._age_s(newest):.3f} s old, "
            f"allowed are {max_age_s:g} s",
            newest,
        )

    def speaks(self, max_age_s: float, camera: str | None) -> bool:
        """Whether labels are usable, or the node said just now why they are not."""
        try:
            self.required(max_age_s, camera)
        except (NodeGoneError, TooOldError):
            return False
        except NotUsableError as error:
            return error.message is not None and self._age_s(error.message) <= ALIVE_S
        return True

    def catching_up(self) -> TooOldError:
        """The error text for a reader that rested and has heard nothing since."""
        return TooOldError(
            f"{self._endpoint}: this subscriber read nothing for a while, and what is new is still "
            "on its way to it",
            next(reversed(self._last.values()), None),
        )

    def _freshest(
        self, messages: Iterable[LabelsMessage], max_age_s: float
    ) -> LabelsMessage | None:
        fresh = [message for message in messages if self._age_s(message) <= max_age_s]
        return min(fresh, key=self._age_s, default=None)

    def _age_s(self, message: LabelsMessage) -> float:
        """Never younger than the time it has been here: on another computer than the node's, a wall
        clock that is set back would keep the last message of a dead node fresh."""
        return max(message.age_bound_s, elapsing_s() - self._received_s[message.camera])

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


def connect(
    socket: "zmq.Socket[Any]",
    endpoint: str,
    camera: str | None,
    kind: MessageKind = "labels",
    keys: Keys | None = None,
) -> None:
    """Subscribes to one kind of message of one camera, or of all. Raises EndpointError."""
    if keys is not None:
        keys.put_on(socket)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER_MARK)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    keep_alive(socket)
    socket.setsockopt(zmq.SUBSCRIBE, topic(kind, camera) if camera else f"{kind}/".encode())
    if kind == "labels":
        socket.setsockopt(zmq.SUBSCRIBE, b"health/")
    prepare(socket, endpoint)
    try:
        socket.connect(address_of(endpoint))
    except zmq.ZMQError as error:
        raise EndpointError(
            f"endpoint {endpoint!r} cannot be connected to: {error.strerror}; "
            f"write tcp://HOST:PORT or ipc://PATH, for example {DEFAULT_ENDPOINT}"
        ) from error


def reconnect(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    """Replaces the connection by a new one, with the same subscriptions and keys. What is queued in
    the old one is lost."""
    socket.disconnect(address_of(endpoint))
    socket.connect(address_of(endpoint))


def silence(endpoint: str, timeout_s: float) -> str:
    """What to say where nothing came."""
    return f"{endpoint}: no message for {timeout_s:g} s; is the node running, on this endpoint?"
