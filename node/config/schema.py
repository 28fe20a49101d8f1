"""The whole configuration as validated types; `node.config.load` reads it."""

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
"""Corners (x, y) in fractions of the picture's width and height, around a part of it."""
Score = Annotated[float, Field(ge=1e-6, le=1)]
Rate = Annotated[float, Field(ge=0.01, le=1000)]
"""Pictures a second."""
MAX_PX = 16384
"""Longest side of a picture."""
FarPx = Annotated[float, Field(ge=-1e6, le=1e6)]
FocalPx = Annotated[float, Field(ge=1, le=1e6)]
Anchor = Literal["bottom", "center"]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


def as_tuples(value: object) -> object:
    """TOML's lists are tuples here, since configurations do not change."""
    return tuple(as_tuples(item) for item in value) if isinstance(value, list) else value


def _as_path(key: str, value: object) -> object:
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} = {value_shown(value)}: must be the path of a file, in quotes")
    try:
        return expanded(value)
    except ConfigError as error:
        raise ValueError(f"{key} = {value_shown(value)}: {error}") from None


class RegionConfig(_Section):
    """A named part of a camera's picture, whose coming and going is an event."""

    name: Name
    polygon: Annotated[Polygon, BeforeValidator(as_tuples)]


class CalibrationConfig(_Section):
    """A pinhole camera in OpenCV's convention, in pixels of a picture of width x height."""

    width: int = Field(ge=1, le=MAX_PX)
    height: int = Field(ge=1, le=MAX_PX)
    fx: FocalPx
    fy: FocalPx
    cx: FarPx
    cy: FarPx
    distortion: Annotated[tuple[FarPx, ...], Field(max_length=8), BeforeValidator(as_tuples)] = ()


class CameraConfig(_Section):
    """One camera, stream, video file or folder of pictures."""

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
    """Which network labels the frames, and what runs it."""

    name: str = Field("efficientnet_lite0", min_length=1)
    weights: Path | None = None
    runtime: Literal["auto", "torch", "onnxruntime", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    top_k: int = Field(5, ge=1, le=1000)
    threads: int | None = Field(None, ge=1, le=256)
    inference_timeout_s: float = Field(5.0, ge=0.1, le=600)

    @field_validator("weights", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("weights", value)


class DetectConfig(_Section):
    """Which boxes of a detector count."""

    score: Score = 0.25
    class_scores: dict[str, Score] = Field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    iou: float = Field(0.45, ge=0, le=1)
    max_detections: int = Field(100, ge=1, le=1000)
    min_box_px: float = Field(0.0, ge=0, le=MAX_PX)

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class CropsConfig(_Section):
    """A second model, a classifier, that looks at each detection's crop."""

    model: str | None = Field(None, min_length=1)
    weights: Path | None = None
    top_k: int = Field(3, ge=1, le=1000)
    classes: tuple[str, ...] | None = None
    max_crops: int = Field(8, ge=1, le=64)
    margin: float = Field(0.15, ge=0, le=2)

    @field_validator("weights", mode="before")
    @classmethod
    def _path(cls, value: object) -> object:
        return _as_path("weights", value)

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class SegmentConfig(_Section):
    """What is told of a segmentation."""

    min_fraction: float = Field(0.005, ge=0, le=1)
    classes: tuple[str, ...] | None = None
    masks: bool = False
    mask_px: int = Field(128, ge=8, le=512)

    @field_validator("classes", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class TrackConfig(_Section):
    """How a detector's objects are followed from frame to frame."""

    enabled: bool = False
    start_score: Score = 0.5
    min_hits: int = Field(2, ge=1, le=100)
    lost_s: float = Field(1.0, ge=0, le=60)
    per_class: bool = True
    anchor: Anchor = "bottom"


class SmoothConfig(_Section):
    """How a classifier's scores are averaged, and which labels are stable."""

    time_constant_s: float = Field(0.0, ge=0, le=60)
    enter: Score = 0.5
    leave: float = Field(0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.leave > self.enter:
            raise ValueError(f"leave = {self.leave:g} is above enter = {self.enter:g}; turn them")
        return self


class StepConfig(_Section):
    """One step down: a smaller model, fewer frames, or both."""

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
    """What to give up, step by step, when a camera's deadline cannot be held."""

    steps: Annotated[tuple[StepConfig, ...], Field(max_length=8), BeforeValidator(as_tuples)] = ()
    down_after_s: float = Field(1.0, ge=0.1, le=600)
    up_after_s: float = Field(10.0, ge=0.1, le=3600)


class WireConfig(_Section):
    """Where the labels are broadcast, and which keys that and the control socket ask for."""

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
    """Where the node is asked to do things, and which model files it may be asked to load."""

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
    """An event at which the black box is written out."""

    kind: EventKind
    name: str | None = Field(None, min_length=1)
    region: Name | None = None


class RecordingConfig(_Section):
    """What is kept of what the node sees and says."""

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
    """How large a picture, or a chunk of a recording, may be."""

    max_pixels: int = Field(Limits().max_pixels, ge=1024, le=4_294_836_225)
    max_picture_mb: int = Field(Limits().max_picture_mb, ge=1, le=16_384)
    max_chunk_mb: int = Field(Limits().max_chunk_mb, ge=1, le=16_384)

    @property
    def limits(self) -> Limits:
        """The same for the decoders."""
        return Limits(self.max_pixels, self.max_picture_mb, self.max_chunk_mb)


class LogConfig(_Section):
    """What is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class NodeConfig(_Section):
    """The whole file."""

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
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two cameras are named {twice[0]!r}; give each [[camera]] its own")
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


def _check_reach(endpoint: str, wire: WireConfig, what: str, where: str = "") -> None:
    if wire.insecure or wire.keys is not None or is_loopback(endpoint):
        return
    raise ValueError(
        f"{where}endpoint {endpoint} can be reached from other computers; use ipc:// or "
        "tcp://127.0.0.1:PORT, or make keys (perception-node keys FOLDER) and name the folder in "
        f"wire.keys, or write wire.insecure = true if anybody there may {what}"
    )


def check_endpoint(endpoint: str) -> None:
    """Raises ValueError unless `endpoint` is tcp://HOST:PORT or ipc://PATH."""
    how = "write tcp://127.0.0.1:5570 or ipc:///run/perception-node/labels.sock"
    scheme, separator, rest = endpoint.partition("://")
    if not separator or scheme not in ("tcp", "ipc") or not rest:
        raise ValueError(f"endpoint {redacted(endpoint)!r} is neither tcp nor ipc; {how}")
    if scheme == "tcp":
        match = re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):(\d{1,5})", rest)
        if not match or int(match[2]) > 65535:
            raise ValueError(
                f"endpoint {redacted(endpoint)!r} is not HOST:PORT with a port up to 65535; {how}"
            )
    elif "\0" in rest:
        raise ValueError(f"endpoint {redacted(endpoint)!r}: a path holds no zero byte; {how}")
    elif len(rest.encode()) > 107:  # sun_path of unix(7) holds 108 bytes with the final zero
        raise ValueError(f"endpoint {redacted(endpoint)!r}: a socket's path has at most 107 bytes")


def is_loopback(endpoint: str) -> bool:
    """Whether only processes of this host can reach `endpoint`."""
    if endpoint.startswith("ipc://"):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True  # bound as 127.0.0.1, whatever the name leads to: `wire.endpoint.address_of`
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
