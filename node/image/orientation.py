"""Orientation: how a stored picture has to be turned and mirrored to stand upright."""

import struct
from dataclasses import dataclass
from typing import cast

import numpy as np

from node.image.frame import Image
from node.image.opencv import cv2


@dataclass(frozen=True, slots=True)
class Orientation:
    """Applied in this order.

    Attributes:
        transposed: rows and columns are exchanged.
        mirrored: left and right are exchanged.
        upended: top and bottom are exchanged.
    """

    transposed: bool = False
    mirrored: bool = False
    upended: bool = False

    @classmethod
    def of_matrix(cls, matrix: bytes) -> "Orientation":
        """Returns the orientation that is nearest to a display matrix.

        Args:
            matrix: nine int32 of this computer's byte order, as FFmpeg hands them out; the first
                two rows map a stored position to a shown one (ISO/IEC 14496-12, 6.2.2).
        """
        a, b, _, c, d = struct.unpack_from("=5i", matrix)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @classmethod
    def of_turn(cls, degrees: float) -> "Orientation":
        """Returns the orientation that is nearest to a clockwise turn, in degrees."""
        quarter = round(degrees / 90) % 4
        return cls(quarter % 2 == 1, quarter in (1, 2), quarter in (2, 3))

    def upright(self, image: Image) -> Image:
        """Returns [height, width, 3] uint8 as it has to be seen."""
        if self.transposed:
            image = cast(Image, cv2.transpose(image))
        if self.mirrored or self.upended:
            code = -1 if self.mirrored and self.upended else int(self.mirrored)
            image = cast(Image, cv2.flip(image, code))
        return np.ascontiguousarray(image)


AS_STORED = Orientation()
