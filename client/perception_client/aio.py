"""AsyncSubscriber: `Subscriber` for asyncio. A module of its own, since loading asyncio takes as
long as all the rest of the client."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio

from perception_client.catch_up import FOLLOWS_S, FULL, CatchUp
from perception_client.errors import (
    EndpointError,
    NodeGoneError,
    NoMessageError,
    NotSeenError,
    NotUsableError,
)
from perception_client.events import EventInbox
from perception_client.inbox import DEFAULT_TIMEOUT_S, Gap, Inbox, connect, reconnect, silence
from perception_client.keys import Keys
from perception_client.messages.kinds import DEFAULT_ENDPOINT, EventMessage, LabelsMessage
from perception_client.waits import poll_ms, seconds


class AsyncEventStream:
    """Events as they come. `AsyncSubscriber.events` makes one."""

    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket
        self._inbox = EventInbox()

    async def receive(self, timeout_s: float) -> EventMessage | None:
        """As `EventStream.receive`."""
        try:
            async with asyncio.timeout(_limit(timeout_s)):
                while True:
                    event = self._inbox.open(await self._socket.recv_multipart())
                    if event is not None:
                        return event
        except TimeoutError:
            return None

    async def __aiter__(self) -> AsyncIterator[EventMessage]:
        """Every event, for as long as it takes."""
        while True:
            event = self._inbox.open(await self._socket.recv_multipart())
            if event is not None:
                yield event

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """As `EventStream.now`."""
        return self._inbox.now(camera)

    @property
    def lost(self) -> int:
        """As `EventStream.lost`."""
        return self._inbox.lost


class AsyncSubscriber:
    """Subscriber for asyncio: the same, with `await` and `async for`."""

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
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._sockets = [self._socket]
        self._camera = camera
        self._events: AsyncEventStream | None = None
        try:
            connect(self._socket, endpoint, camera, keys=self._keys)
        except EndpointError:
            self.close()
            raise

    async def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """As `Subscriber.latest`."""
        max_age_s = seconds("max_age_s", max_age_s)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            await self._drain(lambda: self._inbox.freshest(max_age_s) is not None)
            found = self._inbox.freshest(max_age_s)
            left_s = deadline - time.monotonic()
            if found is not None or left_s <= 0:
                return found
            await self._poll(left_s)

    async def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """As `Subscriber.require`."""
        max_age_s = seconds("max_age_s", max_age_s)
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            await self._drain(lambda: self._inbox.speaks(max_age_s, camera))
            try:
                return self._inbox.required(max_age_s, camera)
            except NotUsableError as error:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    if isinstance(error, NodeGoneError) and self._catch_up.is_under_way:
                        raise self._inbox.catching_up() from None
                    raise
            await self._poll(left_s)

    @property
    def alive(self) -> bool:
        """As `Subscriber.alive`, as far as was received."""
        return self._inbox.alive

    @property
    def events(self) -> AsyncEventStream:
        """As `Subscriber.events`."""
        if self._events is None:
            socket = self._context.socket(zmq.SUB)
            self._sockets.append(socket)
            connect(socket, self._endpoint, self._camera, "events", self._keys)
            self._events = AsyncEventStream(socket)
        return self._events

    async def wait_for(self, name: str, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """As `Subscriber.wait_for`."""
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        heard = False
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                message, _ = await self.receive(left_s)
            except NoMessageError:
                break
            heard = True
            if message.shows(name, min_score):
                return message
        if not heard:
            raise NoMessageError(silence(self._endpoint, timeout_s))
        raise NotSeenError(f"{self._endpoint}: no {name!r} was seen for {timeout_s:g} s")

    async def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """As `Subscriber.receive`."""
        try:
            async with asyncio.timeout(_limit(timeout_s)):
                while True:
                    opened = self._inbox.open(await self._socket.recv_multipart())
                    if opened is not None:
                        return opened
        except TimeoutError:
            raise NoMessageError(silence(self._endpoint, timeout_s)) from None

    async def __aiter__(self) -> AsyncIterator[tuple[LabelsMessage, Gap]]:
        """As iterating over `Subscriber`."""
        while True:
            yield await self.receive(self._timeout_s)

    @property
    def rejected(self) -> int:
        """As `Subscriber.rejected`."""
        return self._inbox.rejected

    @property
    def last_rejection(self) -> str | None:
        """As `Subscriber.last_rejection`."""
        return self._inbox.last_rejection

    def close(self) -> None:
        """Lets go of the connection; twice does no harm."""
        for socket in self._sockets:
            socket.close()
        self._context.term()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _poll(self, left_s: float) -> None:
        """Until something came, or a new connection is due."""
        wait_s = min(left_s, self._catch_up.left_s(left_s))
        await self._socket.poll(poll_ms(wait_s), zmq.POLLIN)  # type: ignore[call-arg]  # pyzmq's stub lacks it

    async def _drain(self, is_fresh: Callable[[], bool]) -> None:
        """As `Subscriber` reads what is there."""
        self._catch_up.begin()
        while True:
            for parts in self._catch_up.take(await self._queued()):
                self._inbox.open(parts)
            found = is_fresh()
            if found or self._inbox.is_current:
                self._catch_up.found_fresh()
            if not self._catch_up.goes_on(found) or not await self._follows():
                break
        if not found and self._catch_up.is_due:
            reconnect(self._socket, self._endpoint)
            self._catch_up.connected_anew()

    async def _queued(self) -> list[list[bytes]]:
        queued: list[list[bytes]] = []
        with contextlib.suppress(zmq.Again):
            while len(queued) < FULL:
                queued.append(await self._socket.recv_multipart(zmq.NOBLOCK))
        return queued

    async def _follows(self) -> bool:
        return bool(await self._socket.poll(poll_ms(FOLLOWS_S), zmq.POLLIN))  # type: ignore[call-arg]  # pyzmq's stub lacks it


def _limit(timeout_s: float) -> float | None:
    """For asyncio.timeout, which waits for ever without one."""
    limit_s = seconds("timeout_s", timeout_s)
    return None if limit_s == math.inf else limit_s
