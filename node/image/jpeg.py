"""JPEG: strict decoding, and encoding. Damage that a decoder would conceal with invented pixels is
an error here, since invented pixels would be labelled like real ones."""

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
"""Most extraneous bytes that are tolerated: many USB cameras leave one or two before the end of
each valid picture, some up to ten before each restart marker. A damaged picture has hundreds."""

USUAL_SCANS, MOST_SCANNED_PIXELS = 12, 200_000_000
"""Limits of progressive pictures. Encoders write about ten scans; each costs as much as decoding a
whole picture, however few bytes it has (libjpeg-turbo, "Two issues with the JPEG standard").
Pictures with more scans may take about half a second."""

_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x(\w+)")
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Excludes the bytes that occur within a scan: a stuffed zero, a restart marker."""
_DAMAGE = (ValueError, KeyError)
"""Exceptions of simplejpeg; KeyError for an unknown colour space."""
_END = "d9"
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""APP1 to APP13, APP15 and COM (ITU-T T.81, table B.1)."""
_SCAN, _END_OF_IMAGE = 0xDA, b"\xff\xd9"
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True, 0xC9: False, 0xCA: True}
"""Frame types that are decoded, and whether they are progressive (ITU-T T.81, table B.1)."""


def decode_jpeg(data: bytes) -> Image:
    """Decodes to [height, width, 3] uint8 BGR.

    Raises PictureError for other data, truncated data, visible damage, and a claimed size above the
    limits. A changed byte that still decodes is not detected: JPEG has no checksum.
    """
    _check_size(data)
    try:
        return _decoded(data, strict=True)
    except _DAMAGE as error:
        stray = _STRAY.match(str(error))
        if stray is None or int(stray[1]) > MOST_STRAY_BYTES:
            raise _damaged(error) from error
    # The strict decoder stopped at these bytes and has not checked the rest.
    if stray[2] != _END:
        _check_rest(data)
    try:
        return _decoded(data, strict=False)
    except _DAMAGE as error:
        # Stray bytes within the header, which every decoding starts with.
        raise _damaged(error) from error


def holds_another(data: bytes) -> bool:
    """Whether a second picture follows the first. False for other data, and for a truncated first
    picture."""
    position = len(START)
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != bytes(
        [_SCAN]
    ):
        # A segment: its length follows its marker (ITU-T T.81, B.1.1.4).
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    end = data.find(_END_OF_IMAGE, position)
    return end >= 0 and data.find(START + b"\xff", end) >= 0


def without_metadata(data: bytes) -> bytes:
    """Returns a JPEG without its comments and application segments, but for those that decide about
    its colours (JFIF, Adobe); other data unchanged."""
    position = len(START)
    kept = [data[:position]]
    while data.startswith(START) and data[position : position + 1] == b"\xff":
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SCAN or end > len(data):
            break
        if marker not in _METADATA:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def encode_jpeg(image: Image, quality: int) -> bytes:
    """Encodes [height, width, 3] uint8 BGR, with colour at half resolution (4:2:0). quality: 1 to
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
    """Raises PictureError by the header, before decoding."""
    check_bytes(len(data))
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except _DAMAGE as error:
        raise _damaged(error) from error
    check_pixels(width, height)
    check_scans(data, width, height)


def check_scans(data: bytes, width: int, height: int) -> None:
    """Raises PictureError for a progressive JPEG of this size in pixels whose scans take too long
    to decode."""
    scans = _scans(data)
    if scans > USUAL_SCANS and scans * width * height > MOST_SCANNED_PIXELS:
        raise PictureError(
            f"a picture of {width} x {height} pixels in {scans} scans would take seconds",
            fix=f"encode it in {USUAL_SCANS} or fewer",
        )


def _scans(data: bytes) -> int:
    """Returns how many scans of the first picture a decoder would decode; scans of an embedded
    preview do not count."""
    count, progressive, components = 0, False, b""
    for marker, segment in _segments(data):
        if marker in _FRAMES:
            progressive, components = _FRAMES[marker], segment[7:8]
        elif marker == _SCAN:
            # One scan contains all components.
            if not progressive and segment[2:3] == components:
                return 1
            count += 1
    return count


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the markers of the first picture, each with its segment: two bytes of length, then the
    content (ITU-T T.81, B.1.1.4)."""
    position = len(START)
    while (marker := _MARKER.search(data, position)) is not None and marker[0] != _END_OF_IMAGE:
        begin = marker.end()
        position = begin + int.from_bytes(data[begin : begin + 2], "big")
        yield marker[0][1], data[begin:position]


def _check_rest(data: bytes) -> None:
    """Raises PictureError if FFmpeg, which ignores stray bytes, finds damage. FFmpeg detects less
    than the strict decoder, but detects truncation and a missing packet of 512 bytes. Checks
    nothing without the package av."""
    if importlib.util.find_spec("av") is None:
        return
    import av  # Deferred: takes 0.1 s.

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
