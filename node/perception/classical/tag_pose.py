"""TagPoses: where the tags of a camera are, from their corners."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from node.config.schema import CameraConfig, DetectConfig
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import Detection, Pose

log = logging.getLogger(__name__)

_SAME_SHAPE = 0.01
"""Largest relative difference of two aspect ratios that rounding of a picture's size explains."""
_WORST_FIT = 0.1
"""Largest reprojection error of a pose, as a share of the tag's longest side: with a larger one the
calibration does not hold there."""


def tag_poses(camera: CameraConfig, config: DetectConfig) -> "TagPoses | None":
    """Returns what adds poses to the tags of a camera; None without a calibration or a size."""
    if camera.calibration is None or config.tag_size_m is None:
        return None
    calibration = Calibration(camera=camera.name, **camera.calibration.model_dump())
    return TagPoses(calibration, config.tag_size_m)


class TagPoses:
    """Adds poses to detections with corners. Not thread-safe.

    A camera that gives pictures of another shape than its calibration shows a part of that view or
    a stretched one, and nothing says which: its tags get no pose, and one line of the log says so.

    Args:
        calibration: of the camera.
        size_m: side of the tags' black squares, in metres.
    """

    def __init__(self, calibration: Calibration, size_m: float) -> None:
        half = size_m / 2
        # The order that SOLVEPNP_IPPE_SQUARE requires, which is that of the corners.
        self._square = np.array(
            [[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]]
        )
        self._calibration = calibration
        self._distortion = np.zeros(8)
        self._distortion[: len(calibration.distortion)] = calibration.distortion
        self._refused: tuple[int, int] | None = None

    def added(
        self, detections: Sequence[Detection], height: int, width: int
    ) -> tuple[Detection, ...]:
        """Returns the detections, those with four corners with their poses.

        Args:
            detections: of a frame, corners in pixels of it.
            height: of the frame, in pixels.
            width: of the frame, in pixels.
        """
        if not any(detection.corners for detection in detections) or not self._fits(height, width):
            return tuple(detections)
        return tuple(
            replace(detection, pose=self._pose(detection.corners, height, width))
            if len(detection.corners) == 4
            else detection
            for detection in detections
        )

    def _fits(self, height: int, width: int) -> bool:
        calibration = self._calibration
        ratio = width * calibration.height / (height * calibration.width)
        if abs(ratio - 1) <= _SAME_SHAPE:
            return True
        if self._refused != (height, width):
            self._refused = (height, width)
            log.warning(
                "camera '%s': tags get no pose, since its pictures of %d x %d are of another shape "
                "than its calibration of %d x %d; calibrate it at the size that it runs at",
                calibration.camera, width, height, calibration.width, calibration.height,
            )  # fmt: skip
        return False

    def _pose(self, corners: Sequence[tuple[float, float]], height: int, width: int) -> Pose | None:
        """Returns the better of the two poses that a square allows, by Infinitesimal Plane-Based
        Pose Estimation (Collins and Bartoli, IJCV 2014; OpenCV's SOLVEPNP_IPPE_SQUARE), on corners
        without distortion; None where the calibration maps nothing to the corners.

        reprojection_error_px = sqrt(mean |corner - projected corner|^2) with distortion;
        ambiguity = that of this pose / that of the other (WPILib's PoseAmbiguity).
        """
        try:
            rays = np.array([self._calibration.ray(x, y, width, height) for x, y in corners])
        except ValueError:
            return None
        _, turns, shifts, _ = cv2.solvePnPGeneric(
            self._square, rays, np.eye(3), None, flags=cv2.SOLVEPNP_IPPE_SQUARE
        )
        measured = np.array(corners)
        poses = [
            (np.array(turn, np.float64).ravel(), np.array(shift, np.float64).ravel())
            for turn, shift in zip(turns, shifts, strict=True)
        ]
        solutions = sorted(
            (self._error_px(measured, *pose, height, width), index)
            for index, pose in enumerate(poses)
            if pose[1][2] > 0
        )
        longest_px = np.linalg.norm(measured - np.roll(measured, 1, 0), axis=1).max()
        if not solutions or not solutions[0][0] <= _WORST_FIT * longest_px:
            return None
        error_px, best = solutions[0]
        other_px = solutions[1][0] if len(solutions) > 1 else math.inf
        turn, shift = poses[best]
        x, y, z = shift.tolist()
        return Pose(
            translation_m=(x, y, z),
            rotation=_quaternion(turn),
            reprojection_error_px=error_px,
            ambiguity=error_px / other_px if other_px > 0 else 1.0,
        )

    def _error_px(
        self,
        measured: NDArray[np.float64],
        turn: NDArray[np.float64],
        shift: NDArray[np.float64],
        height: int,
        width: int,
    ) -> float:
        calibration = self._calibration
        zoom_x, zoom_y = width / calibration.width, height / calibration.height
        camera = np.array(
            [
                [calibration.fx * zoom_x, 0, calibration.cx * zoom_x],
                [0, calibration.fy * zoom_y, calibration.cy * zoom_y],
                [0, 0, 1],
            ]
        )
        projected, _ = cv2.projectPoints(self._square, turn, shift, camera, self._distortion)
        squares = ((projected.reshape(4, 2) - measured) ** 2).sum(1)
        error = math.sqrt(float(squares.mean()))
        return error if math.isfinite(error) else math.inf


def _quaternion(turn: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Returns the unit quaternion (x, y, z, w) of a rotation vector, an axis times an angle a:
    (axis * sin(a / 2), cos(a / 2)); w is not negative."""
    angle = float(np.linalg.norm(turn))
    factor = math.sin(angle / 2) / angle if angle else 0.5
    sign = -1.0 if math.cos(angle / 2) < 0 else 1.0
    x, y, z = (sign * factor * turn).tolist()
    return x, y, z, sign * math.cos(angle / 2)
