"""Recorded pictures of several forms, not decoded yet."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from node.errors import PictureError
from node.image.frame import Image
from node.image.jpeg import decode_jpeg, encode_jpeg
from node.image.limits import check_bytes, check_pixels
from node.image.opencv import cv2
from node.image.still import HEAD_BYTES, decode_stills, is_still

_QUALITY = 95
"""Of the JPEG that an export makes of a picture that was recorded in another form."""


class Picture(Protocol):
    """A picture that is not decoded yet."""

    def image(self) -> Image:
        """Decodes to [height, width, 3] uint8 BGR. Raises PictureError for damaged bytes."""
        ...

    def jpeg(self) -> bytes:
        """The picture as JPEG: the recorded bytes where they are. Raises PictureError."""
        ...


@dataclass(frozen=True, slots=True)
class JpegPicture:
    """A picture that was recorded as JPEG."""

    data: bytes

    def image(self) -> Image:
        """As `Picture.image`."""
        return decode_jpeg(self.data)

    def jpeg(self) -> bytes:
        """As `Picture.jpeg`."""
        return self.data


@dataclass(frozen=True, slots=True)
class StillPicture:
    """A picture in another format of files, such as PNG or WebP."""

    data: bytes

    @property
    def is_known(self) -> bool:
        """Whether the first bytes are those of a format that is decoded."""
        return is_still(self.data[:HEAD_BYTES])

    def image(self) -> Image:
        """As `Picture.image`; the first picture of an animation."""
        check_bytes(len(self.data))
        return next(decode_stills(self.data))

    def jpeg(self) -> bytes:
        """As `Picture.jpeg`."""
        return encode_jpeg(self.image(), _QUALITY)


_RAW_FORMS: dict[str, tuple[int, int | None]] = {
    "bgr8": (3, None),
    "8UC3": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "8UC4": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    "8UC1": (1, cv2.COLOR_GRAY2BGR),
    "mono16": (2, cv2.COLOR_GRAY2BGR),
    "yuv422": (2, cv2.COLOR_YUV2BGR_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2BGR_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2BGR_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2BGR_YUY2),
    "nv12": (1, cv2.COLOR_YUV2BGR_NV12),
    "nv21": (1, cv2.COLOR_YUV2BGR_NV21),
    # OpenCV names a pattern by the second row, from its second pixel on.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
}
"""Bytes of a pixel, and OpenCV's conversion to BGR, by the encoding of ROS and Foxglove. Those of
depth are missing: a distance is no picture to label."""


@dataclass(frozen=True, slots=True)
class RawPicture:
    """A picture without compression. step: bytes of a row; 0 for rows without padding."""

    data: bytes
    width: int
    height: int
    step: int
    encoding: str
    big_endian: bool = False

    @property
    def is_supported(self) -> bool:
        """Whether the encoding is one that is converted."""
        return self.encoding in _RAW_FORMS

    def image(self) -> Image:
        """As `Picture.image`."""
        if self.width < 1 or self.height < 1:
            raise PictureError(f"a picture is damaged: {self.width} x {self.height} pixels")
        check_pixels(self.width, self.height)
        pixel_bytes, conversion = _RAW_FORMS[self.encoding]
        rows = self.height * 3 // 2 if self._is_planar else self.height
        used = self.width * pixel_bytes
        step = self.step or used
        if step < used or len(self.data) < step * (rows - 1) + used or not self._fits_colours:
            raise PictureError(
                f"a picture is damaged: {len(self.data)} bytes for {self.width} x {self.height} "
                f"pixels of {self.encoding}"
            )
        padded = self.data.ljust(step * rows, b"\0")
        pixels = np.frombuffer(padded, np.uint8, step * rows).reshape(rows, step)[:, :used]
        if self.encoding == "mono16":
            pixels = pixels[:, 0 if self.big_endian else 1 :: 2]
        elif pixel_bytes > 1:
            pixels = pixels.reshape(rows, self.width, pixel_bytes)
        pixels = np.ascontiguousarray(pixels)
        if conversion is None:
            return pixels
        try:
            return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)
        except cv2.error as error:  # a pattern of colours in a picture of a few pixels
            raise PictureError(f"a picture cannot be converted: {error.err}") from error

    @property
    def _is_planar(self) -> bool:
        return self.encoding in ("nv12", "nv21")

    @property
    def _fits_colours(self) -> bool:
        """Whether the size is even where pixels share their colour."""
        shares = self._is_planar or "yuv" in self.encoding or "yuy" in self.encoding
        shares = shares or self.encoding == "uyvy"
        return not (shares and self.width % 2) and not (self._is_planar and self.height % 2)

    def jpeg(self) -> bytes:
        """As `Picture.jpeg`."""
        return encode_jpeg(self.image(), _QUALITY)
