"""The labels message, and the types in it.

Imports the standard library only, since control code on other computers loads it.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from perception_client.messages.clock import boot_id, boottime_ns, virtual_ns
from perception_client.messages.wire import SCHEMA
from perception_client.text import duration, printable

_MOST_SHOWN = 3
"""Things that a message names where it is printed."""


class Status(StrEnum):
    """Whether a camera's labels are what was seen, or why there are none."""

    OK = "ok"
    """The node looked; the labels are what was seen."""
    NO_CAMERA = "no_camera"
    """The camera is not there, or not yet."""
    STALLED = "stalled"
    """The camera gives no frames, or the model no results."""
    PAUSED = "paused"
    """The node was asked not to look."""


@dataclass(frozen=True, slots=True)
class Label:
    """One class of the model, and how probable it is."""

    id: int
    """Number of the class in the model; `InfoMessage.names[id]` is its name."""
    name: str
    """Name of the class."""
    score: float
    """Probability in this frame, 0 to 1."""
    stable: bool | None = None
    """With smoothing, whether the class has entered and not left; None without smoothing."""
    since_ns: int | None = None
    """With smoothing, stamp of the frame in which the class entered, in Unix ns; else None."""

    def __str__(self) -> str:
        return f"{printable(self.name)} {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the captured frame: centre and size, as vision_msgs BoundingBox2D."""

    cx: float
    """Horizontal centre, in pixels from the left edge."""
    cy: float
    """Vertical centre, in pixels from the top edge."""
    w: float
    """Width, in pixels."""
    h: float
    """Height, in pixels."""

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
class Pose:
    """Where a tag is, and how it is turned, in the camera's optical frame: x to the right, y down,
    z forward (REP 103 of ROS).

    The tag's own frame has its origin in the middle of the tag, x to the right and y up on the
    printed tag, and z out of the paper towards the viewer, as in OpenCV's SOLVEPNP_IPPE_SQUARE.
    The frame of the AprilTag library is turned by half a turn about x: y down, z into the paper.
    """

    translation_m: tuple[float, float, float]
    """Of the middle of the tag, (x, y, z) in metres."""
    rotation: tuple[float, float, float, float]
    """Unit quaternion (x, y, z, w) from the tag's frame to the camera's; w is not negative."""
    reprojection_error_px: float
    """Root mean square distance of the four corners from those that the pose gives, in pixels."""
    ambiguity: float
    """0 to 1: the reprojection error of this pose by that of the second pose which a flat square
    allows. Near 1 the picture does not tell the two apart, and the rotation may be the other's;
    below 0.2 it is certain."""

    @property
    def distance_m(self) -> float:
        """From the camera to the middle of the tag, in metres."""
        return math.hypot(*self.translation_m)


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in the picture."""

    id: int
    """Number of the class in the model."""
    name: str
    """Name of the class."""
    score: float
    """Confidence, 0 to 1."""
    box: Box
    """Where the object is."""
    track: int | None = None
    """Number of the object while it is followed; None without tracking."""
    labels: tuple[Label, ...] = ()
    """What a second model sees in the crop of the box, best first; empty without one."""
    corners: tuple[tuple[float, float], ...] = ()
    """Of a tag, its four corners (x, y) in pixels of the captured frame, clockwise on the printed
    tag from its top left; whole numbers are the centres of pixels. Empty for any other object."""
    pose: Pose | None = None
    """Of a tag, where the node knows the camera's calibration and the tag's size; else None."""

    def __str__(self) -> str:
        track = "" if self.track is None else f" #{self.track}"
        return f"{printable(self.name)}{track} {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class Area:
    """The part of the picture that one class covers."""

    id: int
    """Number of the class in the model."""
    name: str
    """Name of the class."""
    fraction: float
    """Of what the network saw, 0 to 1."""

    def __str__(self) -> str:
        return f"{printable(self.name)} {self.fraction:.0%}"


@dataclass(frozen=True, slots=True)
class Mask:
    """Where in the picture one class is: a grid of height x width cells over `box`."""

    id: int
    """Number of the class in the model."""
    name: str
    """Name of the class."""
    width: int
    """Number of columns of the grid."""
    height: int
    """Number of rows of the grid."""
    box: Box
    """Where the grid lies."""
    counts: tuple[int, ...]
    """Run lengths down the columns from the left, outside and inside in turn, outside first:
    COCO's uncompressed run-length encoding."""

    def cells(self) -> bytes:
        """[width * height] 1 inside and 0 outside, column after column."""
        runs = (bytes([index % 2]) * count for index, count in enumerate(self.counts))
        return b"".join(runs)

    def contains(self, x: float, y: float) -> bool:
        """Whether a point in pixels of the frame lies inside."""
        left, top = self.box.cx - self.box.w / 2, self.box.cy - self.box.h / 2
        column = math.floor((x - left) / self.box.w * self.width)
        row = math.floor((y - top) / self.box.h * self.height)
        if not (0 <= column < self.width and 0 <= row < self.height):
            return False
        ends = itertools.accumulate(self.counts)
        index = column * self.height + row
        return next((n % 2 == 1 for n, end in enumerate(ends) if index < end), False)


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the stages of one frame, in ns."""

    capture: int
    """From the stamp to the decoded frame."""
    wait: int
    """In the mailbox, until inference took the frame."""
    preprocess: int
    """Resizing, cropping and normalising."""
    infer: int
    """The network."""
    postprocess: int
    """From the network's output to labels."""

    @property
    def total(self) -> int:
        """Capture to message, in ns."""
        return self.capture + self.wait + self.preprocess + self.infer + self.postprocess


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that labelled a frame."""

    name: str
    """Name in the registry, or of the model file."""
    task: str
    """`classify`, `detect` or `segment`."""
    runtime: str
    """`torch`, `onnxruntime`, `openvino`, or `opencv` for a model without a network."""
    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    device: str
    """Such as `cpu` or `cuda:0`."""
    digest: str
    """sha256 of all files that the model is made of, hexadecimal."""

    def __str__(self) -> str:
        where = f"{self.runtime} {self.precision} on {self.device}"
        return printable(f"{self.name} ({self.task}, {where})")


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Size of the captured frame in pixels."""

    width: int
    """In pixels."""
    height: int
    """In pixels."""


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
    """One message of `labels/<camera>/`; docs/messages.md has the same fields as on the wire.

    With a status other than `ok` the node did not look, which is not the same as having seen
    nothing: the fields of the frame are None, and `labels`, `detections`, `areas` and `masks` are
    empty.
    """

    schema: int = SCHEMA
    """Version of the schema; raised when a meaning changes."""
    node: str
    """Name of the node, from its configuration."""
    camera: str
    """Name of the camera, from the node's configuration."""
    session: str
    """One run of the node; a new one at every start."""
    seq: int
    """Number of the message in its session and camera, from 0; a hole is a lost message."""
    status: Status
    """Whether the labels are what was seen, or why there are none."""
    degraded: tuple[str, ...] = ()
    """Why the node runs below its configuration; empty where it does not."""
    frame_id: int | None = None
    """Number of the captured frame; holes are frames dropped for newer ones."""
    stamp_ns: int | None = None
    """When the frame was captured, in Unix ns."""
    clock: str | None = None
    """Origin of the stamp: `driver` (the camera's buffer), `host` (at the grab, before decoding) or
    `media` (position in a recording)."""
    stamp_mono_ns: int | None = None
    """The stamp on the node's CLOCK_MONOTONIC, in ns; None in a replay."""
    stamp_boot_ns: int | None = None
    """The stamp on the node's CLOCK_BOOTTIME, in ns; it also counts suspended time."""
    stamp_uncertainty_ns: int | None = None
    """By how much the frame of a stream can be older than its stamp, in ns; None where the stamp
    hides nothing."""
    boot_id: str | None = None
    """The boot that the two clocks count from; equal to the reader's on the same computer."""
    published_ns: int
    """When the message was handed to the socket, in Unix ns."""
    published_mono_ns: int | None = None
    """The same on CLOCK_MONOTONIC, in ns; None in a replay."""
    published_boot_ns: int | None = None
    """The same on CLOCK_BOOTTIME, in ns; None in a replay."""
    media_ns: int | None = None
    """Position in the recording or video, in ns; None live."""
    timing_ns: Timing | None = None
    """Durations of the stages."""
    deadline_ns: int | None = None
    """Largest age at publishing, in ns (`deadline_s` of the camera); None without a deadline."""
    dropped: int = 0
    """Frames of this camera dropped since its last labelled one."""
    model: ModelInfo | None = None
    """The model that labelled the frame."""
    settings: int = 0
    """Number of the settings in force; each change of the running node raises it."""
    image: ImageSize | None = None
    """Size of the captured frame."""
    labels: tuple[Label, ...] = ()
    """Of a classification, best first."""
    detections: tuple[Detection, ...] = ()
    """Of a detector, best first."""
    areas: tuple[Area, ...] = ()
    """Of a segmentation, the largest first."""
    masks: tuple[Mask, ...] = ()
    """Of a segmentation with `segment.masks = true`."""
    retained: bool = False
    """Whether the message was sent again for a subscriber that joined later."""

    def __str__(self) -> str:
        """One line: camera, number, what is seen or the status, and the age."""
        things = self.detections or self.areas or self.labels[:_MOST_SHOWN]
        shown = ", ".join(str(thing) for thing in things[:_MOST_SHOWN])
        if len(things) > _MOST_SHOWN:
            shown += f" and {len(things) - _MOST_SHOWN} more"
        seen = (shown or "nothing seen") if self.status is Status.OK else str(self.status)
        return f"{printable(self.camera)} #{self.seq}: {seen} ({duration(self.age_s, '.3f')} old)"

    @property
    def best(self) -> Label | None:
        """The label with the highest score; None without labels."""
        return self.labels[0] if self.labels else None

    @property
    def age_s(self) -> float:
        """Seconds since the frame was captured; since publishing for a message without a frame.

        Exact on the node's own computer, also when its wall clock is set, and includes suspended
        time (CLOCK_BOOTTIME, one boot id). On another computer as good as the synchronisation of
        the two clocks. In a replay the stamp says nothing about now, so the age is the time since
        publishing plus the durations before it. Inside `RecordedLabels` the clock is that of the
        recording.

        The stamp of a stream is when the picture arrived; `age_bound_s` adds the time that the
        picture may have been under way before.
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
        """The most seconds since the frame was captured: `age_s` plus `stamp_uncertainty_ns`.
        Decides whether labels are too old."""
        return self.age_s + (self.stamp_uncertainty_ns or 0) / 1e9

    @property
    def late(self) -> bool:
        """Whether the frame can be older now than its camera's deadline (`age_bound_s`)."""
        return self.deadline_ns is not None and self.age_bound_s * 1e9 > self.deadline_ns

    @property
    def stable(self) -> tuple[Label, ...]:
        """The labels whose `stable` is true, best first; empty without smoothing."""
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
        """The detection of a track; None if this frame does not show the track."""
        return next((detection for detection in self.detections if detection.track == number), None)

    def area(self, name: str) -> float:
        """The fraction of the picture that one class covers, 0 to 1; 0 where `areas` lacks it."""
        self.check_class(name)
        return sum(area.fraction for area in self.areas if area.name == name)

    def mask(self, name: str) -> Mask | None:
        """The mask of one class; None if the message has no mask of that class."""
        self.check_class(name)
        return next((mask for mask in self.masks if mask.name == name), None)

    def shows(self, name: str | None = None, min_score: float = 0.0) -> bool:
        """Whether the picture shows a class, or anything: as a detection, else as a stable label,
        else (without smoothing) as the best label, or as an area, whose fraction then counts as its
        score.

        name: of the class; None for any. min_score: smallest score that counts, 0 to 1.
        """
        if self.areas:
            names = {area.name for area in self.areas} if name is None else {name}
            fractions = [self.area(class_name) for class_name in names]
            return any(fraction > 0 and fraction >= min_score for fraction in fractions)
        if name is not None:
            self.check_class(name)
        things = self.detections or self.stable or self.labels[:1]
        if any(label.stable is not None for label in self.labels):
            things = self.stable
        return any(name in (None, thing.name) and thing.score >= min_score for thing in things)


def _elapsed_s(unix_ns: int, mono_ns: int | None, boot_ns: int | None, boot: str | None) -> float:
    if boot is not None and boot == boot_id():
        if boot_ns is not None:
            return (boottime_ns() - boot_ns) / 1e9
        if mono_ns is not None:
            return (time.monotonic_ns() - mono_ns) / 1e9
    return (time.time_ns() - unix_ns) / 1e9
