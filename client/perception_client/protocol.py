"""The interface that `Subscriber` and the recorded labels of tests share, and the same for asyncio.
Control code that takes a `LabelSource` runs against a node and against a recording alike."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol, Self

from perception_client.errors import NotUsableError
from perception_client.inbox import Gap
from perception_client.messages.calibration import Calibration
from perception_client.messages.events import EventMessage
from perception_client.messages.health import HealthMessage
from perception_client.messages.labels import LabelsMessage


class Guard(Protocol):
    """Watches the age of labels until it is closed. `on_stale` makes one."""

    @property
    def watching(self) -> bool:
        """Whether the guard still watches."""
        ...

    def close(self) -> None:
        """Stops watching; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class Events(Protocol):
    """The events of a node, each once and in order."""

    def receive(self, timeout_s: float) -> EventMessage | None:
        """The next event; None when none came within `timeout_s` seconds."""
        ...

    def take(self) -> list[EventMessage]:
        """The events that no call returned yet, without waiting."""
        ...

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is there now, as far as received."""
        ...

    @property
    def lost(self) -> int:
        """Number of events that were sent and did not arrive."""
        ...

    def __iter__(self) -> Iterator[EventMessage]: ...


class _Received(Protocol):
    """What was received so far; nothing here receives or waits."""

    @property
    def alive(self) -> bool: ...  # documented in SubscriberBase, as all of these
    @property
    def newest_health(self) -> HealthMessage | None: ...
    @property
    def cameras(self) -> tuple[str, ...]: ...
    @property
    def rejected(self) -> int: ...
    @property
    def last_rejection(self) -> str | None: ...
    def late(self, camera: str) -> int: ...

    def on_stale(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        *,
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
    ) -> Guard:
        """Calls `callback` as soon as no labels are younger than `max_age_s` seconds."""
        ...

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        ...


class LabelSource(_Received, Protocol):
    """Labels of a node or of a recording. Times are in seconds; every wait ends by its timeout."""

    def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message, at most `max_age_s` seconds old; else None."""
        ...

    def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """The newest labels, at most `max_age_s` seconds old; else raises NotUsableError."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Whether labels came that no call has returned yet."""
        ...

    def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """The next message in order, and the gap before it. Raises NoMessageError."""
        ...

    def wait_for(self, name: str | None, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """The next message that shows a class, None for any. Raises NotSeenError,
        NoMessageError."""
        ...

    def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """The node's newest health, at most 2.5 seconds old. Raises NoMessageError."""
        ...

    def calibration(self, camera: str, timeout_s: float = 5.0) -> Calibration:
        """A camera's calibration. Raises NoMessageError, NoCalibrationError."""
        ...

    @property
    def events(self) -> Events:
        """The stream of events."""
        ...

    def __iter__(self) -> Iterator[tuple[LabelsMessage, Gap]]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class AsyncEvents(Protocol):
    """`Events` for asyncio."""

    async def receive(self, timeout_s: float) -> EventMessage | None:
        """The next event; None when none came within `timeout_s` seconds."""
        ...

    async def take(self) -> list[EventMessage]:
        """The events that no call returned yet, without waiting."""
        ...

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is there now, as far as received."""
        ...

    @property
    def lost(self) -> int:
        """Number of events that were sent and did not arrive."""
        ...

    def __aiter__(self) -> AsyncIterator[EventMessage]: ...


class AsyncLabelSource(_Received, Protocol):
    """`LabelSource` for asyncio: the same calls, awaited where they receive."""

    async def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message, at most `max_age_s` seconds old; else None."""
        ...

    async def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """The newest labels, at most `max_age_s` seconds old; else raises NotUsableError."""
        ...

    async def wait(self, timeout_s: float) -> bool:
        """Whether labels came that no call has returned yet."""
        ...

    async def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """The next message in order, and the gap before it. Raises NoMessageError."""
        ...

    async def wait_for(
        self, name: str | None, timeout_s: float, min_score: float = 0.0
    ) -> LabelsMessage:
        """The next message that shows a class, None for any. Raises NotSeenError,
        NoMessageError."""
        ...

    async def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """The node's newest health, at most 2.5 seconds old. Raises NoMessageError."""
        ...

    async def calibration(self, camera: str, timeout_s: float = 5.0) -> Calibration:
        """A camera's calibration. Raises NoMessageError, NoCalibrationError."""
        ...

    @property
    def events(self) -> AsyncEvents:
        """The stream of events."""
        ...

    def __aiter__(self) -> AsyncIterator[tuple[LabelsMessage, Gap]]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *error: object) -> None: ...
