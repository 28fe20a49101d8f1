"""AsyncSubscriber: `Subscriber` for asyncio. A module of its own, since loading asyncio takes as
long as all the rest of the client."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Self

import zmq
import zmq.asyncio

from perception_client.catch_up import FOLLOWS_S, FULL
from perception_client.connected import ConnectedSubscriber
from perception_client.errors import (
    NoMessageError,
    NotUsableError,
    UnknownCameraError,
)
from perception_client.events import EventInbox
from perception_client.inbox import (
    DEFAULT_TIMEOUT_S,
    MOST_DRAINED,
    Gap,
)
from perception_client.keys import Keys
from perception_client.messages.calibration import Calibration
from perception_client.messages.events import EventMessage
from perception_client.messages.health import HealthMessage
from perception_client.messages.labels import LabelsMessage
from perception_client.messages.wire import DEFAULT_ENDPOINT
from perception_client.protocol import AsyncLabelSource
from perception_client.subscriber import StaleGuard
from perception_client.waits import age_limit, poll_ms, seconds


class AsyncEventStream:
    """The events of a node as they come. `AsyncSubscriber.events` makes one.

    check: called before each use; raises where this event loop may not use the socket.
    """

    def __init__(
        self, socket: zmq.asyncio.Socket, check: Callable[[], None] = lambda: None
    ) -> None:
        self._socket = socket
        self._check = check
        self._inbox = EventInbox()

    async def receive(self, timeout_s: float) -> EventMessage | None:
        """The next event; None where none came within `timeout_s` seconds, which is usual."""
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            try:
                event = self._inbox.open(await self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                await _poll(self._socket, left_s)
                self._check()
                continue
            if event is not None:
                return event

    async def take(self) -> list[EventMessage]:
        """The events that no call returned yet, without waiting."""
        events: list[EventMessage] = []
        while (event := await self.receive(0.0)) is not None:
            events.append(event)
        return events

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is there now, of one camera or of all, as far as
        received."""
        return self._inbox.now(camera)

    @property
    def lost(self) -> int:
        """Number of events that were sent and did not arrive."""
        return self._inbox.lost

    async def __aiter__(self) -> AsyncIterator[EventMessage]:
        """Every event; waits for the next one without limit."""
        while True:
            event = await self.receive(float("inf"))
            if event is not None:
                yield event


class AsyncSubscriber(ConnectedSubscriber):
    """Receives the labels of a node, for asyncio: the calls of `Subscriber`, awaited.

    Connects in the background: a node that is not there yet, or that restarts, is connected to as
    soon as it is there. Belongs to the event loop that first receives with it; a call from another
    one raises WrongThreadError, one after `close` ClosedError, one in a forked process ForkedError.

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
        super().__init__(zmq.asyncio.Context, endpoint, camera, timeout_s, keys)
        self._events: AsyncEventStream | None = None
        self._socket: zmq.asyncio.Socket = self._connection.labels

    def _check(self) -> None:
        self._connection.owner.check(asyncio.get_running_loop())

    async def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message of any camera, at most `max_age_s` seconds old; else None. Older
        messages are discarded, and iteration goes on behind the newest.

        `age_bound_s` counts: the most that the frame can be old. Look at `status` before `labels`:
        a fresh message may say that the camera cannot see.

        Args:
            max_age_s: largest age, in seconds.
            timeout_s: longest wait for such a message, in seconds; 0 does not wait, `math.inf`
                waits without limit.
        """
        self._check()
        max_age_s = age_limit(max_age_s)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            await self._drain(lambda: self._inbox.freshest(max_age_s) is not None)
            message = self._inbox.freshest(max_age_s)
            left_s = deadline - time.monotonic()
            if message is not None or left_s <= 0:
                return message
            await self._poll(left_s)

    async def require(
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
            await self._drain(lambda: self._inbox.speaks(max_age_s, camera))
            try:
                return self._inbox.required(max_age_s, camera)
            except UnknownCameraError:
                raise
            except NotUsableError as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise self._explained(error) from None
            await self._poll(left_s)

    def on_stale(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        *,
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
    ) -> StaleGuard:
        """Calls `callback` as soon as no labels are younger than `max_age_s` seconds, for a safe
        stop. The callback runs on the guard's own thread, so that it works while the event loop
        hangs; `loop.call_soon_threadsafe` leads back into the loop. See StaleGuard."""
        self._check()
        keys = self._connection.keys
        camera = self._camera_of(camera)
        return StaleGuard(self._source, max_age_s, callback, camera, on_fresh, keys=keys)

    async def wait(self, timeout_s: float) -> bool:
        """Waits until labels are there that no call has returned yet; False where none came within
        `timeout_s` seconds.

        Returns True at once, again and again, until a call reads them: `latest` and `require` read
        all, `receive` and iteration the next.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while not self._inbox.has_unread:
            if await self._take_one():
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            if not await self._poll(left_s):
                self._reconnect_if_due()
        return True

    async def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """The node's newest health, at most 2.5 seconds old. Labels that arrive meanwhile are kept
        for iteration, the newest 256 of them.

        timeout_s: longest wait, in seconds. Raises NoMessageError.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            await self._read_on()
            health = self._inbox.fresh_health
            if health is not None:
                return health
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._silent(timeout_s)
            await self._poll(left_s)

    @property
    def events(self) -> AsyncEventStream:
        """The stream of events: what came, changed and went. The first use opens a connection for
        it, and the things that are there then come first."""
        if self._events is None:
            self._check()
            self._events = AsyncEventStream(self._connection.subscribe("events"), self._check)
        return self._events

    async def wait_for(
        self, name: str | None, timeout_s: float, min_score: float = 0.0
    ) -> LabelsMessage:
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
            await self._read_on()  # the model may have changed, and its classes with it
            self._inbox.check_class(name)
            try:
                message, _ = await self.receive(left_s)
            except NoMessageError:
                break
            received = True
            if message.shows(name, min_score):
                return message
        self._inbox.check_class(name)
        if not received:
            raise self._silent(timeout_s)
        raise self._not_seen(name, timeout_s)

    async def calibration(self, camera: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Calibration:
        """A camera's calibration, from the node's configuration. Labels that arrive meanwhile are
        kept, as by `health`.

        timeout_s: longest wait for the node's info, in seconds. Raises NoMessageError where it does
        not come in time, NoCalibrationError (a LookupError) for a camera without calibration.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            await self._read_on()
            calibration = self._calibration(camera)
            if calibration is not None:
                return calibration
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._silent(timeout_s)
            await self._poll(left_s)

    async def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """The next message in order, and the gap before it: what is missing.

        timeout_s: longest wait, in seconds. Raises NoMessageError, and UnknownCameraError where the
        node has no camera of this name.
        """
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            if (unread := self._inbox.next()) is not None:
                return unread
            if await self._take_one():
                continue
            if (unknown := self._inbox.unknown_camera(self._camera)) is not None:
                raise unknown
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self._silent(timeout_s)
            await _poll(self._socket, left_s)
            self._check()

    async def __aiter__(self) -> AsyncIterator[tuple[LabelsMessage, Gap]]:
        """Every message in order, each with the gap before it. Raises as `receive`, after the
        `timeout_s` of the constructor."""
        while True:
            yield await self.receive(self._timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    async def _poll(self, left_s: float) -> bool:
        """Whether a message came, before a new connection is due. One that is due is made."""
        self._reconnect_if_due()
        ready = await _poll(self._socket, min(left_s, self._catch_up.left_s(left_s)))
        self._check()  # it may have been closed meanwhile
        return ready

    async def _take_one(self) -> bool:
        """Takes the next message, where one is there."""
        try:
            parts = await self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._inbox.open(parts)
        return True

    async def _read_on(self) -> None:
        """Takes the messages that are there, in order, and keeps the labels among them."""
        count = 0
        while count < MOST_DRAINED:
            if await self._take_one():
                count += 1
            elif count < FULL or not await _poll(self._socket, FOLLOWS_S):
                return  # behind a full queue is more, soon

    async def _drain(self, is_fresh: Callable[[], bool]) -> None:
        """Takes the messages that are there, and discards all labels but the newest. Where there
        were many, and none is fresh or follows soon, connects again."""
        self._catch_up.begin()
        while True:
            for parts in self._catch_up.take(await self._queued()):
                self._inbox.open(parts)
            fresh = is_fresh()
            if fresh or self._inbox.is_current:
                self._catch_up.found_fresh()
            if not self._catch_up.goes_on(fresh) or not await _poll(self._socket, FOLLOWS_S):
                break
        self._inbox.discard_unread()
        if not fresh:
            self._reconnect_if_due()

    async def _queued(self) -> list[list[bytes]]:
        queued: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(queued) < FULL:
                queued.append(await self._socket.recv_multipart(zmq.NOBLOCK))
        return queued


if TYPE_CHECKING:
    _: type[AsyncLabelSource] = AsyncSubscriber


async def _poll(socket: zmq.asyncio.Socket, left_s: float) -> bool:
    """Whether a message is there within `left_s` seconds, an hour at most. A socket that is closed
    meanwhile cancels the poll; the caller's check then says so."""
    try:
        return bool(await socket.poll(poll_ms(left_s), zmq.POLLIN))  # type: ignore[call-arg]  # pyzmq's stub lacks it
    except asyncio.CancelledError:
        if socket.closed and not _is_cancelled():
            return False
        raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
