"""Schema of the configuration, as validated immutable types; `node.config.load` loads it, and
`config/default.toml` explains each key."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from node.config.polygon import check_polygon
from node.config.redact import redacted, value_shown
from node.errors import ConfigError
from node.image.limits import Limits
from perception_client.messages.kinds import DEFAULT_ENDPOINT, EventKind
from perception_client.paths import expanded

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Name of a node, camera or region, in characters that are safe in topics and file names."""
MAX_CAMERAS = 32


def _enclosing(corners: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    check_polygon(corners)
    return corners


Fraction = Annotated[float, Field(ge=0, le=1)]
Polygon = Annotated[
    tuple[tuple[Fraction, Fraction], ...],
    Field(min_length=3, max_length=100),
    AfterValidator(_enclosing),
]
"""Corners (x, y) in fractions of the picture's width and height."""
Score = Annotated[float, Field(ge=1e-6, le=1)]
"""Score of a label or detection, above 0."""
Rate = Annotated[float, Field(ge=0.01, le=1000)]
"""Frames a second."""
MAX_PX = 16384
"""Largest width and height of a picture, in pixels."""
FarPx = Annotated[float, Field(ge=-1e6, le=1e6)]
"""A coordinate in pixels, also outside the picture."""
FocalPx = Annotated[float, Field(ge=1, le=1e6)]
"""A focal length in pixels."""
Anchor = Literal["bottom", "center"]
"""Point of a box that decides whether the object is in a region."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def as_tuples(value: object) -> object:
    """Converts lists, as TOML has them, to tuples at every depth, since configurations are
    immutable."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value


def _as_names(value: object) -> object:
    """A single name is a list of one, as a command line gives it."""
    return (value,) if isinstance(value, str) else as_tuples(value)


def _not_empty(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError(
            "[] leaves nothing to find; for all classes leave the key out, or write null (--set, "
            "ctl set)"
        )
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]
ClassNames = Annotated[Names, AfterValidator(_not_empty)]
"""Names of the only classes that count; an empty list would be a node that never sees anything."""


def _as_path(key: str, value: object) -> object:
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} = {value_shown(value)}: must be the path of a file, in quotes")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{key} = {value_shown(value)}: is not UTF-8 text; choose another path")
    try:
        return expanded(value)
    except ConfigError as error:
        raise ValueError(f"{key} = {value_shown(value)}: {error}") from None


class RegionConfig(_Section):
    """A named part of a camera's picture; an object that enters or leaves it is an event."""

    name: Name
    polygon: Annotated[Polygon, BeforeValidator(as_tuples)]


class CalibrationConfig(_Section):
    """A pinhole camera in OpenCV's convention, in pixels of a picture of width x height.
    distortion: k1, k2, p1, p2, k3 to k6."""

    width: int = Field(ge=1, le=MAX_PX)
    height: int = Field(ge=1, le=MAX_PX)
    fx: FocalPx
    fy: FocalPx
    cx: FarPx
    cy: FarPx
    distortion: Annotated[tuple[FarPx, ...], Field(max_length=8), BeforeValidator(as_tuples)] = ()


class CameraConfig(_Section):
    """A camera, stream, video file or set of image files."""

    name: Name = "camera"
    source: str = Field("demo", min_length=1)
    width: int | None = Field(None, ge=16, le=MAX_PX)
    height: int | None = Field(None, ge=16, le=MAX_PX)
    fps: Rate | None = None
    fourcc: str | None = Field(None, pattern=r"^[ -~]{4}$")
    max_fps: Rate | None = None
    loop: bool = False
    at_start: Literal["require", "wait"] = "require"
    stall_timeout_s: float = Field(0.5, ge=0.05, le=60)
    detect_frozen: bool = True
    detect_damage: bool = True
    discard_backlog: bool = True
    deadline_s: float | None = Field(None, ge=1e-6, le=60)
    roi: Annotated[Polygon, BeforeValidator(as_tuples)] | None = None
    roi_mode: Literal["crop", "mask"] = "crop"
    regions: Annotated[tuple[RegionConfig, ...], BeforeValidator(as_tuples)] = ()
    calibration: CalibrationConfig | None = None

    @field_validator("source", mode="before")
    @classmethod
    def _camera_number(cls, value: object) -> object:
        return str(value) if type(value) is int and value >= 0 else value


class ModelConfig(_Section):
    """The network that labels the frames, and the runtime that runs it."""

    name: str = Field("efficientnet_lite0", min_length=1)
    weights: Path | None = None
    runtime: Literal["auto", "torch", "onnxruntime", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    top_k: int = Field(5, ge=1, le=1000)
    threads: int | None = Field(None, ge=1, le=256)
    inference_timeout_s: float = Field(5.0, ge=0.1, le=600)
    compile: bool = False

    @field_validator("weights", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("weights", value)


class DetectConfig(_Section):
    """Filters of a detector's boxes."""

    score: Score = 0.25
    class_scores: dict[str, Score] = Field(default_factory=dict)
    classes: ClassNames | None = None
    iou: float = Field(0.45, ge=0, le=1)
    max_detections: int = Field(100, ge=1, le=1000)
    min_box_px: float = Field(0.0, ge=0, le=MAX_PX)
    tag_size_m: float | None = Field(None, ge=1e-4, le=100)


class CropsConfig(_Section):
    """A second model, a classifier, applied to the crop of each detection."""

    model: str | None = Field(None, min_length=1)
    weights: Path | None = None
    top_k: int = Field(3, ge=1, le=1000)
    classes: ClassNames | None = None
    max_crops: int = Field(8, ge=1, le=64)
    margin: float = Field(0.15, ge=0, le=2)

    @field_validator("weights", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("weights", value)


class SegmentConfig(_Section):
    """Which results of a segmentation are published."""

    min_fraction: float = Field(0.005, ge=0, le=1)
    classes: ClassNames | None = None
    masks: bool = False
    mask_px: int = Field(128, ge=8, le=512)


class TrackConfig(_Section):
    """Tracking of a detector's objects from frame to frame."""

    enabled: bool = False
    start_score: Score = 0.5
    min_hits: int = Field(2, ge=1, le=100)
    lost_s: float = Field(1.0, ge=0, le=60)
    per_class: bool = True
    anchor: Anchor = "bottom"


class SmoothConfig(_Section):
    """Averaging of a classifier's scores over time, and the thresholds of stable labels."""

    time_constant_s: float = Field(0.0, ge=0, le=60)
    enter: Score = 0.5
    leave: float = Field(0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.leave > self.enter:
            raise ValueError(f"leave = {self.leave:g} is above enter = {self.enter:g}; swap them")
        return self


class StepConfig(_Section):
    """One step of degradation: a smaller model, fewer frames, or both."""

    model: str | None = Field(None, min_length=1)
    weights: Path | None = None
    every: int = Field(1, ge=1, le=100)

    @field_validator("weights", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("weights", value)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.model is None and self.every == 1:
            raise ValueError("a step that changes nothing; give it model or every")
        return self


class DegradeConfig(_Section):
    """Steps of degradation, applied in order while a camera misses its deadline."""

    steps: Annotated[tuple[StepConfig, ...], Field(max_length=8), BeforeValidator(as_tuples)] = ()
    down_after_s: float = Field(1.0, ge=0.1, le=600)
    up_after_s: float = Field(10.0, ge=0.1, le=3600)


class WireConfig(_Section):
    """Endpoint that publishes the labels, and the keys for it and the control socket."""

    endpoint: str = DEFAULT_ENDPOINT
    keys: Path | None = None
    insecure: bool = False

    @field_validator("keys", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("keys", value)

    @model_validator(mode="after")
    def _only_this_host(self) -> Self:
        check_endpoint(self.endpoint)
        _check_reach(self.endpoint, self, "read what it sees")
        return self


class ControlConfig(_Section):
    """Endpoint of the control socket, and the folder of the model files that a client may load."""

    endpoint: str | None = None
    models: Path | None = None

    @field_validator("models", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("models", value)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.endpoint is not None:
            check_endpoint(self.endpoint)
        return self


class BlackBoxEventConfig(_Section):
    """An event that writes out the black box."""

    kind: EventKind
    name: str | None = Field(None, min_length=1)
    region: Name | None = None


class RecordingConfig(_Section):
    """Recording of frames and messages, and the black box."""

    enabled: bool = False
    folder: Path = Path("recordings")
    quality: int = Field(85, ge=1, le=100)
    split_mb: int = Field(1024, ge=1, le=1_000_000)
    split_s: float = Field(600.0, ge=1, le=86_400)
    budget_mb: int | None = Field(None, ge=2, le=100_000_000)
    keep_free_mb: int = Field(500, ge=0, le=100_000_000)
    black_box_s: float = Field(0.0, ge=0, le=600)
    black_box_mb: int = Field(256, ge=1, le=16_384)
    black_box_min_interval_s: float = Field(60.0, ge=0, le=86_400)
    black_box_budget_mb: int = Field(2048, ge=1, le=100_000_000)
    black_box_events: Annotated[
        tuple[BlackBoxEventConfig, ...], Field(max_length=32), BeforeValidator(as_tuples)
    ] = ()

    @field_validator("folder", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("folder", value)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.budget_mb is not None and self.budget_mb < 2 * self.split_mb:
            raise ValueError(
                f"budget_mb = {self.budget_mb} is less than two files of split_mb = "
                f"{self.split_mb}; lower split_mb"
            )
        if self.black_box_events and not self.black_box_s:
            raise ValueError("black_box_events needs black_box_s, in seconds")
        return self


class MonitorConfig(_Section):
    """The live page and the metrics, over HTTP."""

    web: str | None = None
    hosts: Names = ()
    token_file: Path | None = None
    insecure: bool = False
    allow_control: bool = False
    picture_fps: float = Field(10.0, ge=0.1, le=60)
    picture_px: int = Field(640, ge=64, le=4096)

    @field_validator("token_file", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("token_file", value)

    @field_validator("web", mode="before")
    @classmethod
    def _address(cls, value: object) -> object:
        if value is None:
            return None
        try:
            check_endpoint(f"tcp://{value if isinstance(value, str) else ''}")
        except ValueError:
            raise ValueError(
                f"web = {value_shown(value)} is not HOST:PORT; write 127.0.0.1:8080"
            ) from None
        return value

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", host):
                raise ValueError(
                    f"hosts = {value_shown(host)}: write the name alone, such as robot.local"
                )
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.web is None:
            return self
        if not (self.insecure or self.token_file or is_loopback(f"tcp://{self.web}")):
            raise ValueError(
                f"web {self.web} can be reached from other computers; use 127.0.0.1:PORT, or give "
                "monitor.token_file, or write monitor.insecure = true if anybody there may look"
            )
        return self


class LimitsConfig(_Section):
    """Limits on the size of pictures and recording chunks."""

    max_pixels: int = Field(Limits().max_pixels, ge=1024, le=4_294_836_225)
    max_picture_mb: int = Field(Limits().max_picture_mb, ge=1, le=16_384)
    max_chunk_mb: int = Field(Limits().max_chunk_mb, ge=1, le=16_384)

    @property
    def limits(self) -> Limits:
        """The limits as the type that decoders use."""
        return Limits(self.max_pixels, self.max_picture_mb, self.max_chunk_mb)


class LogConfig(_Section):
    """Log output on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class NodeConfig(_Section):
    """The whole configuration."""

    name: Name = "perception"
    camera: tuple[CameraConfig, ...] = Field(
        default_factory=lambda: (CameraConfig(),), min_length=1
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    detect: DetectConfig = Field(default_factory=DetectConfig)
    crops: CropsConfig = Field(default_factory=CropsConfig)
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    track: TrackConfig = Field(default_factory=TrackConfig)
    smooth: SmoothConfig = Field(default_factory=SmoothConfig)
    degrade: DegradeConfig = Field(default_factory=DegradeConfig)
    wire: WireConfig = Field(default_factory=WireConfig)
    control: ControlConfig = Field(default_factory=ControlConfig)
    recording: RecordingConfig = Field(default_factory=RecordingConfig)
    monitor: MonitorConfig = Field(default_factory=MonitorConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @field_validator("camera", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _cameras_apart(self) -> Self:
        names = [camera.name for camera in self.camera]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two cameras are named {repeated[0]!r}; give each [[camera]] its own")
        if len(names) > MAX_CAMERAS:
            raise ValueError(f"{len(names)} cameras; at most {MAX_CAMERAS}")
        return self

    @model_validator(mode="after")
    def _control_is_guarded(self) -> Self:
        if self.control.endpoint is not None:
            if self.control.endpoint == self.wire.endpoint:
                raise ValueError(
                    f"control.endpoint {self.control.endpoint} is wire.endpoint too; choose another"
                )
            _check_reach(self.control.endpoint, self.wire, "control it", "control.")
        return self

    @model_validator(mode="after")
    def _steps_need_a_deadline(self) -> Self:
        if self.degrade.steps and all(camera.deadline_s is None for camera in self.camera):
            raise ValueError("degrade.steps: no camera has a deadline to hold; set deadline_s")
        return self

    @model_validator(mode="after")
    def _events_are_in_regions(self) -> Self:
        regions = {region.name for camera in self.camera for region in camera.regions}
        for event in self.recording.black_box_events:
            if event.region is not None and event.region not in regions:
                raise ValueError(
                    f"recording.black_box_events: no camera has a region {event.region!r}; "
                    f"regions: {', '.join(sorted(regions)) or 'none'}"
                )
        return self


def _check_reach(endpoint: str, wire: WireConfig, access: str, where: str = "") -> None:
    if wire.insecure or wire.keys is not None or is_loopback(endpoint):
        return
    raise ValueError(
        f"{where}endpoint {endpoint} can be reached from other computers; use ipc:// or "
        "tcp://127.0.0.1:PORT, or make keys (perception-node keys FOLDER) and name the folder in "
        f"wire.keys, or write wire.insecure = true if anybody there may {access}"
    )


def check_endpoint(endpoint: str) -> None:
    """Raises ValueError unless `endpoint` is tcp://HOST:PORT or ipc://PATH."""
    example = "write tcp://127.0.0.1:5570 or ipc:///run/perception-node/labels.sock"
    scheme, separator, rest = endpoint.partition("://")
    if not separator or scheme not in ("tcp", "ipc") or not rest:
        raise ValueError(f"endpoint {redacted(endpoint)!r} is neither tcp nor ipc; {example}")
    if scheme == "tcp":
        match = re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):(\d{1,5})", rest)
        if not match or int(match[2]) > 65535:
            raise ValueError(
                f"endpoint {redacted(endpoint)!r} is not HOST:PORT with a port up to 65535; "
                f"{example}"
            )
    elif "\0" in rest:
        raise ValueError(f"endpoint {redacted(endpoint)!r}: a path holds no zero byte; {example}")
    elif len(rest.encode()) > 107:
        # sun_path of unix(7) holds 108 bytes, including the final zero.
        raise ValueError(f"endpoint {redacted(endpoint)!r}: a socket's path has at most 107 bytes")


def is_loopback(endpoint: str) -> bool:
    """Whether only processes of this host can reach `endpoint`."""
    if endpoint.startswith("ipc://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        # Bound as 127.0.0.1, whatever the name resolves to: `perception_client.endpoint`.
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
