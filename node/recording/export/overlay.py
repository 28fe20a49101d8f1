"""Overlay: draws labels over their frame."""

import numpy as np

from node.image.frame import Image
from node.image.opencv import cv2
from node.recording.encode import color_of, outline_of, title_of
from perception_client.messages.kinds import Detection, LabelsMessage, Status

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LABELS_SHOWN = 5
_BAND = 0.35
"""Share of the picture's brightness that remains behind text."""


def draw(image: Image, message: LabelsMessage | None) -> Image:
    """Draws a message over a copy of its frame: boxes and names, or the best labels, or a status
    other than `ok` in words.

    Args:
        image: [height, width, 3] uint8 BGR; unchanged.
        message: of the frame; None for a frame without labels.

    Returns an image of the same shape.
    """
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
    for row, line in enumerate(lines, start=1):
        _text(drawn, line, (8, int(28 * size * row)), size, (255, 255, 255))
    return drawn


def _box(drawn: Image, detection: Detection, size: float) -> None:
    red, green, blue = (round(255 * part) for part in color_of(detection.track or detection.id))
    color, box = (blue, green, red), detection.box
    left, top = round(box.cx - box.w / 2), round(box.cy - box.h / 2)
    outline = np.rint(outline_of(detection)).astype(np.int32)
    cv2.polylines(drawn, [outline], True, color, max(1, round(2 * size)), cv2.LINE_AA)
    _text(drawn, title_of(detection), (left, max(top - 6, int(20 * size))), size * 0.85, color)


def _text(
    drawn: Image, text: str, corner: tuple[int, int], size: float, color: tuple[int, int, int]
) -> None:
    """corner: lower left, in pixels."""
    (width, height), base = cv2.getTextSize(text, _FONT, size, 1)
    x, y = corner
    band = drawn[max(0, y - height - 4) : y + base + 2, max(0, x - 3) : x + width + 3]
    band[:] = (band * _BAND).astype(np.uint8)
    cv2.putText(drawn, text, corner, _FONT, size, color, 1, cv2.LINE_AA)
