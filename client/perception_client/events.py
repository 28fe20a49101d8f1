"""EventStream: the events of a node, each once and in order, and the things that are there now.
Needs pyzmq and msgpack only."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from perception_client.errors import MessageError
from perception_client.messages.codec import decode
from perception_client.messages.events import EventMessage
from perception_client.waits import poll, seconds

log = logging.getLogger(__name__)


class EventInbox:
    """Decodes events, leaves out duplicates, counts lost ones, keeps those that are open."""

    def __init__(self) -> None:
        self._cameras: dict[str, _Camera] = {}
        self.lost = 0

    def open(self, parts: list[bytes]) -> EventMessage | None:
        """The event in `parts`; None where it is unreadable or a duplicate."""
        try:
            event = decode(parts)
        except MessageError as error:
            log.warning("event skipped: %s", error)
            return None
        return self.accept(event) if isinstance(event, EventMessage) else None

    def accept(self, event: EventMessage) -> EventMessage | None:
        """The same event; None where it is a duplicate."""
        camera = self._cameras.get(event.camera)
        if camera is None or camera.session != event.session:
            self._forget_before(event)
            camera = self._cameras[event.camera] = _Camera(event.node, event.session)
        lost = camera.take(event)
        if lost is None:
            return None
        self.lost += lost
        return event

    def _forget_before(self, event: EventMessage) -> None:
        """Things that were there before the node restarted are not there now."""
        self._cameras = {
            name: camera
            for name, camera in self._cameras.items()
            if camera.node != event.node or camera.session == event.session
        }

    def now(self, camera: str | None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is open, of one camera or of all."""
        return tuple(
            event
            for name, known in self._cameras.items()
            if camera is None or name == camera
            for event in known.now.values()
        )


class _Camera:
    """The events of one camera in one session."""

    def __init__(self, node: str, session: str) -> None:
        self.node = node
        self.session = session
        self.now: dict[str, EventMessage] = {}
        self._first_live: int | None = None
        self._newest = -1
        self._early: set[int] = set()

    def take(self, event: EventMessage) -> int | None:
        """The number of events lost before this one; None where it is a duplicate."""
        if event.retained:
            # Sent again because a subscriber joined: new here only from before this one joined.
            if event.seq in self._early or event.seq <= self._newest:
                return None
            if self._first_live is not None and event.seq >= self._first_live:
                return None
            self._early.add(event.seq)
            self._note(event)
            return 0
        if event.seq <= self._newest:
            return None
        lost = 0 if self._first_live is None else event.seq - self._newest - 1
        if self._first_live is None:
            self._first_live = event.seq
        self._newest = event.seq
        self._note(event)
        return lost

    def _note(self, event: EventMessage) -> None:
        self.now.pop(event.key, None)
        if not event.ends:
            self.now[event.key] = event


class EventStream:
    """The events of a node as they come. `Subscriber.events` makes one.

    check: called before each use; raises where this thread may not use the socket.
    """

    def __init__(self, socket: "zmq.Socket[Any]", check: Callable[[], None] = lambda: None) -> None:
        self._socket = socket
        self._check = check
        self._inbox = EventInbox()

    def receive(self, timeout_s: float) -> EventMessage | None:
        """The next event; None where none came within `timeout_s` seconds, which is usual."""
        self._check()
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            left_s = deadline - time.monotonic()
            if not poll(self._socket, max(left_s, 0.0), self._check):
                if left_s > 0:
                    continue
                return None
            event = self._inbox.open(self._socket.recv_multipart(zmq.NOBLOCK))
            if event is not None:
                return event

    def take(self) -> list[EventMessage]:
        """The events that no call returned yet, without waiting."""
        return list(iter(lambda: self.receive(0.0), None))

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is there now, of one camera or of all, as far as
        received."""
        return self._inbox.now(camera)

    @property
    def lost(self) -> int:
        """Number of events that were sent and did not arrive."""
        return self._inbox.lost

    def __iter__(self) -> Iterator[EventMessage]:
        """Every event; waits for the next one without limit."""
        while True:
            event = self.receive(math.inf)
            if event is not None:
                yield event
