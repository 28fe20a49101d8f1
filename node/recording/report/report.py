"""Report: one HTML page that summarises a recording, without references to other files."""

import base64
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image as PILImage

from node.errors import PictureError
from node.image.frame import Image
from node.image.jpeg import encode_jpeg
from node.process.output_files import write_whole
from node.recording.frames import RecordedFrame
from node.recording.reader import Recording
from perception_client.messages.kinds import (
    EventMessage,
    HealthMessage,
    LabelsMessage,
    ModelInfo,
    Status,
)

THUMBNAILS = 12
THUMBNAIL_PX = 160
MOST_ROWS = 12
"""Classes with a row in the timeline: the most frequent ones."""
MOST_EVENTS = 200
MOST_CHANGES = 1000
"""Most listed changes of status and health: they are few unless something flaps, and have their own
limit, so that events do not displace them."""
_WIDTH = 1000.0
"""Width of the timelines, in units of the drawing."""
_BINS = 24
_GAP_NS = 1_000_000_000
"""Labels further apart than this are two stretches of time."""

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of time in a timeline. x, width: in units of the drawing."""

    x: float
    width: float
    title: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A class in the timeline. share: its share of the camera's labelled frames, 0 to 1."""

    name: str
    share: float
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture. at_s: its time from the start; data: the picture as a data URL."""

    at_s: float
    data: str
    title: str


@dataclass(slots=True)
class CameraReport:
    """The report's section of one camera."""

    name: str
    size: str = "unknown"
    frames: int = 0
    labelled: int = 0
    dropped: int = 0
    lost: int = 0
    fps: float = 0.0
    statuses: tuple[Stretch, ...] = ()
    missing: tuple[Stretch, ...] = ()
    rows: tuple[Row, ...] = ()
    thumbnails: list[Thumbnail] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the histogram. height: 0 to 1."""

    from_ms: float
    to_ms: float
    count: int
    height: float


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the list of events and changes. at_s: time from the start."""

    at_s: float
    camera: str
    text: str
    kind: str


def write_report(recording: Recording, to: Path, progress: Progress = lambda done: None) -> None:
    """Writes the page. progress: called with the share done, 0 to 1. Raises OutputError, and then
    leaves the file's former content."""
    write_whole(to, render(recording, progress).encode("utf-8", "xmlcharrefreplace"))


def render(recording: Recording, progress: Progress = lambda done: None) -> str:
    """The page as text."""
    start_ns = recording.start_ns
    duration_ns = max(recording.end_ns - start_ns, 1)
    scale = _Scale(start_ns, duration_ns)
    messages = _Messages(recording, progress)
    cameras = [CameraReport(name) for name in recording.cameras]
    by_name = {camera.name: camera for camera in cameras}
    for camera in cameras:
        _add_labels(camera, messages.labels[camera.name], scale)
    lost = _add_frames(recording, by_name, scale, duration_ns, progress)
    for camera in cameras:
        camera.missing = (*_drops(messages.labels[camera.name], scale), *lost[camera.name])
        camera.fps = camera.frames / (duration_ns / 1e9)
    latencies = [latency for values in messages.latencies_ms.values() for latency in values]
    return _template().render(
        title=recording.paths[0].stem,
        files=[path.name for path in recording.paths],
        duration_s=duration_ns / 1e9,
        cameras=cameras,
        ticks=_ticks(duration_ns / 1e9),
        width=_WIDTH,
        bars=_histogram(latencies),
        latency=_percentiles(latencies),
        log_lines=_log_lines(messages, start_ns),
        models=sorted({_model(model) for model in messages.models}),
        problems=recording.problems,
    )


class _Messages:
    """The messages of a recording, sorted by kind."""

    def __init__(self, recording: Recording, progress: Progress) -> None:
        self.labels: defaultdict[str, list[tuple[int, LabelsMessage]]] = defaultdict(list)
        self.events: list[tuple[int, EventMessage]] = []
        self.health: list[tuple[int, HealthMessage]] = []
        self.latencies_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.models: set[ModelInfo] = set()
        begin_ns, end_ns = recording.start_ns, recording.end_ns
        for log_ns, message in recording.messages():
            progress(0.5 * max(0.0, log_ns - begin_ns) / max(end_ns - begin_ns, 1))
            match message:
                case LabelsMessage():
                    self.labels[message.camera].append((log_ns, message))
                    if message.model is not None:
                        self.models.add(message.model)
                    if message.timing_ns is not None:
                        self.latencies_ms[message.camera].append(_latency_ns(message) / 1e6)
                case EventMessage():
                    self.events.append((log_ns, message))
                case HealthMessage():
                    self.health.append((log_ns, message))
                case _:
                    pass


@dataclass(frozen=True, slots=True)
class _Scale:
    start_ns: int
    duration_ns: int

    def x(self, log_ns: int) -> float:
        share = (log_ns - self.start_ns) / self.duration_ns
        return min(max(share, 0.0), 1.0) * _WIDTH

    def stretch(self, from_ns: int, to_ns: int, title: str, kind: str = "") -> Stretch:
        x = self.x(from_ns)
        width = max(self.x(to_ns) - x, 1.5)
        seconds = f"{self.seconds(from_ns):.1f} to {self.seconds(to_ns):.1f} s"
        return Stretch(round(x, 2), round(width, 2), f"{title}, {seconds}", kind)

    def seconds(self, log_ns: int) -> float:
        return (log_ns - self.start_ns) / 1e9


def _latency_ns(message: LabelsMessage) -> int:
    """From capture to publish by the monotonic clock; without its times the sum of the stages."""
    if message.published_mono_ns is not None and message.stamp_mono_ns is not None:
        return message.published_mono_ns - message.stamp_mono_ns
    assert message.timing_ns is not None
    return message.timing_ns.total


def _add_labels(
    camera: CameraReport, messages: Sequence[tuple[int, LabelsMessage]], scale: _Scale
) -> None:
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for log_ns, message in messages:
        if message.status is not Status.OK:
            continue
        camera.labelled += 1
        camera.dropped += message.dropped
        for name in _names(message):
            seen[name].append(log_ns)
    most = sorted(seen, key=lambda name: (-len(seen[name]), name))[:MOST_ROWS]
    camera.rows = tuple(
        Row(
            name,
            len(seen[name]) / camera.labelled,
            tuple(
                scale.stretch(first, last, name) for first, last in _stretches(sorted(seen[name]))
            ),
        )
        for name in most
    )
    camera.statuses = tuple(_statuses(messages, scale))


def _names(message: LabelsMessage) -> set[str]:
    if message.detections or message.areas:
        detected = {detection.name for detection in message.detections}
        return detected | {area.name for area in message.areas}
    return {label.name for label in message.stable or message.labels[:1]}


def _stretches(moments: Sequence[int]) -> Iterable[tuple[int, int]]:
    first = last = moments[0]
    for moment in moments[1:]:
        if moment - last > _GAP_NS:
            yield first, last
            first = moment
        last = moment
    yield first, last


def _statuses(messages: Sequence[tuple[int, LabelsMessage]], scale: _Scale) -> Iterable[Stretch]:
    began: tuple[int, Status] | None = None
    for log_ns, message in messages:
        if began is not None and began[1] is message.status:
            continue
        if began is not None:
            yield scale.stretch(began[0], log_ns, str(began[1]), str(began[1]))
        began = log_ns, message.status
    if began is not None:
        end_ns = scale.start_ns + scale.duration_ns
        yield scale.stretch(began[0], end_ns, str(began[1]), str(began[1]))


def _drops(messages: Sequence[tuple[int, LabelsMessage]], scale: _Scale) -> Iterable[Stretch]:
    """Sums drops over each hundredth of the time, which bounds the number of stretches to draw."""
    by_bin: Counter[int] = Counter()
    for log_ns, message in messages:
        if message.dropped:
            by_bin[int(scale.x(log_ns) / _WIDTH * 99.999)] += message.dropped
    step_ns = scale.duration_ns // 100
    for bin_number, count in sorted(by_bin.items()):
        first_ns = scale.start_ns + bin_number * step_ns
        yield scale.stretch(first_ns, first_ns + step_ns, f"{count} dropped", "dropped")


def _add_frames(
    recording: Recording,
    cameras: dict[str, CameraReport],
    scale: _Scale,
    duration_ns: int,
    progress: Progress,
) -> defaultdict[str, list[Stretch]]:
    lost: defaultdict[str, list[Stretch]] = defaultdict(list)
    due: dict[str, float] = dict.fromkeys(cameras, 0.0)
    for frame in recording.frames():
        progress(0.5 + 0.5 * frame.media_ns / duration_ns)
        camera = cameras[frame.camera]
        camera.frames += 1
        if frame.lost_before:
            camera.lost += frame.lost_before
            title = f"{frame.lost_before} not recorded"
            lost[frame.camera].append(scale.stretch(frame.log_ns - 1, frame.log_ns, title, "lost"))
        if frame.media_ns >= due[frame.camera]:
            due[frame.camera] += duration_ns / THUMBNAILS
            try:
                camera.size, small = _thumbnail(frame)
            except PictureError as error:
                recording.note_problem(f"camera {frame.camera!r}: a frame is skipped: {error}")
                continue
            camera.thumbnails.append(small)
    return lost


def _thumbnail(frame: RecordedFrame) -> tuple[str, Thumbnail]:
    """The frame's size, and a small picture of it. Raises PictureError."""
    image = frame.image()
    height, width = image.shape[:2]
    small = PILImage.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    pixels: Image = np.asarray(small)[:, :, ::-1]
    data = base64.b64encode(encode_jpeg(pixels, 70)).decode()
    seconds = frame.media_ns / 1e9
    title = f"{frame.camera} at {seconds:.1f} s, frame {frame.frame_id}"
    return f"{width} x {height}", Thumbnail(seconds, f"data:image/jpeg;base64,{data}", title)


def _ticks(duration_s: float) -> list[tuple[float, str]]:
    """About eight round times, with their positions in the drawing."""
    raw = duration_s / 8
    magnitude = 10 ** math.floor(math.log10(max(raw, 1e-3)))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    count = int(duration_s / step + 1e-9)
    return [(i * step / duration_s * _WIDTH, f"{i * step:g} s") for i in range(count + 1)]


def _histogram(latencies_ms: Sequence[float]) -> list[Bar]:
    """Bins of equal ratios, since latencies have a long tail."""
    if not latencies_ms:
        return []
    low, high = max(min(latencies_ms), 0.01), max(*latencies_ms, 0.02)
    ratio = (high / low) ** (1 / _BINS) if high > low else 1.01
    counts = Counter(
        min(int(math.log(max(latency_ms, low) / low) / math.log(ratio)), _BINS - 1)
        for latency_ms in latencies_ms
    )
    most = max(counts.values())
    return [
        Bar(low * ratio**i, low * ratio ** (i + 1), counts[i], counts[i] / most)
        for i in range(_BINS)
    ]


def _percentiles(latencies_ms: Sequence[float]) -> dict[str, float] | None:
    if len(latencies_ms) < 2:
        return None
    hundredths = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return {"p50": hundredths[49], "p99": hundredths[98], "maximum": max(latencies_ms)}


def _log_lines(messages: _Messages, start_ns: int) -> list[LogLine]:
    """Events, and changes of status and health, sorted by time."""
    events = [
        LogLine((log_ns - start_ns) / 1e9, event.camera, _of_event(event), event.kind)
        for log_ns, event in messages.events
    ]
    changes = [*_status_changes(messages, start_ns), *_health_changes(messages, start_ns)]
    lines = [
        *_first(events, MOST_EVENTS, "event"),
        *_first(changes, MOST_CHANGES, "change"),
    ]
    return sorted(lines, key=lambda line: line.at_s)


def _first(lines: Sequence[LogLine], most: int, noun: str) -> list[LogLine]:
    """The first `most` lines; then, at the time of the next line, the number of further lines."""
    by_time = sorted(lines, key=lambda line: line.at_s)
    rest = by_time[most:]
    if not rest:
        return by_time
    text = f"and {len(rest)} more {noun}{'s' if len(rest) != 1 else ''} from here on, not listed"
    return [*by_time[:most], LogLine(rest[0].at_s, "", text, "more")]


def _status_changes(messages: _Messages, start_ns: int) -> Iterable[LogLine]:
    for camera, labels in messages.labels.items():
        before: Status | None = None
        for log_ns, message in labels:
            if message.status is not before:
                text = str(message.status) if before is None else f"{before} → {message.status}"
                yield LogLine((log_ns - start_ns) / 1e9, camera, text, str(message.status))
            before = message.status


def _health_changes(messages: _Messages, start_ns: int) -> Iterable[LogLine]:
    state, error = "", None
    for log_ns, health in messages.health:
        at_s = (log_ns - start_ns) / 1e9
        if health.state != state:
            yield LogLine(at_s, "", f"node {health.state}", health.state)
        if health.last_error not in (None, error):
            yield LogLine(at_s, "", str(health.last_error), "failed")
        state, error = health.state, health.last_error


def _of_event(event: EventMessage) -> str:
    subject = event.name if event.track is None else f"{event.name} #{event.track}"
    region = "" if event.region is None else f" ({event.region})"
    duration = "" if event.duration_ns is None else f" after {event.duration_ns / 1e9:.1f} s"
    return f"{subject} {event.kind.replace('_', ' ')}{region}{duration}"


def _model(model: ModelInfo) -> str:
    return f"{model.name} ({model.task}), {model.runtime} {model.precision} on {model.device}"


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html")
