"""JPEG: strict decoding, and encoding. What a decoder would conceal by inventing pixels is an error
here, since invented pixels would be labelled as if they had been seen."""

import re

import numpy as np
import simplejpeg

from node.errors import PictureError
from node.frame import Image

START = b"\xff\xd8"
MOST_STRAY_BYTES = 16
"""Bytes that do not belong there and yet are let pass: many USB cameras leave one or two before
the end of each good picture. A damaged one loses hundreds."""

_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker")


def decode_jpeg(data: bytes) -> Image:
    """[height, width, 3] uint8 BGR.

    Raises PictureError for bytes that are no JPEG, that end early, or in which damage shows. A
    damaged byte that still reads as a picture cannot be told: JPEG has no checksum.
    """
    try:
        return _decoded(data, strict=True)
    except ValueError as error:
        stray = _STRAY.match(str(error))
        if stray is None or int(stray[1]) > MOST_STRAY_BYTES:
            raise PictureError(f"a picture is damaged: {error}") from error
    return _decoded(data, strict=False)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """JPEG of [height, width, 3] uint8 BGR, colours at half resolution (4:2:0). quality: 1 to
    100."""
    pixels = np.ascontiguousarray(image)
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels, quality, colorspace="BGR", colorsubsampling="420", fastdct=False
    )
    return encoded


def _decoded(data: bytes, *, strict: bool) -> Image:
    image: Image = simplejpeg.decode_jpeg(data, "BGR", fastdct=False, strict=strict)
    return image
