"""Regions: polygons within a camera's picture, for the region of interest and for events."""

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw

from node.config.schema import Polygon
from node.image.frame import Image
from node.perception.tasks.base import Prediction
from perception_client.messages.kinds import Box

log = logging.getLogger(__name__)

_FEW_PX = 8
"""Shortest side of a region, in pixels, below which nothing can be recognised."""


def contains(polygon: Polygon, x: float, y: float) -> bool:
    """Whether a point is inside a polygon by the even-odd rule. All coordinates are fractions of
    the picture."""
    inside = False
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            inside = not inside
    return inside


class RegionOfInterest:
    """Masks or crops a camera's picture to a polygon. Pixels outside the polygon are black.

    Not thread-safe. Each result is overwritten by the next call for the same size.

    Args:
        polygon: in fractions of the picture.
        crop: whether the network gets only the bounding box of the polygon, at a higher resolution,
            instead of the whole picture.
        camera: name of the camera, for the log.
    """

    def __init__(self, polygon: Polygon, *, crop: bool, camera: str = "") -> None:
        self._polygon = polygon
        self._crop = crop
        self._camera = camera
        self._size = (0, 0)
        self._mask: NDArray[np.uint8] = np.empty((0, 0, 1), np.uint8)
        self._masked: Image = np.empty((0, 0, 3), np.uint8)
        self._left = self._top = 0

    def cut(self, image: Image) -> Image:
        """Returns the network's view of a picture, [h, w, 3] uint8 BGR."""
        if image.shape[:2] != self._size:
            self._prepare(image.shape[0], image.shape[1])
        height, width = self._mask.shape[:2]
        part = image[self._top : self._top + height, self._left : self._left + width]
        return np.multiply(part, self._mask, out=self._masked)

    def placed(self, seen: Prediction) -> Prediction:
        """Maps the prediction for the last picture to pixels of the frame."""
        return replace(
            seen,
            detections=tuple(
                replace(
                    item,
                    box=self._moved(item.box),
                    corners=tuple((x + self._left, y + self._top) for x, y in item.corners),
                )
                for item in seen.detections
            ),
            masks=tuple(replace(item, box=self._moved(item.box)) for item in seen.masks),
        )

    def _moved(self, box: Box) -> Box:
        return replace(box, cx=box.cx + self._left, cy=box.cy + self._top)

    def _prepare(self, height: int, width: int) -> None:
        self._size = (height, width)
        corners = [(x * width, y * height) for x, y in self._polygon]
        mask = PILImage.new("L", (width, height))
        ImageDraw.Draw(mask).polygon(corners, fill=1, outline=1)
        left, top, right, bottom = 0, 0, width, height
        if self._crop:
            left, top, right, bottom = mask.getbbox() or (0, 0, width, height)
        if min(right - left, bottom - top) < _FEW_PX:
            log.warning(
                "camera '%s': roi is %d x %d pixels of a picture of %d x %d, too few to see "
                "anything in; make it larger",
                self._camera, right - left, bottom - top, width, height,
            )  # fmt: skip
        self._left, self._top = left, top
        self._mask = np.asarray(mask)[top:bottom, left:right, np.newaxis].copy()
        self._masked = np.empty((*self._mask.shape[:2], 3), np.uint8)
