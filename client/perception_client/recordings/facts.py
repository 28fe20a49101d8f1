"""Facts: validates the JSON of a recording once, when it is read. A file may be untrusted, and its
readers rely on this validation."""

import json

from perception_client.errors import MessageError
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import LabelsMessage, Message, MessageKind, Status

MOST_COUNT = 1 << 53
"""More than the frames of a camera's life; integers up to here are exact in every JSON reader."""
MOST_NS = 1 << 63
"""The year 2262, or a duration of 292 years."""
MOST_PX = 1_000_000.0
"""Larger than any picture within the limits."""


def read_message(kind: MessageKind, data: bytes) -> Message:
    """Reads a message of the wire. Raises MessageError, which names the invalid fact."""
    message = from_map(kind, read_json(data))
    check_range(f"{kind}.published_ns", message.published_ns, MOST_NS)
    if isinstance(message, LabelsMessage):
        _check_labels(message)
    return message


def read_json(data: bytes) -> object:
    """Reads JSON in UTF-8. Raises MessageError."""
    try:
        text = data.decode()
        content: object = json.loads(text)
        if "\\u" in text:  # may be half a character, which no file and no terminal accepts
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise MessageError(f"{len(data)} bytes are no JSON") from None
    return content


def check_range(name: str, value: int | None, most: int) -> None:
    """Raises MessageError, with the name, for a value outside of [0, most); None is valid."""
    if value is not None and not 0 <= value < most:
        raise MessageError(f"{name} is {value}, not from 0 to {most - 1}")


def _check_labels(message: LabelsMessage) -> None:
    """Checks what the types do not express: `ok` refers to a frame, and boxes are in its pixels."""
    if message.status is not Status.OK:
        return
    if message.frame_id is None:
        raise MessageError("labels.frame_id is missing, though the status is ok")
    check_range("labels.frame_id", message.frame_id, MOST_COUNT)
    check_range("labels.dropped", message.dropped, MOST_COUNT)
    check_range("labels.stamp_ns", message.stamp_ns, MOST_NS)
    if message.detections and message.image is None:
        raise MessageError("labels.image is missing, though there are detections")
    for detection in message.detections:
        box = detection.box
        if not all(abs(value) <= MOST_PX for value in (box.cx, box.cy, box.w, box.h)):
            raise MessageError(f"labels.detections.box is {box}, outside of any picture")
