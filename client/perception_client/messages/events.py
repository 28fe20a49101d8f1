"""The events message, and the event without the names and stamps of its message."""

from dataclasses import dataclass
from typing import Literal

from perception_client.messages.labels import Box
from perception_client.messages.wire import SCHEMA
from perception_client.text import duration, printable

EventKind = Literal["appeared", "changed", "left", "region_entered", "region_left"]


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """One event, without the names and stamps that its message gets."""

    kind: EventKind
    """What happened."""
    key: str
    """Identifies the thing from its beginning to its end."""
    id: int
    """Number of the class in the model."""
    name: str
    """Name of the class."""
    score: float
    """Confidence in the frame of the event, 0 to 1."""
    since_ns: int
    """Stamp of the frame in which the thing appeared, in Unix ns."""
    track: int | None = None
    """Number of the object; None without tracking."""
    box: Box | None = None
    """Where the object is; None for a classification."""
    region: str | None = None
    """Name of the region that was entered or left; else None."""
    previous: str | None = None
    """Name of the class before, where the class changed; else None."""
    duration_ns: int | None = None
    """From its beginning until it was last seen, in ns; None while it lasts."""
    reset: bool = False
    """Whether it ended because the source restarted, and not because it was seen to leave."""

    @property
    def ends(self) -> bool:
        """Whether the thing that an earlier event began ends with this one."""
        return self.kind in ("left", "region_left")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMessage:
    """One message of `events/<camera>/`: something appeared, changed or left."""

    schema: int = SCHEMA
    """Version of the schema; raised when a meaning changes."""
    node: str
    """Name of the node, from its configuration."""
    camera: str
    """Name of the camera, from the node's configuration."""
    session: str
    """One run of the node; a new one at every start."""
    seq: int
    """Number of the event in its session and camera, from 0; a hole is a lost event."""
    kind: EventKind
    """What happened."""
    key: str
    """Identifies the thing from its beginning to its end."""
    id: int
    """Number of the class in the model."""
    name: str
    """Name of the class."""
    score: float
    """Confidence in the frame of the event, 0 to 1."""
    track: int | None = None
    """Number of the object; None without tracking."""
    box: Box | None = None
    """Where the object is; None for a classification."""
    region: str | None = None
    """Name of the region that was entered or left; else None."""
    previous: str | None = None
    """Name of the class before, where the class changed; else None."""
    since_ns: int
    """Stamp of the frame in which the thing appeared, in Unix ns."""
    duration_ns: int | None = None
    """From its beginning until it was last seen, in ns; None while it lasts."""
    reset: bool = False
    """Whether it ended because the source restarted, and not because it was seen to leave."""
    frame_id: int
    """Number of the frame that showed the event."""
    stamp_ns: int | None
    """When that frame was captured, in Unix ns."""
    clock: str | None
    """Origin of the stamp: `driver`, `host` or `media`."""
    stamp_mono_ns: int | None = None
    """The stamp on the node's CLOCK_MONOTONIC, in ns; None in a replay."""
    boot_id: str | None = None
    """The boot that CLOCK_MONOTONIC counts from."""
    published_ns: int
    """When the message was handed to the socket, in Unix ns."""
    media_ns: int | None = None
    """Position in the recording or video, in ns; None live."""
    retained: bool = False
    """Whether the message was sent again for a subscriber that joined later."""

    def __str__(self) -> str:
        """One line: camera, number, what happened to what."""
        track = "" if self.track is None else f" #{self.track}"
        region = "" if self.region is None else f", region {printable(self.region)}"
        lasted = "" if self.duration_ns is None else f", after {duration(self.duration_ns / 1e9)}"
        description = f"{printable(self.name)}{track} {self.kind.replace('_', ' ')}"
        return f"{printable(self.camera)} #{self.seq}: {description}{region}{lasted}"

    @property
    def ends(self) -> bool:
        """Whether the thing that an earlier event began ends with this one."""
        return self.kind in ("left", "region_left")
