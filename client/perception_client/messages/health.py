"""The health message, and the types in it."""

from dataclasses import dataclass
from typing import Literal

from perception_client.messages.labels import Status
from perception_client.messages.wire import SCHEMA
from perception_client.text import printable

NodeState = Literal["starting", "running", "degraded", "stalled", "stopping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraHealth:
    """One camera in the health message."""

    camera: str
    """Name of the camera."""
    status: Status
    """Whether the camera sees, or why it does not."""
    fps: float
    """Frames captured per second, over the last second."""
    width: int | None
    """Of the frames, in pixels; None before the first."""
    height: int | None
    """Of the frames, in pixels; None before the first."""
    pixel_format: str | None
    """Such as `MJPG`; None where it is not known."""
    newest_frame_age_s: float | None
    """Age of the newest frame, in seconds; None before the first."""
    frames: int
    """Number of frames captured since the start."""
    dropped: int
    """Number of frames dropped for newer ones since the start."""
    corrupt: int = 0
    """Number of pictures that could not be decoded."""
    repeated: int = 0
    """Number of pictures that were the same as the one before."""
    reconnects: int
    """Number of times that the source was opened again."""
    deadline_misses: int = 0
    """Number of messages that went out later than the camera's deadline."""
    last_error: str | None
    """The newest error of the source; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """From capture to publishing, over the last second, in ns."""

    p50: int
    """Median."""
    p99: int
    """99th percentile."""
    maximum: int
    """The longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingHealth:
    """The recording in the health message."""

    state: Literal["off", "recording", "failed"]
    """Whether it records, or failed."""
    file: str | None
    """Path of the file that is written, or was written last; None before the first."""
    bytes: int
    """Size of that file on the disk."""
    lost_frames: int
    """Number of frames that the disk was too slow for."""
    lost_messages: int
    """Number of messages that the disk was too slow for."""
    last_error: str | None
    """The newest error, such as why the recording stopped; None without one."""
    skipped_black_boxes: int = 0
    """Number of black boxes not written, too soon after another of the same cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthMessage:
    """One message of `health/<node>/`, once a second."""

    schema: int = SCHEMA
    """Version of the schema; raised when a meaning changes."""
    node: str
    """Name of the node, from its configuration."""
    session: str
    """One run of the node; a new one at every start."""
    seq: int
    """Number of the message in its session, from 0."""
    published_ns: int
    """When the message was handed to the socket, in Unix ns."""
    state: NodeState
    """How the node is; after `stopping` nothing more comes."""
    cameras: tuple[CameraHealth, ...]
    """One entry for each camera of the node."""
    latency_ns: Latency | None
    """From capture to publishing; None where nothing was labelled in the last second."""
    lost_frames: int = 0
    """Number of frames that the model failed on since the start."""
    last_error: str | None = None
    """The newest failure of the model; None without one."""
    degraded: tuple[str, ...] = ()
    """Why the node runs below its configuration; empty where it does not."""
    settings: int = 0
    """Number of the settings in force."""
    recording: RecordingHealth | None = None
    """The recording; None without one."""
    rss_bytes: int | None
    """Resident memory; None where the kernel does not report it."""
    cpu: float
    """Seconds of CPU time per second; 1.0 is one core."""
    uptime_s: float
    """Seconds since the node started."""
    subscribers: int
    """Number of subscriptions; a subscriber has several."""
    retained: bool = False
    """Whether the message was sent again for a subscriber that joined later."""

    def __str__(self) -> str:
        """One line: the node's state, its cameras, and what is wrong."""
        cameras = ", ".join(
            f"{printable(camera.camera)} {camera.status} {camera.fps:.0f}/s"
            for camera in self.cameras
        )
        wrong = (*self.degraded, *([self.last_error] if self.last_error else []))
        problems = "".join(f"; {printable(problem)}" for problem in wrong)
        return f"{printable(self.node)} {self.state}: {cameras or 'no cameras'}{problems}"
