"""Crowds of squares, such as a tiled floor or a mesh. OpenCV compares each square of a picture with
each other one, so that one frame of thousands takes up to half a minute."""

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_SHARE = 0.03
"""Least perimeter of a square, as a share of the picture's longer side: OpenCV's default."""
_MOST = 600
"""Most squares that OpenCV gets: it takes a second or two for these. A hundred tags have fewer."""
_MOST_PARTS = 400
"""Most solid parts of a picture whose squares are not counted: a part has up to two outlines."""
_STRONG = 7
"""Grey levels between a square and what is around it: OpenCV's adaptiveThreshConstant."""
_ROWS_APART = 8
"""Of the rows that are sampled: each square of the least perimeter is on one of them at least."""
_WINDOWS_PX = (23, 7, 13)
"""Of the local means: along a sampled row OpenCV's widest, in the half and in the whole picture its
medium one."""
_SOLID = 0.4
"""Least area of a square, as a share of its bounding box: half where it is turned by 45 degrees."""
_STRAIGHT = 0.03
"""Largest distance of an outline from a square, as a share of its length: OpenCV's default."""


def least_share(grey: NDArray[np.uint8]) -> float:
    """Returns the least perimeter of the squares to look for, as a share of the picture's longer
    side: `LEAST_SHARE`, and more where the picture shows more than `_MOST` squares.

    Only a picture of many edges and many solid parts is searched for the squares themselves, which
    takes as long as OpenCV takes for all else.

    Args:
        grey: [height, width] uint8.
    """
    longer = float(max(grey.shape))
    least_px = LEAST_SHARE * longer
    if min(grey.shape) < 2 * _ROWS_APART or _most_on_rows(grey) <= _MOST:
        return LEAST_SHARE
    if _solid_parts(grey, least_px) <= _MOST_PARTS:
        return LEAST_SHARE
    perimeters = _squares(grey, least_px)
    if len(perimeters) <= _MOST:
        return LEAST_SHARE
    largest = np.partition(perimeters, -_MOST)
    return (float(largest[-_MOST]) + 1) / longer


def _most_on_rows(grey: NDArray[np.uint8]) -> int:
    """Returns an upper limit of the number of squares: each has two edges on a sampled row."""
    rows = np.ascontiguousarray(grey[_ROWS_APART // 2 :: _ROWS_APART])
    means = cv2.blur(rows, (_WINDOWS_PX[0], 1), borderType=cv2.BORDER_REPLICATE)
    dark = cv2.subtract(means, rows) > _STRONG
    return int(np.count_nonzero(dark[:, 1:] != dark[:, :-1])) // 2


def _solid_parts(grey: NDArray[np.uint8], least_px: float) -> int:
    """Returns the number of solid parts that are darker or brighter than their surroundings."""
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    dark = _dark(np.asarray(half, np.uint8), 1)
    count = 0
    for parts in (dark, cv2.bitwise_not(dark)):
        _, _, boxes, _ = cv2.connectedComponentsWithStats(parts, connectivity=4)
        width, height, area = (
            boxes[1:, column].astype(np.float64)
            for column in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA)
        )
        solid = area >= _SOLID * width * height
        count += int(np.count_nonzero(solid & (4 * (width + height) >= least_px)))
    return count


def _squares(grey: NDArray[np.uint8], least_px: float) -> NDArray[np.float64]:
    """Returns the perimeters of the squares in px, as OpenCV measures them."""
    outlines, _ = cv2.findContours(_dark(grey, 2), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.array(
        [
            len(outline)
            for outline in outlines
            if len(outline) >= least_px and _is_square(np.asarray(outline, np.int32))
        ],
        np.float64,
    )  # fmt: skip


def _is_square(outline: NDArray[np.int32]) -> bool:
    corners = cv2.approxPolyDP(outline, _STRAIGHT * len(outline), True)
    return len(corners) == 4 and cv2.isContourConvex(corners)


def _dark(grey: NDArray[np.uint8], window: int) -> NDArray[np.uint8]:
    dark = cv2.adaptiveThreshold(
        grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, _WINDOWS_PX[window], _STRONG
    )
    return np.asarray(dark, np.uint8)
