"""Subscriber: what control code uses to receive labels. Needs pyzmq and msgpack only;
`perception_client.aio` has the same for asyncio.

A subscriber belongs to the thread (or event loop) that made it.
"""

import contextlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from perception_client.catch_up import FOLLOWS_S, FULL, CatchUp
from perception_client.control import Answer, Control, Picture
from perception_client.errors import (
    CannotSeeError,
    ControlError,
    EndpointError,
    NoAnswerError,
    NodeGoneError,
    NoMessageError,
    NotLookingError,
    NotSeenError,
    NotUsableError,
    TooOldError,
)
from perception_client.events import EventStream
from perception_client.inbox import DEFAULT_TIMEOUT_S, Gap, Inbox, connect, reconnect, silence
from perception_client.keys import Keys
from perception_client.messages.calibration import Bearing, Calibration
from perception_client.messages.codec import decode
from perception_client.messages.kinds import (
    DEFAULT_ENDPOINT,
    Box,
    Detection,
    EventMessage,
    HealthMessage,
    InfoMessage,
    Label,
    LabelsMessage,
    Status,
)
from perception_client.waits import poll_ms, seconds

__all__ = [
    "Answer",
    "Bearing",
    "Box",
    "Calibration",
    "CannotSeeError",
    "Control",
    "ControlError",
    "Detection",
    "EventMessage",
    "EventStream",
    "Gap",
    "HealthMessage",
    "Keys",
    "Label",
    "LabelsMessage",
    "NoAnswerError",
    "NoMessageError",
    "NodeGoneError",
    "NotLookingError",
    "NotSeenError",
    "NotUsableError",
    "Picture",
    "StaleGuard",
    "Status",
    "Subscriber",
    "TooOldError",
]

log = logging.getLogger(__name__)


class Subscriber:
    """Receives the labels of a node.

    camera: only this one; None: all. timeout_s: how long iteration waits for the next message.
    keys: a client's folder of keys, where the node asks for them (`wire.keys`).
    Raises EndpointError for an endpoint that is not one, ConfigError for keys that are none; a node
    that is not there yet is waited for, and one that comes back is found again.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        camera: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        keys: Path | str | Keys | None = None,
    ) -> None:
        self._timeout_s = seconds("timeout_s", timeout_s)
        self._keys = keys if keys is None or isinstance(keys, Keys) else Keys.read(keys)
        self._endpoint = endpoint
        self._inbox = Inbox(endpoint)
        self._catch_up = CatchUp()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._camera = camera
        self._events: EventStream | None = None
        self._sockets = [self._socket]
        try:
            connect(self._socket, endpoint, camera, keys=self._keys)
        except EndpointError:
            self.close()
            raise

    def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message not older than `max_age_s` seconds, or None; older ones are read away.
        What counts is `age_bound_s`: how old the frame can be.

        Waits up to `timeout_s` for one; 0 returns at once, `math.inf` waits for ever. Look at
        `status` before `labels`: a fresh message may say that the camera cannot see.

        After a rest so long that messages piled up, this connects anew, for what is new comes
        sooner so than behind all that is old; what is passed over so counts as lost.
        """
        max_age_s = seconds("max_age_s", max_age_s)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            if self._drain(lambda: self._inbox.freshest(max_age_s) is not None):
                self._catch_up.found_fresh()
            found = self._inbox.freshest(max_age_s)
            left_s = deadline - time.monotonic()
            if found is not None or left_s <= 0:
                return found
            self._poll(left_s)

    def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """The newest labels that were seen at most `max_age_s` seconds ago, of one camera or any.

        Waits up to `timeout_s` for them. Otherwise raises a NotUsableError, by its kind:
        NodeGoneError, CannotSeeError, NotLookingError or TooOldError. After a rest as `latest`;
        that the node is gone is not said before what is new had the time to come.
        """
        max_age_s = seconds("max_age_s", max_age_s)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            if self._drain(lambda: self._inbox.speaks(max_age_s, camera)):
                self._catch_up.found_fresh()
            try:
                return self._inbox.required(max_age_s, camera)
            except NotUsableError as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    if isinstance(error, NodeGoneError) and self._catch_up.is_under_way:
                        raise self._inbox.catching_up() from None
                    raise
            self._poll(left_s)

    def on_stale(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        *,
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
    ) -> "StaleGuard":
        """Calls back as soon as there are no labels younger than `max_age_s` any more, for a safe
        stop, on a thread with a connection of its own, whatever this thread does. See StaleGuard.
        """
        return StaleGuard(
            self._endpoint, max_age_s, callback, camera or self._camera, on_fresh, keys=self._keys
        )

    def wait(self, timeout_s: float) -> bool:
        """Whether something came within so many seconds."""
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while not self._poll(deadline - time.monotonic()):
            if time.monotonic() >= deadline:
                return False
            self._connect_anew_if_due()
        return True

    def _poll(self, left_s: float) -> bool:
        """Whether something came, before a new connection is due."""
        wait_s = min(left_s, self._catch_up.left_s(left_s))
        return bool(self._socket.poll(poll_ms(wait_s), zmq.POLLIN))

    @property
    def alive(self) -> bool:
        """Whether the node was heard in the last 2.5 seconds: it speaks once a second at least."""
        self._drain(lambda: self._inbox.alive)
        return self._inbox.alive

    def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """The node's newest health, at most 2.5 seconds old. Raises NoMessageError where none
        came."""
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            self._drain(lambda: self._inbox.fresh_health is not None)
            health = self._inbox.fresh_health
            if health is not None:
                return health
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise NoMessageError(silence(self._endpoint, timeout_s))
            self._poll(left_s)

    @property
    def newest_health(self) -> HealthMessage | None:
        """The node's newest health of what was received so far; reads nothing, so that `receive`
        misses nothing."""
        return self._inbox.health

    def late(self, camera: str) -> int:
        """Messages of a camera that came after its deadline (`deadline_s` of the node); those that
        `latest` and `require` passed over after a rest are not counted."""
        return self._inbox.late[camera]

    @property
    def events(self) -> EventStream:
        """What came, changed and went; received from the first use on, what is open then first."""
        if self._events is None:
            socket = self._context.socket(zmq.SUB)
            self._sockets.append(socket)
            connect(socket, self._endpoint, self._camera, "events", self._keys)
            self._events = EventStream(socket)
        return self._events

    def wait_for(self, name: str, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """The next message that shows a class (see `LabelsMessage.shows`).

        Raises NotSeenError when none does in time, NoMessageError when nothing came at all.
        """
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
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
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        socket = self._context.socket(zmq.SUB)
        try:
            connect(socket, self._endpoint, None, "info", self._keys)
            while not socket.poll(poll_ms(deadline - time.monotonic()), zmq.POLLIN):
                if time.monotonic() >= deadline:
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
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while (left_s := deadline - time.monotonic()) > 0:
            if self._socket.poll(poll_ms(left_s), zmq.POLLIN):
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

    def _drain(self, is_fresh: Callable[[], bool]) -> bool:
        """Reads what is there; whether it is fresh. Where it was much, and nothing fresh is among
        it or comes soon after it, connects anew."""
        self._catch_up.begin()
        while True:
            for parts in self._catch_up.take(self._queued()):
                self._inbox.open(parts)
            found = is_fresh()
            if self._inbox.is_current:
                self._catch_up.found_fresh()
            if not self._catch_up.goes_on(found) or not self._follows():
                break
        if not found:
            self._connect_anew_if_due()
        return found

    def _queued(self) -> list[list[bytes]]:
        queued: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(queued) < FULL:
                queued.append(self._socket.recv_multipart(zmq.NOBLOCK))
        return queued

    def _follows(self) -> bool:
        return bool(self._socket.poll(poll_ms(FOLLOWS_S), zmq.POLLIN))

    def _connect_anew_if_due(self) -> None:
        if self._catch_up.is_due:
            reconnect(self._socket, self._endpoint)
            self._catch_up.connected_anew()


class StaleGuard:
    """Watches over the age of labels on a thread of its own, until it is closed.

    callback gets the NotUsableError that says why, once each time that labels become unusable, also
    where there were none from the start; on_fresh the first message that is usable again. Both run
    on the guard's thread, so keep them short: the next one waits. Whatever they raise is logged,
    SystemExit and KeyboardInterrupt too, which end nothing from here, and the guard goes on. Should
    the guard itself end, callback gets that as its error; `watching` is whether the guard runs.

    Raises RuntimeError where no thread can be started. It ends with the process.
    """

    def __init__(
        self,
        endpoint: str,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
        *,
        keys: Path | str | Keys | None = None,
    ) -> None:
        self._max_age_s = seconds("max_age_s", max_age_s)
        self._callback = callback
        self._on_fresh = on_fresh
        self._closing = threading.Event()
        self._subscriber = Subscriber(endpoint, camera, keys=keys)
        self._thread = threading.Thread(target=self._run, name="stale-guard", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._subscriber.close()
            raise

    @property
    def watching(self) -> bool:
        """Whether the guard still watches: it is not closed, and did not end by itself. False in a
        child process that was forked off."""
        return self._thread.is_alive() and not self._closing.is_set()

    def close(self) -> None:
        """Watches no more; a callback may call it too."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # who relies on a guard has to know that there is none
            _say("the stale guard ended")
            if not self._closing.is_set():
                ended = NotUsableError(f"the stale guard ended: {error!r}", None)
                self._told(self._callback, ended)

    def _watch(self) -> None:
        stale: bool | None = None
        patience = time.monotonic() + self._max_age_s  # to connect in
        with self._subscriber as subscriber:
            while not self._closing.is_set():
                try:
                    message = subscriber.require(self._max_age_s)
                    if stale and self._on_fresh is not None:
                        self._told(self._on_fresh, message)
                    stale = False
                    left_s = self._max_age_s - message.age_bound_s
                except NotUsableError as error:
                    left_s = patience - time.monotonic() if stale is None else 0.1
                    if stale is False or (stale is None and left_s <= 0):
                        stale = True
                        self._told(self._callback, error)
                subscriber.wait(min(max(left_s, 0.0), 0.1))

    def _told(self, callback: Callable[[Any], object], what: object) -> None:
        try:
            callback(what)
        except BaseException as error:  # the user's own, sys.exit() too; the guard goes on
            _say(f"a callback of the stale guard raised {error!r}; the guard goes on")


def _say(what: str) -> None:
    """Logs the exception that is handled now; where logging fails itself, says it on stderr."""
    try:
        log.exception(what)
    except BaseException:
        with contextlib.suppress(BaseException):
            print(f"{what}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
