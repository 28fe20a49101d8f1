"""Calibration: from a pixel to the direction that it lies in. Needs the standard library only:
control code on other computers uses it."""

import math
from dataclasses import dataclass

_ITERATIONS = 20
"""Of the fixed point that takes the distortion away; OpenCV's undistortPoints does 5 by default."""


@dataclass(frozen=True, slots=True)
class Bearing:
    """A direction from the camera in radians: azimuth to the right, elevation up, of its axis."""

    azimuth_rad: float
    """To the right of the camera's axis."""
    elevation_rad: float
    """Above the camera's axis."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A pinhole camera with distortion, in OpenCV's convention (calib3d): focal lengths and centre
    in pixels of a picture of width x height, distortion (k1, k2, p1, p2[, k3[, k4, k5, k6]]).

    Raises ValueError where a size or focal length is not above 0, or there are over eight
    coefficients."""

    camera: str
    """Name of the camera."""
    width: int
    """Of the calibrated picture, in pixels."""
    height: int
    """Of the calibrated picture, in pixels."""
    fx: float
    """Horizontal focal length, in pixels."""
    fy: float
    """Vertical focal length, in pixels."""
    cx: float
    """Horizontal centre of the projection, in pixels."""
    cy: float
    """Vertical centre of the projection, in pixels."""
    distortion: tuple[float, ...] = ()
    """Coefficients in OpenCV's order; empty for a lens without distortion."""

    def __post_init__(self) -> None:
        """Checks what is divided by: a calibration comes from another computer."""
        if min(self.width, self.height, self.fx, self.fy) <= 0 or len(self.distortion) > 8:
            raise ValueError(
                f"is no calibration: {self.width} x {self.height} pixels, focal lengths "
                f"{self.fx:g} and {self.fy:g}, {len(self.distortion)} coefficients of distortion"
            )

    def bearing(self, x: float, y: float, width: int, height: int) -> Bearing:
        """The direction of a pixel of a picture of this size, which may be another than that of
        the calibration as long as it shows the same view. Raises ValueError where the distortion
        maps nothing there."""
        u, v = self.ray(x, y, width, height)
        return Bearing(math.atan2(u, 1.0), math.atan2(-v, math.hypot(u, 1.0)))

    def ray(self, x: float, y: float, width: int, height: int) -> tuple[float, float]:
        """The point (u, v) in which the ray of a pixel meets the plane one unit before the camera,
        without distortion: (u, v, 1) in the optical frame, x to the right, y down. Arguments and
        errors as of `bearing`."""
        return self._undistorted(
            (x * self.width / width - self.cx) / self.fx,
            (y * self.height / height - self.cy) / self.fy,
        )

    def _undistorted(self, u: float, v: float) -> tuple[float, float]:
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, *(0.0,) * (8 - len(self.distortion)))
        x, y = u, v
        for _ in range(_ITERATIONS):
            r2 = x * x + y * y
            scale = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            if not scale:
                break
            radial = (1 + r2 * (k4 + r2 * (k5 + r2 * k6))) / scale
            x, y = (
                (u - 2 * p1 * x * y - p2 * (r2 + 2 * x * x)) * radial,
                (v - p1 * (r2 + 2 * y * y) - 2 * p2 * x * y) * radial,
            )
        else:
            if math.isfinite(x) and math.isfinite(y):
                return x, y
        raise ValueError(f"camera {self.camera!r}: the distortion maps nothing to this pixel")
