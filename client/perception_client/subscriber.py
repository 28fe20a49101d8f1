"""Subscriber: receives the labels of a node, for control code. Needs pyzmq and msgpack only;
`perception_client.aio` has the same for asyncio, and both follow `perception_client.protocol`.

Rejected: a background thread that always reads, and keeps the newest message in memory. It would
make every property current, but costs a thread and a lock per subscriber, and a process that hangs
would look alive to itself.
"""

import contextlib
import inspect
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import zmq

from perception_client.base import check_callback
from perception_client.catch_up import FOLLOWS_S, FULL
from perception_client.connected import ConnectedSubscriber
from perception_client.control import Answer, Control, Picture
from perception_client.errors import (
    ArgumentTypeError,
    CannotSeeError,
    ControlError,
    EndpointError,
    GuardError,
    NoAnswerError,
    NodeGoneError,
    NoMessageError,
    NotLookingError,
    NotSeenError,
    NotUsableError,
    TooOldError,
    UnknownCameraError,
    WrongThreadError,
)
from perception_client.events import EventStream
from perception_client.inbox import (
    DEFAULT_TIMEOUT_S,
    MOST_DRAINED,
    Gap,
)
from perception_client.keys import Keys
from perception_client.messages.calibration import Bearing, Calibration
from perception_client.messages.events import EventMessage
from perception_client.messages.health import HealthMessage
from perception_client.messages.labels import Box, Detection, Label, LabelsMessage, Status
from perception_client.messages.wire import DEFAULT_ENDPOINT
from perception_client.protocol import LabelSource
from perception_client.waits import age_limit, poll, poll_ms, seconds

__all__ = [
    "Answer",
    "Bearing",
    "Box",
    "Calibration",
    "CannotSeeError",
    "Control",
    "ControlError",
    "Detection",
    "EndpointError",
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


class Subscriber(ConnectedSubscriber):
    """Receives the labels of a node.

    Connects in the background: a node that is not there yet, or that restarts, is connected to as
    soon as it is there. Belongs to the thread that first receives with it; a call from another
    thread raises WrongThreadError, one after `close` ClosedError, one in a forked process
    ForkedError.

    Args:
        endpoint: `tcp://HOST:PORT` or `ipc://PATH` of the node (`wire.endpoint`).
        camera: name of the only camera to receive; None for all.
        timeout_s: longest wait of iteration for the next message, in seconds.
        keys: this client's folder of keys, where the node asks for keys (`wire.keys`).

    Raises:
        EndpointError: the endpoint is malformed.
        ConfigError: the folder of keys is missing or damaged.
    """

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        camera: str | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        keys: Path | str | Keys | None = None,
    ) -> None:
        super().__init__(zmq.Context, endpoint, camera, timeout_s, keys)
        self._events: EventStream | None = None
        self._socket: zmq.Socket[bytes] = self._connection.labels
        self._check = self._connection.owner.check

    def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message of any camera, at most `max_age_s` seconds old; else None. Older
        messages are discarded, and iteration goes on behind the newest.

        `age_bound_s` counts: the most that the frame can be old. Look at `status` before `labels`:
        a fresh message may say that the camera cannot see.

        A subscriber that did not read for a while connects again, because new messages reach a new
        connection before a full one; what it discards so counts as lost.

        Args:
            max_age_s: largest age, in seconds.
            timeout_s: longest wait for such a message, in seconds; 0 does not wait, `math.inf`
                waits without limit.
        """
        self._check()
        max_age_s = age_limit(max_age_s)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            self._drain(lambda: self._inbox.freshest(max_age_s) is not None)
            message = self._inbox.freshest(max_age_s)
            left_s = deadline - time.monotonic()
            if message is not None or left_s <= 0:
                return message
            self._poll(left_s)

    def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """The newest labels, at most `max_age_s` seconds old, of one camera or of any. Discards
        older messages, as `latest`.

        Args:
            max_age_s: largest age, in seconds.
            camera: name of the camera; None for any that this subscriber receives.
            timeout_s: longest wait for such labels, in seconds; 0 does not wait.

        Raises:
            NotUsableError: there are none; its subclass says why: NodeGoneError, CannotSeeError,
                NotLookingError, TooOldError or UnknownCameraError.
        """
        self._check()
        max_age_s = age_limit(max_age_s)
        camera = self._camera_of(camera)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            self._drain(lambda: self._inbox.speaks(max_age_s, camera))
            try:
                return self._inbox.required(max_age_s, camera)
            except UnknownCameraError:
                raise
            except NotUsableError as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._explained(error) from None
            self._poll(left_s)

    def on_stale(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        *,
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
    ) -> "StaleGuard":
        """Calls `callback` as soon as no labels are younger than `max_age_s` seconds, for a safe
        stop. The guard has a thread and a connection of its own, so it works while this thread
        hangs. See StaleGuard."""
        self._check()
        keys = self._connection.keys
        camera = self._camera_of(camera)
        return StaleGuard(self._source, max_age_s, callback, camera, on_fresh, keys=keys)

    def wait(self, timeout_s: float) -> bool:
        """Waits until labels are there that no call has returned yet; False where none came within
        `timeout_s` seconds.

        Returns True at once, again and again, until a call reads them: `latest` and `require` read
        all, `receive` and iteration the next.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while not self._inbox.has_unread:
            if self._take_one():
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if not self._poll(left_s):
                self._reconnect_if_due()
        return True

    def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """The node's newest health, at most 2.5 seconds old. Labels that arrive meanwhile are kept
        for iteration, the newest 256 of them.

        timeout_s: longest wait, in seconds. Raises NoMessageError.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            self._read_on()
            health = self._inbox.fresh_health
            if health is not None:
                return health
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._silent(timeout_s)
            self._poll(left_s)

    @property
    def events(self) -> EventStream:
        """The stream of events: what came, changed and went. The first use opens a connection for
        it, and the things that are there then come first."""
        if self._events is None:
            self._check()
            self._events = EventStream(self._connection.subscribe("events"), self._check)
        return self._events

    def wait_for(self, name: str | None, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """The next message that shows a class, or anything, as `LabelsMessage.shows` has it.

        Args:
            name: of the class, such as `person` or `apriltag36h11:17`; None for any.
            timeout_s: longest wait, in seconds.
            min_score: smallest score that counts, 0 to 1.

        Raises:
            NotSeenError: messages came, none in time showed the class.
            NoMessageError: no message came.
            UnknownClassError: the model has no such class.
        """
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        received = False
        self._check()
        while (left_s := deadline - time.monotonic()) > 0:
            self._read_on()  # the model may have changed, and its classes with it
            self._inbox.check_class(name)
            try:
                message, _ = self.receive(left_s)
            except NoMessageError:
                break
            received = True
            if message.shows(name, min_score):
                return message
        self._inbox.check_class(name)
        if not received:
            raise self._silent(timeout_s)
        raise self._not_seen(name, timeout_s)

    def calibration(self, camera: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Calibration:
        """A camera's calibration, from the node's configuration. Labels that arrive meanwhile are
        kept, as by `health`.

        timeout_s: longest wait for the node's info, in seconds. Raises NoMessageError where it does
        not come in time, NoCalibrationError (a LookupError) for a camera without calibration.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            self._read_on()
            calibration = self._calibration(camera)
            if calibration is not None:
                return calibration
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._silent(timeout_s)
            self._poll(left_s)

    def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """The next message in order, and the gap before it: what is missing.

        timeout_s: longest wait, in seconds. Raises NoMessageError, and UnknownCameraError where the
        node has no camera of this name.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            if (unread := self._inbox.next()) is not None:
                return unread
            unknown = self._inbox.unknown_camera(self._camera)
            left_s = deadline - time.monotonic()
            if unknown is None and left_s > 0:
                if poll(self._socket, left_s, self._check):
                    self._take_one()
            elif not self._take_one():
                raise unknown or self._silent(timeout_s)

    def __iter__(self) -> Iterator[tuple[LabelsMessage, Gap]]:
        """Every message in order, each with the gap before it. Raises as `receive`, after the
        `timeout_s` of the constructor."""
        while True:
            yield self.receive(self._timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.close()
        except WrongThreadError:
            if not any(error):  # else the error of the block is the one to know
                raise

    def _poll(self, left_s: float) -> bool:
        """Whether a message came, before a new connection is due. One that is due is made."""
        self._reconnect_if_due()
        wait_s = min(left_s, self._catch_up.left_s(left_s))
        return poll(self._socket, wait_s, self._check)

    def _take_one(self) -> bool:
        """Takes the next message, where one is there."""
        try:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._inbox.open(parts)
        return True

    def _read_on(self) -> None:
        """Takes the messages that are there, in order, and keeps the labels among them."""
        count = 0
        while count < MOST_DRAINED:
            if self._take_one():
                count += 1
            elif count < FULL or not self._follows():  # behind a full queue is more, soon
                return

    def _drain(self, is_fresh: Callable[[], bool]) -> None:
        """Takes the messages that are there, and discards all labels but the newest. Where there
        were many, and none is fresh or follows soon, connects again."""
        self._catch_up.begin()
        while True:
            for parts in self._catch_up.take(self._queued()):
                self._inbox.open(parts)
            fresh = is_fresh()
            if fresh or self._inbox.is_current:
                self._catch_up.found_fresh()
            if not self._catch_up.goes_on(fresh) or not self._follows():
                break
        self._inbox.discard_unread()
        if not fresh:
            self._reconnect_if_due()

    def _queued(self) -> list[list[bytes]]:
        queued: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(queued) < FULL:
                queued.append(self._socket.recv_multipart(zmq.NOBLOCK))
        return queued

    def _follows(self) -> bool:
        return bool(self._socket.poll(poll_ms(FOLLOWS_S), zmq.POLLIN))


if TYPE_CHECKING:
    _: type[LabelSource] = Subscriber


class StaleGuard:
    """Watches the age of labels on a thread of its own, until it is closed.

    A callback runs on the guard's thread and delays the next one, so keep it short. Whatever it
    raises is logged, SystemExit and KeyboardInterrupt too, and the guard goes on. Should the guard
    itself end, `callback` gets that as its error. The guard ends with the process.

    Args:
        endpoint, camera, keys: as for Subscriber.
        max_age_s: age from which labels are stale, in seconds.
        callback: gets the NotUsableError that says why, once each time that labels become stale,
            also `max_age_s` seconds after the start where none came.
        on_fresh: gets the first message that is usable again.

    Raises:
        ArgumentTypeError: a callback that does not take one argument.
        GuardError: the system has no thread for it.
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
        self._max_age_s = age_limit(max_age_s)
        check_callback("callback", callback, required=True)
        check_callback("on_fresh", on_fresh)
        self._callback = callback
        self._on_fresh = on_fresh
        self._closing = threading.Event()
        self._subscriber = Subscriber(endpoint, camera, keys=keys)
        self._thread = threading.Thread(target=self._run, name="stale-guard", daemon=True)
        try:
            self._thread.start()
        except BaseException as error:
            self._subscriber.close()
            if isinstance(error, RuntimeError):
                raise GuardError(f"the stale guard cannot start: {error}") from error
            raise

    @property
    def watching(self) -> bool:
        """Whether the guard still watches: it is not closed, and did not end by itself. False in a
        forked process."""
        return self._thread.is_alive() and not self._closing.is_set()

    def close(self) -> None:
        """Stops watching; a second call does nothing. A callback may call it too."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.close()
        except WrongThreadError:
            if not any(error):  # else the error of the block is the one to know
                raise

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # whoever relies on a guard has to know that it ended
            _report("the stale guard ended")
            if not self._closing.is_set():
                ended = NotUsableError(f"the stale guard ended: {error!r}", None)
                self._call(self._callback, ended)

    def _watch(self) -> None:
        stale: bool | None = None
        first_due_s = time.monotonic() + self._max_age_s  # the connection takes a moment
        with self._subscriber as subscriber:
            while not self._closing.is_set():
                try:
                    message = subscriber.require(self._max_age_s)
                    if stale and self._on_fresh is not None:
                        self._call(self._on_fresh, message)
                    stale = False
                    left_s = self._max_age_s - message.age_bound_s
                except NotUsableError as error:
                    left_s = first_due_s - time.monotonic() if stale is None else 0.1
                    if stale is False or (stale is None and left_s <= 0):
                        stale = True
                        self._call(self._callback, error)
                subscriber._poll(min(max(left_s, 0.0), 0.1))  # for any message: health says more

    def _call(self, callback: Callable[[Any], object], argument: object) -> None:
        try:
            result = callback(argument)
            if inspect.iscoroutine(result):
                result.close()
                raise ArgumentTypeError("the callback returned a coroutine, which nothing awaits")
        except BaseException as error:  # of the user's code, sys.exit() too; the guard goes on
            _report(f"a callback of the stale guard raised {error!r}; the guard goes on")


def _report(message: str) -> None:
    """Logs the exception that is being handled; where logging itself fails, prints it on stderr."""
    try:
        log.exception(message)
    except BaseException:
        with contextlib.suppress(BaseException):
            print(f"{message}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
