"""EventStream: the events of a node for control code: each once, in order, and what is open now.
Needs pyzmq and msgpack only. It belongs to the thread that made it."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import zmq

from perception_client.errors import MessageError
from perception_client.messages.codec import decode
from perception_client.messages.kinds import EventMessage
from perception_client.waits import poll_ms, seconds

log = logging.getLogger(__name__)


class EventInbox:
    """Decodes events, leaves out what came twice, counts what was lost, keeps what is open."""

    def __init__(self) -> None:
        self._cameras: dict[str, _Camera] = {}
        self.lost = 0

    def open(self, parts: list[bytes]) -> EventMessage | None:
        """The event in `parts`; None if it is unreadable or not new."""
        try:
            event = decode(parts)
        except MessageError as error:
            log.warning("event left out: %s", error)
            return None
        if not isinstance(event, EventMessage):
            return None
        camera = self._cameras.get(event.camera)
        if camera is None or camera.session != event.session:
            camera = self._cameras[event.camera] = _Camera(event.session)
        lost = camera.take(event)
        if lost is None:
            return None
        self.lost += lost
        return event

    def now(self, camera: str | None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is open, of one camera or of all."""
        return tuple(
            event
            for name, known in self._cameras.items()
            if camera is None or name == camera
            for event in known.now.values()
        )


class _Camera:
    """What came of one camera in one session."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.now: dict[str, EventMessage] = {}
        self._first_live: int | None = None
        self._newest = -1
        self._early: set[int] = set()

    def take(self, event: EventMessage) -> int | None:
        """How many were lost before this event; None if it is not new."""
        if event.retained:
            # Sent again for somebody who joined: new to us only from before we did.
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
    """Events as they come. `perception_client.subscriber.Subscriber.events` makes one."""

    def __init__(self, socket: "zmq.Socket[Any]") -> None:
        self._socket = socket
        self._inbox = EventInbox()

    def receive(self, timeout_s: float) -> EventMessage | None:
        """The next event; None when none came in time, which is nothing unusual."""
        deadline = time.monotonic() + seconds("timeout_s", timeout_s)
        while True:
            left_s = deadline - time.monotonic()
            if not self._socket.poll(poll_ms(left_s) if left_s > 0 else 0, zmq.POLLIN):
                if left_s > 0:
                    continue
                return None
            event = self._inbox.open(self._socket.recv_multipart(zmq.NOBLOCK))
            if event is not None:
                return event

    def take(self) -> list[EventMessage]:
        """What came since the last call, without waiting."""
        return list(self._drained())

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is there now, as far as was received."""
        return self._inbox.now(camera)

    @property
    def lost(self) -> int:
        """Events that were sent and did not arrive."""
        return self._inbox.lost

    def _drained(self) -> Iterator[EventMessage]:
        while (event := self.receive(0.0)) is not None:
            yield event
