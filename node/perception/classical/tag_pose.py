"""TagPoses: where the tags of a camera are, from their corners."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from node.config.schema import CameraConfig, DetectConfig
from node.process.log_limit import LogLimit
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import Detection, Pose

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

_SAME_SHAPE = 0.01
"""Largest relative difference of two aspect ratios that rounding of a picture's size explains."""
_WORST_FIT = 0.1
"""Largest reprojection error of a pose, as a share of the tag's longest side: with a larger one the
calibration does not hold there."""

_LOG_PERIOD_S = 600.0
"""Shortest time between two lines about pictures whose tags get no pose."""
_NUDGE = 1e-9
"""A millionth of a pixel, in focal lengths: with some exact corners OpenCV takes the root of a
number that rounding made negative."""


def tag_poses(camera: CameraConfig, config: DetectConfig) -> "TagPoses | None":
    """Returns what adds poses to the tags of a camera; None where the tags have no size."""
    if config.tag_size_m is None:
        return None
    calibration = None
    if camera.calibration is not None:
        calibration = Calibration(camera=camera.name, **camera.calibration.model_dump())
    return TagPoses(camera.name, calibration, config.tag_size_m)


class TagPoses:
    """Adds poses to detections with corners. Not thread-safe.

    Tags of a camera without calibration get no pose, and one line of the log says so. So do tags in
    pictures of another shape than the calibration: these show a part of its view or a stretched
    one, and nothing says which.

    Args:
        camera: its name.
        calibration: of the camera; None for none.
        size_m: side of the tags' black squares, in metres.
    """

    def __init__(self, camera: str, calibration: Calibration | None, size_m: float) -> None:
        half = size_m / 2
        # The order that SOLVEPNP_IPPE_SQUARE requires.
        self._square = np.array(
            [[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]]
        )
        self._camera = camera
        self._calibration = calibration
        self._log_limit = LogLimit(_LOG_PERIOD_S)

    def added(
        self, detections: Sequence[Detection], height: int, width: int
    ) -> tuple[Detection, ...]:
        """Returns the detections, those with four corners with their poses.

        Args:
            detections: of a frame, corners in pixels of it.
            height: of the frame, in pixels.
            width: of the frame, in pixels.
        """
        if not any(len(detection.corners) == 4 for detection in detections):
            return tuple(detections)
        calibration = self._calibration
        reason = _reason_against(calibration, height, width)
        if calibration is None or reason is not None:
            if self._log_limit.admit("") is not None:  # pictures may differ in their sizes
                log.warning("camera '%s': its tags get no pose: %s", self._camera, reason)
            return tuple(detections)
        lens = _Lens(calibration, height, width)
        return tuple(
            replace(detection, pose=self._pose(detection.corners, lens))
            if len(detection.corners) == 4
            else detection
            for detection in detections
        )

    def _pose(self, corners: Sequence[tuple[float, float]], lens: "_Lens") -> Pose | None:
        """Returns the better of the two poses that a square allows, by Infinitesimal Plane-Based
        Pose Estimation (Collins and Bartoli, IJCV 2014; OpenCV's SOLVEPNP_IPPE_SQUARE), on corners
        without distortion; None where the calibration maps nothing to the corners.

        reprojection_error_px = sqrt(mean |corner - projected corner|^2) with distortion;
        ambiguity = that of this pose / that of the other (WPILib's PoseAmbiguity).
        """
        # From the bottom left, counterclockwise, so that the square's y points down the tag. Facing
        # the camera, the square is then not turned: a half turn has no exact rotation vector.
        measured = np.array(corners[::-1])
        try:
            rays = np.array([lens.ray(x, y) for x, y in corners[::-1]])
        except ValueError:
            return None
        solutions = sorted(
            (
                (_rms(lens.pixels(self._square, turn, shift) - measured), turn, shift)
                for turn, shift in _solved(self._square, rays)
            ),
            key=lambda solution: solution[0],
        )
        longest_px = np.linalg.norm(measured - np.roll(measured, 1, 0), axis=1).max()
        if not solutions or solutions[0][0] > _WORST_FIT * longest_px:
            return None
        error_px, turn, shift = solutions[0]
        other_px = solutions[1][0] if len(solutions) > 1 else math.inf
        x, y, z = shift.tolist()
        return Pose(
            translation_m=(x, y, z),
            rotation=_of_tag(turn),
            reprojection_error_px=error_px,
            ambiguity=error_px / other_px if other_px > 0 else 1.0,
        )


def _solved(square: Floats, rays: Floats) -> list[tuple[Floats, Floats]]:
    """Returns the poses in front of the camera, each a rotation vector and a shift."""
    for nudge in (0.0, _NUDGE):
        _, turns, shifts, _ = cv2.solvePnPGeneric(
            square, rays + nudge * np.eye(4, 2), np.eye(3), None, flags=cv2.SOLVEPNP_IPPE_SQUARE
        )
        poses = [
            (np.array(turn, np.float64).ravel(), np.array(shift, np.float64).ravel())
            for turn, shift in zip(turns, shifts, strict=True)
        ]
        if np.isfinite(poses).all():
            return [(turn, shift) for turn, shift in poses if shift[2] > 0]
    return []


class _Lens:
    """A calibration, scaled to pictures of a size in pixels as `Calibration.bearing` scales it."""

    def __init__(self, calibration: Calibration, height: int, width: int) -> None:
        self._calibration = calibration
        self._size = width, height
        zoom_x, zoom_y = width / calibration.width, height / calibration.height
        self._matrix = np.array(
            [
                [calibration.fx * zoom_x, 0, calibration.cx * zoom_x],
                [0, calibration.fy * zoom_y, calibration.cy * zoom_y],
                [0, 0, 1],
            ]
        )
        self._distortion = np.zeros(8)  # the lengths that OpenCV takes are 4, 5 and 8
        self._distortion[: len(calibration.distortion)] = calibration.distortion

    def ray(self, x: float, y: float) -> tuple[float, float]:
        """The ray of a pixel, as `Calibration.ray`. Raises ValueError."""
        return self._calibration.ray(x, y, *self._size)

    def pixels(self, points: Floats, turn: Floats, shift: Floats) -> Floats:
        """The pixels [n, 2] of points [n, 3] that are turned by a rotation vector and shifted."""
        pixels, _ = cv2.projectPoints(points, turn, shift, self._matrix, self._distortion)
        return np.asarray(pixels, np.float64).reshape(-1, 2)


def _reason_against(calibration: Calibration | None, height: int, width: int) -> str | None:
    """Returns why pictures of this size allow no pose, and what to do; None if they allow it."""
    if calibration is None:
        return "it has no calibration; give the camera one, or leave detect.tag_size_m out"
    ratio = width * calibration.height / (height * calibration.width)
    if abs(ratio - 1) <= _SAME_SHAPE:
        return None
    return (
        f"its pictures of {width} x {height} are of another shape than its calibration of "
        f"{calibration.width} x {calibration.height}; calibrate it at the size that it runs at"
    )


def _rms(differences: Floats) -> float:
    """Returns the root mean square length of [n, 2] vectors; infinity where one is not finite."""
    error = math.sqrt(float((differences**2).sum(1).mean()))
    return error if math.isfinite(error) else math.inf


def _of_tag(turn: Floats) -> tuple[float, float, float, float]:
    """Returns the rotation of the tag's frame, in which y points up the tag, as a unit quaternion
    (x, y, z, w) with w not negative.

    A turn by the angle a is q = (axis * sin(a / 2), cos(a / 2)); the half turn about x from the
    tag's frame to the square's is (1, 0, 0, 0), and q times that is (w, z, -y, -x).

    Args:
        turn: rotation vector of the square, axis * a, in radians.
    """
    angle = float(np.linalg.norm(turn))
    factor = math.sin(angle / 2) / angle if angle else 0.5
    x, y, z = (factor * turn).tolist()
    w = math.cos(angle / 2)
    sign = -1.0 if x > 0 else 1.0
    return sign * w, sign * z, -sign * y, -sign * x
