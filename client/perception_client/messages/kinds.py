"""The message schema, in one place: publisher, client, commands and recordings all use it.

Imports msgpack and the standard library only, since control code on other computers loads it.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from perception_client.messages.calibration import Calibration
from perception_client.messages.clock import boot_id as boot_id
from perception_client.messages.clock import boottime_ns, virtual_ns

SCHEMA = 1
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5570"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Longest message a reader accepts, in bytes: far above a full label list, far below harm."""


class Status(StrEnum):
    """Whether a camera's labels are what was seen, or why there are none."""

    OK = "ok"
    NO_CAMERA = "no_camera"
    STALLED = "stalled"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Label:
    """One class of the model. score: probability in this frame, 0 to 1.

    With smoothing, stable: whether its average has entered and not left; since_ns: stamp of when it
    entered. None without smoothing.
    """

    id: int
    name: str
    score: float
    stable: bool | None = None
    since_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the captured frame: centre and size, as vision_msgs BoundingBox2D."""

    cx: float
    cy: float
    w: float
    h: float

    @property
    def area(self) -> float:
        """In square pixels."""
        return self.w * self.h

    def iou(self, other: "Box") -> float:
        """Intersection over union with another box, 0 to 1."""
        width = min(self.cx + self.w / 2, other.cx + other.w / 2) - max(
            self.cx - self.w / 2, other.cx - other.w / 2
        )
        height = min(self.cy + self.h / 2, other.cy + other.h / 2) - max(
            self.cy - self.h / 2, other.cy - other.h / 2
        )
        if width <= 0 or height <= 0:
            return 0.0
        shared = width * height
        return shared / (self.area + other.area - shared)


@dataclass(frozen=True, slots=True)
class Detection:
    """One object. score: 0 to 1; track: its number while it is the same object, None without
    tracking; labels: what a second model makes of its crop, best first."""

    id: int
    name: str
    score: float
    box: Box
    track: int | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True, slots=True)
class Area:
    """How much of the picture is one class. fraction: of what the network saw, 0 to 1."""

    id: int
    name: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Mask:
    """Which part of the picture is one class: a grid of height x width cells over `box`.

    counts: run lengths down the columns from the left, by turns outside and inside, outside first:
    COCO's uncompressed run-length encoding. box: where the grid lies, in pixels of the frame.
    """

    id: int
    name: str
    width: int
    height: int
    box: Box
    counts: tuple[int, ...]

    def cells(self) -> bytes:
        """[width * height] 1 inside and 0 outside, column after column."""
        runs = (bytes([place % 2]) * count for place, count in enumerate(self.counts))
        return b"".join(runs)

    def contains(self, x: float, y: float) -> bool:
        """Whether a point in pixels of the frame lies inside."""
        left, top = self.box.cx - self.box.w / 2, self.box.cy - self.box.h / 2
        column = math.floor((x - left) / self.box.w * self.width)
        row = math.floor((y - top) / self.box.h * self.height)
        if not (0 <= column < self.width and 0 <= row < self.height):
            return False
        ends = itertools.accumulate(self.counts)
        place = column * self.height + row
        return next((n % 2 == 1 for n, end in enumerate(ends) if place < end), False)


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in ns. capture: stamp to decoded frame; wait: in the mailbox."""

    capture: int
    wait: int
    preprocess: int
    infer: int
    postprocess: int

    @property
    def total(self) -> int:
        """Capture to message, in ns."""
        return self.capture + self.wait + self.preprocess + self.infer + self.postprocess


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What labelled the frame. digest: sha256 of the weights file, hexadecimal."""

    name: str
    task: str
    runtime: str
    precision: str
    device: str
    digest: str


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Size of the captured frame in pixels."""

    width: int
    height: int


class _ChecksClasses:
    """Where a message keeps the check of class names, which is not on the wire. A subscriber sets
    it once it has the model's class names; before, every name passes."""

    __slots__ = ("_check",)

    def check_classes_by(self, check: Callable[[str], None]) -> None:
        """check: raises UnknownClassError for a class that the model does not have."""
        object.__setattr__(self, "_check", check)

    @property
    def checks_classes(self) -> bool:
        """Whether the model's class names are known."""
        return hasattr(self, "_check")

    def check_class(self, name: str) -> None:
        """Raises UnknownClassError where the model is known to have no class of this name."""
        check: Callable[[str], None] | None = getattr(self, "_check", None)
        if check is not None:
            check(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelsMessage(_ChecksClasses):
    """One message of `labels/<camera>/`; docs/messages.md explains every field.

    With a status other than `ok` the frame's own fields are None, `labels`, `detections` and
    `areas` are empty: the node did not look, which is not the same as having seen nothing.
    """

    schema: int = SCHEMA
    node: str
    camera: str
    session: str
    seq: int
    status: Status
    degraded: tuple[str, ...] = ()
    frame_id: int | None = None
    stamp_ns: int | None = None
    clock: str | None = None
    stamp_mono_ns: int | None = None
    stamp_boot_ns: int | None = None
    stamp_uncertainty_ns: int | None = None
    boot_id: str | None = None
    published_ns: int
    published_mono_ns: int | None = None
    published_boot_ns: int | None = None
    media_ns: int | None = None
    timing_ns: Timing | None = None
    deadline_ns: int | None = None
    dropped: int = 0
    model: ModelInfo | None = None
    settings: int = 0
    image: ImageSize | None = None
    labels: tuple[Label, ...] = ()
    detections: tuple[Detection, ...] = ()
    areas: tuple[Area, ...] = ()
    masks: tuple[Mask, ...] = ()
    retained: bool = False

    @property
    def best(self) -> Label | None:
        """The label with the highest score; None when there is none."""
        return self.labels[0] if self.labels else None

    @property
    def age_s(self) -> float:
        """Seconds since the frame was captured, or since a message without a frame was sent.

        On the host of the node this is exact, whatever happens to the wall clock, and counts the
        time in which the host was suspended (CLOCK_BOOTTIME, one boot id); elsewhere it is as good
        as the synchronisation of the two clocks. A replay's stamp says nothing about now, so there
        the age is that of the work: the time since publishing plus the durations before it. Inside
        `RecordedLabels` it is that of the recording's time.

        A stream's stamp is when the picture came; `age_bound_s` counts in what it may have been
        under way before.
        """
        now_ns = virtual_ns()
        if now_ns is not None:
            since_ns = self.published_ns if self.stamp_ns is None else self.stamp_ns
            return (now_ns - since_ns) / 1e9
        if self.clock == "media" or self.stamp_ns is None:
            before_ns = self.timing_ns.total if self.timing_ns else 0
            since_s = _elapsed_s(
                self.published_ns, self.published_mono_ns, self.published_boot_ns, self.boot_id
            )
            return since_s + before_ns / 1e9
        return _elapsed_s(self.stamp_ns, self.stamp_mono_ns, self.stamp_boot_ns, self.boot_id)

    @property
    def age_bound_s(self) -> float:
        """Seconds since the frame was captured at most: `age_s` and `stamp_uncertainty_ns`, by
        which the frame can be older than its stamp. What decides whether labels are too old."""
        return self.age_s + (self.stamp_uncertainty_ns or 0) / 1e9

    @property
    def late(self) -> bool:
        """Whether it can be older than its camera's deadline now (`age_bound_s`)."""
        return self.deadline_ns is not None and self.age_bound_s * 1e9 > self.deadline_ns

    @property
    def stable(self) -> tuple[Label, ...]:
        """The labels that smoothing says are there, best first; empty without smoothing."""
        return tuple(label for label in self.labels if label.stable)

    def of_class(self, name: str) -> tuple[Detection, ...]:
        """The detections of one class, best first. Raises UnknownClassError, as every method here
        that takes a class name."""
        self.check_class(name)
        return tuple(detection for detection in self.detections if detection.name == name)

    def largest(self, name: str | None = None) -> Detection | None:
        """The detection with the largest box, of one class or of all; None without detections."""
        among = self.detections if name is None else self.of_class(name)
        return max(among, key=lambda detection: detection.box.area, default=None)

    def nearest_to_centre(self, name: str | None = None) -> Detection | None:
        """The detection whose centre is nearest to the centre of the picture, of one class or of
        all; None without detections."""
        among = self.detections if name is None else self.of_class(name)
        if self.image is None:
            return None
        x, y = self.image.width / 2, self.image.height / 2
        return min(
            among,
            key=lambda detection: math.hypot(detection.box.cx - x, detection.box.cy - y),
            default=None,
        )

    def track(self, number: int) -> Detection | None:
        """The detection of a track; None while the track has none."""
        return next((found for found in self.detections if found.track == number), None)

    def area(self, name: str) -> float:
        """The fraction of the picture that one class covers, 0 to 1; 0 where `areas` lacks it."""
        self.check_class(name)
        return sum(area.fraction for area in self.areas if area.name == name)

    def mask(self, name: str) -> Mask | None:
        """The mask of one class; None where the class has none."""
        self.check_class(name)
        return next((mask for mask in self.masks if mask.name == name), None)

    def shows(self, name: str, min_score: float = 0.0) -> bool:
        """Whether the picture shows a class: as a detection, else as a stable label, else (without
        smoothing) as the best label, or as an area, whose fraction then counts as its score.

        min_score: smallest score that counts, 0 to 1.
        """
        self.check_class(name)
        if self.areas:
            return self.area(name) > 0 and self.area(name) >= min_score
        things = self.detections or self.stable or self.labels[:1]
        if any(label.stable is not None for label in self.labels):
            things = self.stable
        return any(thing.name == name and thing.score >= min_score for thing in things)


EventKind = Literal["appeared", "changed", "left", "region_entered", "region_left"]


@dataclass(frozen=True, slots=True)
class SceneEvent:
    """One event, but for the names and stamps that its message gets.

    key: what it is about, the same from its beginning to its end. ends: nothing follows on it.
    since_ns: stamp of its beginning; duration_ns: until it was last seen, where it ended.
    reset: it ended because the source began anew, not because it was seen to go.
    """

    kind: EventKind
    key: str
    id: int
    name: str
    score: float
    since_ns: int
    track: int | None = None
    box: Box | None = None
    region: str | None = None
    previous: str | None = None
    duration_ns: int | None = None
    reset: bool = False

    @property
    def ends(self) -> bool:
        """Whether this closes what an earlier one opened."""
        return self.kind in ("left", "region_left")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventMessage:
    """One message of `events/<camera>/`: something came, changed or went.

    key: what it is about, the same from its beginning to its end. since_ns: stamp of its
    beginning; duration_ns: until it was last seen, where it ended. reset: it ended because the
    source began anew, not because it was seen to go. The stamp is that of the frame that told.
    """

    schema: int = SCHEMA
    node: str
    camera: str
    session: str
    seq: int
    kind: EventKind
    key: str
    id: int
    name: str
    score: float
    track: int | None = None
    box: Box | None = None
    region: str | None = None
    previous: str | None = None
    since_ns: int
    duration_ns: int | None = None
    reset: bool = False
    frame_id: int
    stamp_ns: int | None
    clock: str | None
    stamp_mono_ns: int | None = None
    boot_id: str | None = None
    published_ns: int
    media_ns: int | None = None
    retained: bool = False

    @property
    def ends(self) -> bool:
        """Whether this closes what an earlier event opened."""
        return self.kind in ("left", "region_left")


MessageKind = Literal["labels", "events", "health", "info"]
NodeState = Literal["starting", "running", "degraded", "stalled", "stopping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraHealth:
    """One camera in the health message. fps: frames captured a second, over the last second.

    corrupt: pictures that could not be decoded; repeated: that were the same as the one before;
    deadline_misses: messages that went out later than the camera's deadline.
    """

    camera: str
    status: Status
    fps: float
    width: int | None
    height: int | None
    pixel_format: str | None
    newest_frame_age_s: float | None
    frames: int
    dropped: int
    corrupt: int = 0
    repeated: int = 0
    reconnects: int
    deadline_misses: int = 0
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Capture to publish over the last second, in ns."""

    p50: int
    p99: int
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingHealth:
    """The recording. file: that it writes, or wrote last; bytes: of it on the disk; lost_frames,
    lost_messages: that the disk was too slow for; last_error: what went wrong last, such as why it
    stopped; skipped_black_boxes: that came too soon after another of their cause."""

    state: Literal["off", "recording", "failed"]
    file: str | None
    bytes: int
    lost_frames: int
    lost_messages: int
    last_error: str | None
    skipped_black_boxes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthMessage:
    """One message of `health/<node>/`, once a second. rss_bytes: resident memory, None where
    the kernel does not tell it; cpu: seconds of CPU time per second.

    lost_frames: frames that the model failed on; last_error: its newest failure.
    """

    schema: int = SCHEMA
    node: str
    session: str
    seq: int
    published_ns: int
    state: NodeState
    cameras: tuple[CameraHealth, ...]
    latency_ns: Latency | None
    lost_frames: int = 0
    last_error: str | None = None
    degraded: tuple[str, ...] = ()
    settings: int = 0
    recording: RecordingHealth | None = None
    rss_bytes: int | None
    cpu: float
    uptime_s: float
    subscribers: int
    retained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoMessage:
    """One message of `info/<node>/`: what the label ids mean. names[i] is the name of id i.

    crop_model, crop_names: the same of the second model, which looks at each detection's crop.
    """

    schema: int = SCHEMA
    node: str
    session: str
    seq: int
    published_ns: int
    model: ModelInfo
    names: tuple[str, ...]
    calibrations: tuple[Calibration, ...] = ()
    crop_model: ModelInfo | None = None
    crop_names: tuple[str, ...] = ()
    retained: bool = False


Message = LabelsMessage | EventMessage | HealthMessage | InfoMessage

KINDS: Mapping[str, type[Message]] = {
    "labels": LabelsMessage,
    "events": EventMessage,
    "health": HealthMessage,
    "info": InfoMessage,
}


def topic(kind: MessageKind, name: str) -> bytes:
    """`labels/<camera>/`: the closing slash keeps a prefix from matching a longer name."""
    return f"{kind}/{name}/".encode()


def topic_of(message: Message) -> bytes:
    """The topic that a message goes out on."""
    match message:
        case LabelsMessage():
            return topic("labels", message.camera)
        case EventMessage():
            return topic("events", message.camera)
        case HealthMessage():
            return topic("health", message.node)
        case InfoMessage():
            return topic("info", message.node)


def retained(message: Message) -> Message:
    """The same message, marked as sent again for a late joiner."""
    return replace(message, retained=True)


def _elapsed_s(unix_ns: int, mono_ns: int | None, boot_ns: int | None, boot: str | None) -> float:
    if boot is not None and boot == boot_id():
        if boot_ns is not None:
            return (boottime_ns() - boot_ns) / 1e9
        if mono_ns is not None:
            return (time.monotonic_ns() - mono_ns) / 1e9
    return (time.time_ns() - unix_ns) / 1e9
