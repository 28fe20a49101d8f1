"""JPEG: strict decoding, and encoding. What a decoder would conceal by inventing pixels is an error
here, since invented pixels would be labelled as if they had been seen."""

import importlib.util
import re
from collections.abc import Iterator

import numpy as np
import simplejpeg

from node.errors import PictureError
from node.image.frame import Image
from node.image.limits import check_bytes, check_pixels, limits

START = b"\xff\xd8"
MOST_STRAY_BYTES = 16
"""Bytes that do not belong there and yet are let pass: many USB cameras leave one or two before
the end of each good picture, some up to ten before each restart marker. A damaged one loses
hundreds."""

USUAL_SCANS, MOST_SCANNED_PIXELS = 12, 200_000_000
"""Of a progressive picture. Encoders write about ten; each is as much work as a whole picture,
whatever few bytes it has (libjpeg-turbo, "Two issues with the JPEG standard"). Pictures of more may
take about half a second."""

_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x(\w+)")
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Not what stands for itself within a scan: a stuffed zero, a restart."""
_DAMAGE = (ValueError, KeyError)
"""What simplejpeg raises; KeyError for a form of colours that it does not know."""
_END = "d9"
_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True, 0xC9: False, 0xCA: True}
"""Kinds of frame that are decoded, and whether they are progressive (ITU-T T.81, table B.1)."""


def decode_jpeg(data: bytes) -> Image:
    """[height, width, 3] uint8 BGR.

    Raises PictureError for bytes that are no JPEG, that end early, in which damage shows, or that
    claim a picture larger than the limits. A damaged byte that still reads as a picture cannot be
    told: JPEG has no checksum.
    """
    _check_size(data)
    try:
        return _decoded(data, strict=True)
    except _DAMAGE as error:
        stray = _STRAY.match(str(error))
        if stray is None or int(stray[1]) > MOST_STRAY_BYTES:
            raise _damaged(error) from error
    if stray[2] != _END:  # the strict decoder stopped there, and saw nothing of the rest
        _check_what_follows(data)
    try:
        return _decoded(data, strict=False)
    except _DAMAGE as error:  # stray bytes within the header, which all decoding begins with
        raise _damaged(error) from error


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


def _damaged(error: Exception) -> PictureError:
    if isinstance(error, KeyError):
        return PictureError("a picture is damaged: its colours are in no form that is known")
    return PictureError(f"a picture is damaged: {error}")


def _check_size(data: bytes) -> None:
    """Raises PictureError by the header, before anything is decoded."""
    check_bytes(len(data))
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except _DAMAGE as error:
        raise _damaged(error) from error
    check_pixels(width, height)
    check_scans(data, width, height)


def check_scans(data: bytes, width: int, height: int) -> None:
    """Raises PictureError for a JPEG of these sizes that is decoded again and again."""
    scans = _scans(data)
    if scans > USUAL_SCANS and scans * width * height > MOST_SCANNED_PIXELS:
        raise PictureError(
            f"a picture of {width} x {height} pixels in {scans} scans would take seconds; "
            f"encode it in {USUAL_SCANS} or fewer"
        )


def _scans(data: bytes) -> int:
    """How many scans of the first picture a decoder would decode; not those of a preview in it."""
    count, progressive, components = 0, False, b""
    for marker, segment in _segments(data):
        if marker in _FRAMES:
            progressive, components = _FRAMES[marker], segment[7:8]
        elif marker == _SCAN:
            if not progressive and segment[2:3] == components:  # all of it in one
                return 1
            count += 1
    return count


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers of the first picture, each with its segment: two bytes of length, then the rest
    (ITU-T T.81, B.1.1.4)."""
    place = len(START)
    while (found := _MARKER.search(data, place)) is not None and found[0] != _END_OF_IMAGE:
        begin = found.end()
        place = begin + int.from_bytes(data[begin : begin + 2], "big")
        yield found[0][1], data[begin:place]


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
    context.options = {"err_detect": "explode", "max_pixels": str(limits().max_pixels)}
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.FFmpegError as error:
        raise PictureError(f"a picture is damaged: {error}") from error
    if not frames or any(frame.is_corrupt for frame in frames):
        raise PictureError("a picture is damaged")


def _decoded(data: bytes, *, strict: bool) -> Image:
    image: Image = simplejpeg.decode_jpeg(data, "BGR", fastdct=False, strict=strict)
    return image
