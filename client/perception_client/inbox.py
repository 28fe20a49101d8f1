"""Inbox: what a subscriber knows of a node, whichever way it receives. Needs pyzmq and msgpack
only."""

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import zmq

from perception_client.endpoint import address_of, connect_to, keep_alive
from perception_client.errors import (
    CannotSeeError,
    MessageError,
    NodeGoneError,
    NotLookingError,
    NotUsableError,
    TooOldError,
    UnknownCameraError,
)
from perception_client.keys import Keys
from perception_client.messages.clock import boot_id, elapsing_s, monotonic_s, virtual_ns
from perception_client.messages.codec import decode
from perception_client.messages.health import HealthMessage
from perception_client.messages.info import InfoMessage
from perception_client.messages.labels import LabelsMessage, Status
from perception_client.messages.topics import Message, MessageKind, topic
from perception_client.messages.wire import DEFAULT_ENDPOINT, MAX_MESSAGE_BYTES
from perception_client.text import duration, printable
from perception_client.vocabulary import Vocabulary

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 5.0
ALIVE_S = 2.5
"""Silence after which a node is taken for gone: it sends its health once a second."""
RECEIVE_HIGH_WATER_MARK = 256
"""Messages that libzmq keeps for a reader who rests, beside what the kernel keeps."""
MOST_DRAINED = 1_000
"""Messages that one call reads at least, where so many are there: more than a full queue holds."""
MOST_UNREAD = 256
"""Messages that are kept for iteration while another call reads the socket: as many as libzmq
keeps. What is older falls out, and the gap of the next message counts it."""
_CURRENT_S = 0.1
"""Age of a message up to which it was not held back on its way."""


@dataclass(frozen=True, slots=True)
class Gap:
    """The messages and frames missing between a message and the one before it of its camera."""

    dropped: int = 0
    """Frames that the node dropped for newer ones, before inference."""
    lost: int = 0
    """Messages that were sent and did not arrive, or that this subscriber did not read in time."""
    restarted: bool = False
    """The node restarted in between; what it sent before is not counted."""

    def __bool__(self) -> bool:
        """Whether anything is missing."""
        return bool(self.dropped or self.lost or self.restarted)

    def __str__(self) -> str:
        parts = (
            f"{self.dropped} dropped" if self.dropped else "",
            f"{self.lost} lost" if self.lost else "",
            "node restarted" if self.restarted else "",
        )
        return ", ".join(part for part in parts if part) or "nothing missing"


_NO_GAP = Gap()


@dataclass(slots=True)
class _Session:
    """When one run of a node last sent something, in seconds of `monotonic_s`.

    For a node on this computer the moment of sending counts, not that of receipt: messages that a
    dead node left in the queue are no sign of life. Labels carry that moment. Health carries the
    node's uptime on the same clock, which gives its moment relative to the labels.
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
    """Decodes messages, leaves out duplicates, computes the gaps, keeps what no call returned yet.

    endpoint: for the texts of errors. most_unread: messages kept for `next`, None for no bound.
    """

    def __init__(self, endpoint: str, *, most_unread: int | None = MOST_UNREAD) -> None:
        self._endpoint = endpoint
        self._most_unread = most_unread
        self._unread: deque[tuple[LabelsMessage, Gap]] = deque()
        self._fallen_out: dict[str, Gap] = {}
        self._last: dict[str, LabelsMessage] = {}
        self._received_s: dict[str, float] = {}
        self._session = _Session()
        self._session_name: str | None = None
        self._vocabulary: Vocabulary | None = None
        self.health: HealthMessage | None = None
        """The newest health message."""
        self.info: InfoMessage | None = None
        """The newest info message."""
        self.late: Counter[str] = Counter()
        """By camera, messages that came after the camera's deadline."""
        self.rejected = 0
        """Messages that could not be decoded."""
        self.last_rejection: str | None = None
        """Why the newest of them could not be decoded."""

    def open(self, parts: list[bytes]) -> None:
        """Takes a message as it was received; one that cannot be decoded is counted."""
        try:
            message = decode(parts)
        except MessageError as error:
            self._reject(str(error))
            return
        self.accept(message)

    def accept(self, message: Message) -> None:
        """Takes a decoded message. New labels are kept for `next`."""
        now_s = monotonic_s()
        if message.session != self._session_name:
            self._session, self._session_name = _Session(), message.session
        self._session.take(message, now_s)
        match message:
            case LabelsMessage():
                self._accept_labels(message)
            case HealthMessage():
                self.health = message
            case InfoMessage():
                self.info, self._vocabulary = message, Vocabulary(message)

    def _accept_labels(self, message: LabelsMessage) -> None:
        last = self._last.get(message.camera)
        if last is not None and last.session == message.session and message.seq <= last.seq:
            return  # retained for another subscriber that joined
        self._last.pop(message.camera, None)  # so that the order is that of receipt
        self._last[message.camera] = message
        self._received_s[message.camera] = elapsing_s()
        self.late[message.camera] += message.late
        self._unread.append((message, _gap(last, message)))
        if self._most_unread is not None and len(self._unread) > self._most_unread:
            fallen, gap = self._unread.popleft()
            self._fallen_out[fallen.camera] = _sum(
                self._fallen_out.get(fallen.camera, Gap()), gap, Gap(lost=1)
            )

    @property
    def has_unread(self) -> bool:
        """Whether there are labels that no call has returned yet."""
        return bool(self._unread)

    def next(self) -> tuple[LabelsMessage, Gap] | None:
        """The oldest labels that no call has returned yet, and the gap before them."""
        if not self._unread:
            return None
        message, gap = self._unread.popleft()
        fallen = self._fallen_out.pop(message.camera, None)
        return self._informed(message), gap if fallen is None else _sum(fallen, gap)

    def discard_unread(self) -> None:
        """For a caller that wants the newest labels only: the older ones count as read."""
        self._unread.clear()
        self._fallen_out.clear()

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the node's cameras, as its newest health lists them; empty until one came."""
        health = self.health
        if health is None or health.session != self._session_name:
            return ()
        return tuple(camera.camera for camera in health.cameras)

    def unknown_camera(self, camera: str | None) -> UnknownCameraError | None:
        """The error for a camera that the node is known not to have, while the node is alive: the
        next one may have it. Else None."""
        if camera is None:
            return None
        last = self._last.get(camera)
        if last is not None and last.session == self._session_name:
            return None
        cameras = self.cameras
        if not self.alive or not cameras or camera in cameras:
            return None
        return no_camera(self._endpoint, camera, cameras)

    def check_class(self, name: str | None) -> None:
        """Raises UnknownClassError where the node's model is known to have no such class. None is
        any class."""
        if name is None:
            return
        if self._vocabulary is not None and self._vocabulary.session == self._session_name:
            self._vocabulary.check(name)

    def _informed(self, message: LabelsMessage) -> LabelsMessage:
        """The same message, which from now on checks class names, where they are known."""
        vocabulary = self._vocabulary
        if vocabulary is not None and not message.checks_classes and vocabulary.covers(message):
            message.check_classes_by(vocabulary.check)
        return message

    def freshest(self, max_age_s: float) -> LabelsMessage | None:
        """The youngest of the cameras' newest messages that are not older than `max_age_s`
        seconds."""
        return self._freshest(self._last.values(), max_age_s)

    @property
    def silent_s(self) -> float:
        """Seconds since the node sent any message, as far as can be known; inf before the first."""
        return monotonic_s() - self._session.heard_s

    @property
    def is_current(self) -> bool:
        """Whether the newest message was sent just now. Known for a node on this computer only."""
        return self._session.here and self.silent_s <= _CURRENT_S

    @property
    def fresh_health(self) -> HealthMessage | None:
        """The newest health, at most ALIVE_S old; else None."""
        return self.health if monotonic_s() - self._session.health_s <= ALIVE_S else None

    @property
    def alive(self) -> bool:
        """Whether a message came in the last ALIVE_S seconds, and none said that the node stops."""
        health = self.health
        stopping = (
            health is not None
            and health.state == "stopping"
            and health.session == self._session_name  # not of the node before a restart
        )
        return self.silent_s <= ALIVE_S and not stopping

    def required(self, max_age_s: float, camera: str | None) -> LabelsMessage:
        """The freshest labels, or the NotUsableError that says why there are none.

        max_age_s: in seconds. camera: None for any.
        """
        known = [
            message for message in self._last.values() if camera is None or message.camera == camera
        ]
        usable = [message for message in known if message.status is Status.OK]
        fresh = self._freshest(usable, max_age_s)
        if fresh is not None:
            return fresh
        newest = known[-1] if known else None
        if not self.alive:
            raise NodeGoneError(f"{self._endpoint}: {self._why_gone()}", newest)
        if (unknown := self.unknown_camera(camera)) is not None:
            raise unknown
        if newest is None:
            whose = "" if camera is None else f" of camera {camera!r}"
            raise TooOldError(
                f"{self._endpoint}: the node is alive, and has sent no labels{whose} yet", None
            )
        if newest.status is Status.PAUSED:
            raise NotLookingError(f"camera {newest.camera!r} is paused", newest)
        if newest.status is not Status.OK:
            raise CannotSeeError(f"camera {newest.camera!r} cannot see: {newest.status}", newest)
        raise TooOldError(
            f"camera {newest.camera!r}: the newest labels are "
            f"{duration(self._age_s(newest), '.3f')} old, the limit is {duration(max_age_s)}",
            newest,
        )

    def _why_gone(self) -> str:
        if self.silent_s <= ALIVE_S:
            return "the node announced that it stops"
        if math.isinf(self.silent_s):
            return "nothing from the node yet; is it running, on this endpoint?"
        return f"nothing from the node for {duration(self.silent_s, '.1f')}"

    def speaks(self, max_age_s: float, camera: str | None) -> bool:
        """Whether labels are usable, or a recent message says why they are not."""
        try:
            self.required(max_age_s, camera)
        except UnknownCameraError:
            return True
        except (NodeGoneError, TooOldError):
            return False
        except NotUsableError as error:
            return error.message is not None and self._age_s(error.message) <= ALIVE_S
        return True

    def catching_up(self) -> TooOldError:
        """The error for a subscriber that read nothing for a while, and has received nothing new
        since."""
        return TooOldError(
            f"{self._endpoint}: this subscriber read nothing for a while; newer labels are still "
            "on their way to it",
            next(reversed(self._last.values()), None),
        )

    def _freshest(
        self, messages: Iterable[LabelsMessage], max_age_s: float
    ) -> LabelsMessage | None:
        fresh = [message for message in messages if self._age_s(message) <= max_age_s]
        youngest = min(fresh, key=self._age_s, default=None)
        return None if youngest is None else self._informed(youngest)

    def _age_s(self, message: LabelsMessage) -> float:
        """Seconds; at least the time since receipt. On another computer than the node's, a wall
        clock that is set back would else keep the last message of a dead node fresh."""
        return max(message.age_bound_s, elapsing_s() - self._received_s[message.camera])

    def _reject(self, reason: str) -> None:
        self.rejected += 1
        if reason != self.last_rejection:  # once for each kind, not once for each message
            self.last_rejection = reason
            log.warning("%s: message skipped: %s", self._endpoint, reason)


def _gap(last: LabelsMessage | None, message: LabelsMessage) -> Gap:
    if last is None:
        return _NO_GAP
    if last.session != message.session:
        return Gap(dropped=message.dropped, restarted=True)
    lost = message.seq - last.seq - 1
    dropped = message.dropped
    if not lost and not dropped:
        return _NO_GAP
    if lost and message.frame_id is not None and last.frame_id is not None:
        # The lost messages took their own counts of dropped frames with them.
        dropped = max(dropped, message.frame_id - last.frame_id - 1 - lost)
    return Gap(dropped=dropped, lost=lost)


def _sum(*gaps: Gap) -> Gap:
    return Gap(
        dropped=sum(gap.dropped for gap in gaps),
        lost=sum(gap.lost for gap in gaps),
        restarted=any(gap.restarted for gap in gaps),
    )


def connect(
    socket: "zmq.Socket[Any]",
    endpoint: str,
    camera: str | None,
    kind: MessageKind = "labels",
    keys: Keys | None = None,
) -> None:
    """Subscribes to one kind of message, of one camera or of all; with labels also to info, which
    names the classes, and to health. Raises EndpointError, ConfigError."""
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
        socket.setsockopt(zmq.SUBSCRIBE, b"info/")
    connect_to(socket, endpoint, DEFAULT_ENDPOINT)


def reconnect(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    """Replaces the connection by a new one, with the same subscriptions and keys. Messages that are
    queued in the old one are lost."""
    socket.disconnect(address_of(endpoint))
    socket.connect(address_of(endpoint))


def no_camera(source: str, camera: str, cameras: Iterable[str]) -> UnknownCameraError:
    """The error for a camera that a node or a recording does not have."""
    names = ", ".join(printable(name) for name in cameras)
    return UnknownCameraError(f"{source}: no camera {camera!r}; it has: {names or 'none'}", None)


def silence(endpoint: str, timeout_s: float, kind: str = "message") -> str:
    """The text of an error where nothing came within `timeout_s` seconds."""
    return (
        f"{endpoint}: no {kind} for {duration(timeout_s)}; is the node running, on this endpoint?"
    )
