"""Overlay: draws what was seen over its frame."""

import numpy as np

from node.image.frame import Image
from node.image.opencv import cv2
from node.recording.encode import color_of, title_of
from perception_client.messages.kinds import Detection, LabelsMessage, Status

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LABELS_SHOWN = 5
_BAND = 0.35
"""How much of the picture shines through behind text."""


def draw(image: Image, message: LabelsMessage | None) -> Image:
    """A copy of [height, width, 3] uint8 BGR with boxes and names, or the best labels; with a
    status other than `ok`, that in words. None: the frame was not labelled."""
    drawn = image.copy()
    size = max(0.4, image.shape[0] / 900)
    if message is None:
        _text(drawn, "not labelled", (8, int(28 * size)), size, (170, 170, 170))
        return drawn
    if message.status is not Status.OK:
        _text(drawn, str(message.status), (8, int(28 * size)), size, (80, 80, 255))
        return drawn
    for detection in message.detections:
        _box(drawn, detection, size)
    lines = [f"{label.name} {label.score:.2f}" for label in message.labels[:_LABELS_SHOWN]]
    lines += [f"{area.name} {area.fraction:.0%}" for area in message.areas[:_LABELS_SHOWN]]
    for place, line in enumerate(lines):
        _text(drawn, line, (8, int(28 * size * (place + 1))), size, (255, 255, 255))
    return drawn


def _box(drawn: Image, one: Detection, size: float) -> None:
    red, green, blue = (round(255 * part) for part in color_of(one.track or one.id))
    color = (blue, green, red)
    left, top = round(one.box.cx - one.box.w / 2), round(one.box.cy - one.box.h / 2)
    right, bottom = round(one.box.cx + one.box.w / 2), round(one.box.cy + one.box.h / 2)
    cv2.rectangle(drawn, (left, top), (right, bottom), color, max(1, round(2 * size)), cv2.LINE_AA)
    _text(drawn, title_of(one), (left, max(top - 6, int(20 * size))), size * 0.85, color)


def _text(
    drawn: Image, text: str, place: tuple[int, int], size: float, color: tuple[int, int, int]
) -> None:
    (width, height), base = cv2.getTextSize(text, _FONT, size, 1)
    x, y = place
    band = drawn[max(0, y - height - 4) : y + base + 2, max(0, x - 3) : x + width + 3]
    band[:] = (band * _BAND).astype(np.uint8)
    cv2.putText(drawn, text, place, _FONT, size, color, 1, cv2.LINE_AA)
