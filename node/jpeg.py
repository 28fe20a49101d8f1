"""JPEG: strict decoding, and encoding. What a decoder would conceal by inventing pixels is an error
here, since invented pixels would be labelled as if they had been seen."""

import importlib.util
import re

import numpy as np
import simplejpeg

from node.errors import PictureError
from node.frame import Image

START = b"\xff\xd8"
MOST_STRAY_BYTES = 16
"""Bytes that do not belong there and yet are let pass: many USB cameras leave one or two before
the end of each good picture, some up to ten before each restart marker. A damaged one loses
hundreds."""

_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x(\w+)")
_END = "d9"
_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"


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
    if stray[2] != _END:  # the strict decoder stopped there, and saw nothing of the rest
        _check_what_follows(data)
    return _decoded(data, strict=False)


def holds_another(data: bytes) -> bool:
    """Whether another picture follows behind the end of the first. Bytes that are no JPEG, or end
    within the first picture, hold no other."""
    place = len(START)
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != bytes([_SCAN]):
        # A segment, with its length behind its marker (ITU-T T.81, B.1.1.4).
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    end = data.find(_END_OF_IMAGE, place)
    return end >= 0 and data.find(START + b"\xff", end) >= 0


def encode_jpeg(image: Image, quality: int) -> bytes:
    """JPEG of [height, width, 3] uint8 BGR, colours at half resolution (4:2:0). quality: 1 to
    100."""
    pixels = np.ascontiguousarray(image)
    encoded: bytes = simplejpeg.encode_jpeg(
        pixels, quality, colorspace="BGR", colorsubsampling="420", fastdct=False
    )
    return encoded


def _check_what_follows(data: bytes) -> None:
    """Raises PictureError where FFmpeg, which passes over stray bytes, finds damage. It finds less
    of it than the strict decoder, but no picture that ends early or misses a packet of 512 bytes
    gets by. Nothing is checked where the package av is not here."""
    if importlib.util.find_spec("av") is None:
        return
    import av  # takes 0.1 s, for those with such a camera

    context = av.CodecContext.create("mjpeg", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.options = {"err_detect": "explode"}
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.FFmpegError as error:
        raise PictureError(f"a picture is damaged: {error}") from error
    if not frames or any(frame.is_corrupt for frame in frames):
        raise PictureError("a picture is damaged")


def _decoded(data: bytes, *, strict: bool) -> Image:
    image: Image = simplejpeg.decode_jpeg(data, "BGR", fastdct=False, strict=strict)
    return image
