"""Facts: validates the JSON of a recording once, when it is read. A file may be untrusted, and its
readers rely on this validation."""

import json
from dataclasses import dataclass
from typing import Any

from node.errors import MessageError
from node.image.frame import Clock
from perception_client.messages.codec import from_map, from_plain
from perception_client.messages.kinds import LabelsMessage, Message, MessageKind, Status

MOST_COUNT = 1 << 53
"""More than the frames of a camera's life; integers up to here are exact in every JSON reader."""
MOST_NS = 1 << 63
"""The year 2262, or a duration of 292 years."""
MOST_PX = 1_000_000.0
"""Larger than any picture within the limits."""


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The facts of a frame that its picture does not contain; as in `RecordedFrame`."""

    frame_id: int
    stamp_ns: int | None = None
    clock: Clock | None = None
    epoch: int = 0
    lost_before: int = 0


def read_frame_facts(data: bytes) -> FrameFacts:
    """Reads the facts of a frame. Raises MessageError, which names the invalid fact."""
    facts = from_plain(FrameFacts, "frame", _json(data))
    for name in ("frame_id", "epoch", "lost_before"):
        _check_range(f"frame.{name}", getattr(facts, name), MOST_COUNT)
    _check_range("frame.stamp_ns", facts.stamp_ns, MOST_NS)
    return facts


def read_message(kind: MessageKind, data: bytes) -> Message:
    """Reads a message of the wire. Raises MessageError, which names the invalid fact."""
    message = from_map(kind, _json(data))
    _check_range(f"{kind}.published_ns", message.published_ns, MOST_NS)
    if isinstance(message, LabelsMessage):
        _check_labels(message)
    return message


def read_configuration(data: bytes) -> dict[str, Any]:
    """Reads the configuration in force. Raises MessageError where `data` is none."""
    content = _json(data)
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise MessageError(f"config is {type(config).__name__}, not a map")
    return config


def _json(data: bytes) -> object:
    try:
        text = data.decode()
        content: object = json.loads(text)
        if "\\u" in text:  # may be half a character, which no file and no terminal accepts
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise MessageError(f"{len(data)} bytes are no JSON") from None
    return content


def _check_range(name: str, value: int | None, most: int) -> None:
    if value is not None and not 0 <= value < most:
        raise MessageError(f"{name} is {value}, not from 0 to {most - 1}")


def _check_labels(message: LabelsMessage) -> None:
    """Checks what the types do not express: `ok` refers to a frame, and boxes are in its pixels."""
    if message.status is not Status.OK:
        return
    if message.frame_id is None:
        raise MessageError("labels.frame_id is missing, though the status is ok")
    _check_range("labels.frame_id", message.frame_id, MOST_COUNT)
    _check_range("labels.dropped", message.dropped, MOST_COUNT)
    _check_range("labels.stamp_ns", message.stamp_ns, MOST_NS)
    if message.detections and message.image is None:
        raise MessageError("labels.image is missing, though there are detections")
    for detection in message.detections:
        box = detection.box
        if not all(abs(value) <= MOST_PX for value in (box.cx, box.cy, box.w, box.h)):
            raise MessageError(f"labels.detections.box is {box}, outside of any picture")
