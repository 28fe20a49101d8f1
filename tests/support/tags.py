"""Pictures of tags, rendered from known poses."""

import cv2
import numpy as np
from numpy.typing import NDArray

from node.config.schema import CalibrationConfig
from node.image.frame import Image

SIZE_M = 0.16
CALIBRATION = CalibrationConfig(width=1280, height=720, fx=910.0, fy=905.0, cx=645.0, cy=355.0)
_CELL_PX = 24
_FINER = 4
"""Pixels of the first rendering to a side of one of the picture, which averages them."""

Floats = NDArray[np.float64]
FACING = np.diag([1.0, -1.0, -1.0])
"""Rotation of an upright tag that faces the camera: its y is up, the camera's down."""


def turned(pitch: float, yaw: float, roll: float) -> Floats:
    """A rotation: the tag's own pitch and yaw, then a roll about the camera's axis, in radians."""
    parts = [
        cv2.Rodrigues(np.array(turn, np.float64))[0]
        for turn in ((0, 0, roll), (0, yaw, 0), (pitch, 0, 0))
    ]
    rotation: Floats = parts[0] @ parts[1] @ parts[2] @ FACING
    return rotation


def printed(name: str, tag: int) -> NDArray[np.uint8]:
    """A tag with a white margin of one cell, [side, side] uint8: as its family is printed."""
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name))
    side = dictionary.markerSize + 2
    marker = cv2.aruco.generateImageMarker(dictionary, tag, side * _CELL_PX)
    if "APRILTAG" in name:
        marker = np.rot90(marker, 2)  # OpenCV 5.0 prints them upside down
    return np.pad(marker, _CELL_PX, constant_values=255)


def square(side_m: float) -> Floats:
    """The corners of a tag in its own frame, [4, 3]: clockwise from the top left."""
    half = side_m / 2
    return np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])


def projected(points: Floats, rotation: Floats, shift: Floats) -> Floats:
    """[n, 2] pixels of points in the tag's frame."""
    matrix = np.array(
        [[CALIBRATION.fx, 0, CALIBRATION.cx], [0, CALIBRATION.fy, CALIBRATION.cy], [0, 0, 1.0]]
    )
    seen = (points @ rotation.T + shift) @ matrix.T
    pixels: Floats = seen[:, :2] / seen[:, 2:]
    return pixels


def added(
    picture: NDArray[np.float32], name: str, tag: int, rotation: Floats, shift: Floats
) -> None:
    """Draws a tag of SIZE_M into a grey picture of CALIBRATION, without distortion."""
    image = printed(name, tag)
    side = image.shape[0]
    outline = projected(square(SIZE_M * side / (side - 2 * _CELL_PX)), rotation, shift)
    low = np.maximum(np.floor(outline.min(0)) - 4, 0).astype(int)
    high = np.minimum(np.ceil(outline.max(0)) + 4, picture.shape[::-1]).astype(int)
    ends = np.array([[0, 0], [side, 0], [side, side], [0, side]]) - 0.5
    finer = (outline - low + 0.5) * _FINER - 0.5
    homography = cv2.getPerspectiveTransform(ends.astype(np.float32), finer.astype(np.float32))
    size = tuple(((high - low) * _FINER).tolist())
    drawn, inside = (
        cv2.resize(
            cv2.warpPerspective(layer.astype(np.float32), homography, size),
            None, fx=1 / _FINER, fy=1 / _FINER, interpolation=cv2.INTER_AREA,
        )
        for layer in (image, np.ones_like(image))
    )  # fmt: skip
    part = picture[low[1] : high[1], low[0] : high[0]]
    part[:] = drawn * inside + part * (1 - inside)


def background() -> NDArray[np.float32]:
    """A grey picture of 1280 x 720, brighter to the right."""
    return np.tile(np.linspace(90, 170, 1280, dtype=np.float32), (720, 1))


def photographed(
    picture: NDArray[np.float32], *, blur: float = 0.0, noise: float = 0.0, seed: int = 0
) -> Image:
    """The picture as a camera gives it: less contrast, blur (sigma in pixels), noise (sigma in grey
    levels); [height, width, 3] uint8 BGR."""
    grey = 30 + picture * 0.75
    if blur:
        grey = cv2.GaussianBlur(grey, (0, 0), blur)
    grey = grey + np.random.default_rng(seed).normal(0, noise, grey.shape)
    return cv2.cvtColor(np.clip(grey, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
