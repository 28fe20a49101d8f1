"""Encodes frames and messages as entries, and labels as Foxglove's annotations."""

import time
from collections.abc import Iterator

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from foxglove_schemas_protobuf.PointsAnnotation_pb2 import PointsAnnotation

from node.config.redact import redacted
from node.config.schema import NodeConfig
from node.image.frame import Frame
from node.image.jpeg import encode_jpeg
from node.recording.records import (
    annotations_channel,
    as_json,
    config_channel,
    frames_channel,
    image_channel,
    message_channel,
)
from perception_client.messages.codec import to_map
from perception_client.messages.kinds import (
    Detection,
    EventMessage,
    HealthMessage,
    InfoMessage,
    LabelsMessage,
    Message,
    Status,
)
from perception_client.recordings.records import Entry

_FONT_PX = 16.0
_LABELS_SHOWN = 5
_GOLDEN_RATIO = 0.618034


class Clock:
    """The clock of a recording: Unix time at its creation, monotonic from then on. Setting the wall
    clock does not change it."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def at(self, mono_ns: int | None) -> int:
        """The recording's time, in ns, of a moment on CLOCK_MONOTONIC; None for now."""
        return self._offset_ns + (time.monotonic_ns() if mono_ns is None else mono_ns)


def frame_entries(frame: Frame, log_ns: int, *, quality: int, lost_before: int) -> list[Entry]:
    """Encodes a frame as two entries: its facts as JSON, and its picture as JPEG.

    Args:
        frame: its JPEG bytes are kept where it has them.
        log_ns: time on the recording's clock.
        quality: of the JPEG, 1 to 100.
        lost_before: frames of its camera that the recorder lost since the previous entry.
    """
    stamp = frame.stamp
    stamp_ns = log_ns if stamp is None else stamp.unix_ns
    facts = {
        "frame_id": frame.frame_id,
        "stamp_ns": None if stamp is None else stamp.unix_ns,
        "clock": None if stamp is None else stamp.clock,
        "stamp_mono_ns": None if stamp is None else stamp.mono_ns,
        "media_ns": frame.media_ns,
        "capture_ns": frame.capture_ns,
        "epoch": frame.epoch,
        "lost_before": lost_before,
    }
    image = CompressedImage(frame_id=frame.camera, format="jpeg")
    image.timestamp.FromNanoseconds(stamp_ns)
    image.data = frame.jpeg or encode_jpeg(frame.image, quality)
    number = frame.frame_id & 0xFFFFFFFF
    return [
        Entry(frames_channel(frame.camera), log_ns, stamp_ns, number, as_json(facts)),
        Entry(image_channel(frame.camera), log_ns, stamp_ns, number, image.SerializeToString()),
    ]


def message_entries(message: Message, log_ns: int) -> Iterator[Entry]:
    """Encodes a message as JSON; labels of status `ok` also as annotations to draw."""
    match message:
        case LabelsMessage():
            channel = message_channel("labels", message.camera)
        case EventMessage():
            channel = message_channel("events", message.camera)
        case HealthMessage():
            channel = message_channel("health", message.node)
        case InfoMessage():
            channel = message_channel("info", message.node)
    number = message.seq & 0xFFFFFFFF
    yield Entry(channel, log_ns, message.published_ns, number, as_json(to_map(message)))
    if isinstance(message, LabelsMessage) and message.status is Status.OK:
        yield Entry(
            annotations_channel(message.camera),
            log_ns,
            message.published_ns,
            number,
            annotations(message).SerializeToString(),
        )


def config_entry(config: NodeConfig, settings: int, log_ns: int) -> Entry:
    """Encodes the configuration in force, without the passwords of sources."""
    content = config.model_dump(mode="json")
    for camera in content["camera"]:
        camera["source"] = redacted(camera["source"])
    data = as_json({"settings": settings, "config": content})
    return Entry(config_channel(config.name), log_ns, log_ns, settings, data)


def annotations(message: LabelsMessage) -> ImageAnnotations:
    """Boxes with their names, or the best labels in the corner. All carry the frame's stamp, by
    which viewers match them with their picture."""
    drawn = ImageAnnotations()
    stamp_ns = message.stamp_ns if message.stamp_ns is not None else message.published_ns
    for detection in message.detections:
        _add_box(drawn, detection, stamp_ns)
    lines = [f"{label.name} {label.score:.2f}" for label in message.labels[:_LABELS_SHOWN]]
    lines += [f"{area.name} {area.fraction:.0%}" for area in message.areas[:_LABELS_SHOWN]]
    for row, line in enumerate(lines, start=1):
        _add_text(drawn, line, 8.0, 8.0 + _FONT_PX * 1.4 * row, stamp_ns, (1, 1, 1))
    return drawn


def _add_box(drawn: ImageAnnotations, detection: Detection, stamp_ns: int) -> None:
    box, color = detection.box, color_of(detection.id)
    left, top = box.cx - box.w / 2, box.cy - box.h / 2
    outline = drawn.points.add(type=PointsAnnotation.LINE_LOOP, thickness=2.0)
    outline.timestamp.FromNanoseconds(stamp_ns)
    for x, y in outline_of(detection):
        outline.points.add(x=x, y=y)
    outline.outline_color.r, outline.outline_color.g, outline.outline_color.b = color
    outline.outline_color.a = 1.0
    _add_text(drawn, title_of(detection), left, max(top - 4, _FONT_PX), stamp_ns, color)


def _add_text(
    drawn: ImageAnnotations,
    text: str,
    x: float,
    y: float,
    stamp_ns: int,
    color: tuple[float, float, float],
) -> None:
    added = drawn.texts.add(text=text, font_size=_FONT_PX)
    added.timestamp.FromNanoseconds(stamp_ns)
    added.position.x, added.position.y = x, y
    added.text_color.r, added.text_color.g, added.text_color.b = color
    added.text_color.a = 1.0
    added.background_color.a = 0.6


def outline_of(detection: Detection) -> tuple[tuple[float, float], ...]:
    """The corners of a tag, or of the box of another object, clockwise, in pixels of the frame."""
    box = detection.box
    left, top = box.cx - box.w / 2, box.cy - box.h / 2
    right, bottom = left + box.w, top + box.h
    return detection.corners or ((left, top), (right, top), (right, bottom), (left, bottom))


def title_of(detection: Detection) -> str:
    """The text at a box: `person #3 0.92`."""
    track = "" if detection.track is None else f" #{detection.track}"
    return f"{detection.name}{track} {detection.score:.2f}"


def color_of(number: int) -> tuple[float, float, float]:
    """The colour of a class: red, green, blue, each 0 to 1. Steps of the golden ratio keep the hues
    of neighbouring numbers apart."""
    import colorsys

    return colorsys.hsv_to_rgb(number * _GOLDEN_RATIO % 1.0, 0.65, 1.0)
