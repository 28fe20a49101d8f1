"""Still pictures: decodes the bytes of an image file. Only the pixels decide: metadata that cannot
be read (EXIF, colour profiles, texts) costs neither the picture nor the job."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL import Image as PilImage
from PIL.ImageFile import ImageFile

from node.errors import PictureError
from node.image.frame import Image
from node.image.jpeg import check_scans, without_metadata
from node.image.libraries import loaded_libraries
from node.image.limits import check_pixels, limits

_PLUGINS = (
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)
_FORMATS = tuple(str(plugin.format) for plugin in _PLUGINS)
"""Only these formats are tried, whatever the file name: some others that Pillow supports run
programs (EPS)."""
_SERIES = ("GIF", "PNG", "TIFF", "WEBP")
"""Formats of animations and pages. The further pictures of an MPO file (a phone's JPEG) are other
views, depth maps and gain maps."""

_COLOUR_PFM = (b"PF\n", b"PF ", b"PF\r")
_UNKNOWN_MODE = "unknown pixel mode"
"""Pillow's reason for a TIFF whose colours are floats, for example."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
"""Position of the bit depth (PNG, 11.2.1)."""
_PNG_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf"}
)
"""Chunks that decide about the pixels, or about their orientation."""
_SUBFILE_TYPE, _PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 254, 262, 258, 339
_REDUCED_OR_MASK = 0b101
"""NewSubfileType of a TIFF page that is a preview, or a mask (TIFF 6.0)."""
_PLANAR_CONFIGURATION = 284
_WHITE_IS_ZERO, _SIGNED, _SEPARATE = 0, 2, 2
_POINTERS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
"""Tags that name further metadata, which Pillow would read with the pixels of a TIFF."""
_TURNS: dict[object, Callable[[Image], Image]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}
"""What turns a picture upright, by its EXIF orientation."""

LEAST_USED = 64
"""Brightest value, of 255, of a picture with more than 8 bits. Below it the two highest bits of
each value are unused: the file holds the 10, 12 or 14 bits of a sensor without saying so, and would
be nearly black."""
_NOT_IDENTIFIED = "not identified by this driver"
"""Pillow's reason for a header without a size."""
HEAD_BYTES = 16
"""First bytes of a file, which name its format."""
OVERSHOOT = 0.01
"""Floats may exceed 0 to 1 by this much, as resampling leaves them."""

# Pillow warns of metadata that it cannot read, and of sizes below limits.max_pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=PilImage.DecompressionBombWarning)


# libtiff writes lines of its own to stderr, beside the errors that Pillow raises.
for library in loaded_libraries("libtiff"):
    with contextlib.suppress(AttributeError):
        library.TIFFSetErrorHandler(None)


def decode_stills(data: bytes) -> Iterator[Image]:
    """Yields the pictures in the bytes of an image file, each [height, width, 3] uint8 BGR and
    upright: one, or each frame of an animation, or each page of a TIFF without its previews.

    Uses Pillow, which rejects truncated data; OpenCV fills the missing part with grey without an
    error. More than 8 bits are scaled by their range: 16 bits 0 to 65535, floats 0 to 1.

    Raises PictureError for data that cannot be decoded, for an animation that is cut off, and for
    values whose range is unknown.
    """
    return (image for image, _ in decode_frames(data))


def decode_frames(data: bytes) -> Iterator[tuple[Image, float]]:
    """As `decode_stills`, each picture with the ms that it is to be shown; 0 where the file does
    not say."""
    try:
        opened, first = _first(data)
    except Exception as error:  # whatever a decoder raises costs one file
        raise _failure(error, data) from error
    shown = not _is_preview(opened)
    if shown:
        yield first, _duration_ms(opened)
    for index in itertools.count(1) if opened.format in _SERIES else ():
        try:
            opened.seek(index)
            image = None if _is_preview(opened) else _decoded(opened, data)
        except EOFError:
            break
        except Exception as error:
            raise PictureError(
                f"picture {index + 1} of the file: {_failure(error, data)}"
            ) from error
        if image is not None:
            shown = True
            yield image, _duration_ms(opened)
    if not shown:
        yield first, 0.0
    if opened.format == "GIF" and not _has_end(opened, data):
        raise PictureError("is cut off: its end mark is missing", fix="copy it again")


def is_still(head: bytes) -> bool:
    """Whether the first HEAD_BYTES of a file are those of a picture."""
    return any(_accepts(name, head) for name in _FORMATS)


def _first(data: bytes) -> tuple[ImageFile, Image]:
    """The opened file and its first picture. Where Pillow fails, it gets the data without the
    metadata."""
    _allow(limits().max_pixels)
    try:
        opened = PilImage.open(io.BytesIO(data), formats=_FORMATS)
        return opened, _decoded(opened, data)
    except (PictureError, PilImage.DecompressionBombError):
        raise
    except Exception:
        pixels = _without_metadata(data)
        if pixels == data:
            raise
        opened = PilImage.open(io.BytesIO(pixels), formats=_FORMATS)
        return opened, _decoded(opened, pixels)


def _decoded(opened: ImageFile, data: bytes) -> Image:
    """The picture at the file's present position."""
    check_pixels(*opened.size)
    if opened.format in ("JPEG", "MPO"):
        check_scans(data, *opened.size)
    with contextlib.suppress(Exception):
        exif = opened.getexif()
        for tag in _POINTERS:
            exif.pop(tag, None)
    layout = _layout(opened, data)
    opened.load()
    rgb = _rgb(opened, layout)
    if layout.open_range and rgb.size and rgb.max() < LEAST_USED:
        raise PictureError(
            f"its values of {layout.depth} bits use the lowest {(int(rgb.max()) + 1) / 256:.1%} of "
            "their range, so it would be nearly black",
            fix="scale them to the whole range, for example with ImageMagick: "
            "convert IN -auto-level OUT",
        )
    bgr = rgb[:, :, ::-1]
    turn = _TURNS.get(_orientation(opened))
    return np.ascontiguousarray(bgr if turn is None else turn(bgr))


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a file stores its values.

    Attributes:
        depth: bits of a value.
        open_range: the file does not say which part of the range is used.
        inverted: 0 is white, which Pillow considers for values of up to 8 bits only.
    """

    depth: int = 8
    open_range: bool = False
    inverted: bool = False


def _layout(opened: ImageFile, data: bytes) -> _Layout:
    """Raises PictureError for values that Pillow would misread."""
    if opened.format == "PNG":
        depth = data[_PNG_DEPTH]
        return _Layout(depth, depth > 8)
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        if _SIGNED in _values(opened, _SAMPLE_FORMAT):
            raise PictureError(
                "its values are signed integers", fix="convert it to unsigned values"
            )
        depths = _values(opened, _BITS_PER_SAMPLE)
        depth = max(depths, default=1)
        if depth > 8 and len(depths) > 1 and _SEPARATE in _values(opened, _PLANAR_CONFIGURATION):
            raise PictureError(
                f"its colours are separate planes of {depth} bits", fix="convert it to 8 bits"
            )
        inverted = depth > 8 and opened.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return _Layout(depth, depth > 8 and depth != 12, inverted)
    if opened.format == "PPM":
        if opened.mode == "F":
            return _Layout(32, True)
        # The raw mode, or that and the greatest value, which many writers leave at 65535.
        arguments = opened.tile[0].args
        most = arguments[-1] if isinstance(arguments, tuple) else arguments
        if most in (65535, "I;16B"):
            return _Layout(16, True)
        return _Layout(16 if opened.mode == "I" else 8)
    return _Layout()


def _values(opened: TiffImagePlugin.TiffImageFile, tag: int) -> tuple[int, ...]:
    values = opened.tag_v2.get(tag, ())
    return values if isinstance(values, tuple) else (values,)


def _rgb(picture: ImageFile, layout: _Layout) -> Image:
    """[height, width, 3] uint8 RGB, where Pillow would clip more than 8 bits to white. Raises
    PictureError for values without a known range."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and layout.depth == 16):
        grey = (np.asarray(picture) >> (layout.depth - 8)).astype(np.uint8)
    elif picture.mode == "F":
        grey = _from_floats(np.asarray(picture))
    elif picture.mode == "I":
        raise PictureError(
            f"its values are integers of {layout.depth} bits, whose range is not known",
            fix="convert it to 8 or 16 bits",
        )
    else:
        return _converted(picture)
    if layout.inverted:
        grey = np.uint8(255) - grey
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_floats(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if np.isnan(low):
        raise PictureError(
            "holds values that are no number (nan)", fix="replace them, or convert it to 8 bits"
        )
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise PictureError(
            f"its values are floats from {low:g} to {high:g}; 0 is black and 1 is white",
            fix="scale them to 0 to 1, or convert it to 8 bits",
        )
    grey: NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    return grey


def _converted(picture: ImageFile) -> Image:
    try:
        return np.asarray(picture.convert("RGB"))
    except ValueError:
        raise PictureError(
            f"its colours are {picture.mode}, which the node does not read", fix="convert it to RGB"
        ) from None


def _orientation(opened: ImageFile) -> object:
    """The EXIF orientation; None where the metadata cannot be read."""
    try:
        return opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # the pixels decide
        return None


def _duration_ms(opened: ImageFile) -> float:
    duration_ms = opened.info.get("duration")
    return float(duration_ms) if isinstance(duration_ms, int | float) else 0.0


def _has_end(opened: ImageFile, data: bytes) -> bool:
    """Whether a GIF that was read to its end has the byte that ends it (GIF89a, 27). Pillow takes
    any end for that of a frame."""
    end = opened.fp.tell() if opened.fp is not None else 0
    return data[end - 1 : end] == b";"


def _is_preview(opened: ImageFile) -> bool:
    if not isinstance(opened, TiffImagePlugin.TiffImageFile):
        return False
    kind = opened.tag_v2.get(_SUBFILE_TYPE)
    return isinstance(kind, int) and bool(kind & _REDUCED_OR_MASK)


def _without_metadata(data: bytes) -> bytes:
    """The same picture without most of its metadata; the data itself for other formats."""
    return _png_pixels(data) if data.startswith(_PNG) else without_metadata(data)


def _png_pixels(data: bytes) -> bytes:
    """A PNG without the chunks that do not decide about its pixels. A chunk is its length, its
    type, its content and four bytes of checksum (PNG, 5.3)."""
    chunks, position = [_PNG], len(_PNG)
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in _PNG_CHUNKS:
            chunks.append(data[position:end])
        position = end
    return b"".join(chunks)


def _failure(error: Exception, data: bytes) -> PictureError:
    """What is wrong with the data, in words."""
    if isinstance(error, PictureError):
        return error
    if isinstance(error, PilImage.DecompressionBombError):
        return PictureError(
            f"claims more pixels than limits.max_pixels = {limits().max_pixels}",
            fix="raise it if the picture is real",
        )
    if isinstance(error, UnidentifiedImageError):
        error = _refusal(data) or error
    if data.startswith(_COLOUR_PFM) or str(error) == _UNKNOWN_MODE:
        return PictureError(
            "has values in a form that is not read, such as colours of floats, floats of 64 bits",
            fix="convert it to 8 or 16 bits, as PNG",
        )
    if isinstance(error, UnidentifiedImageError):
        return PictureError("is not a picture that can be read", fix="convert it to JPEG or PNG")
    reason = str(error) or type(error).__name__
    if reason == _NOT_IDENTIFIED:
        return PictureError("is damaged at its beginning, or has no pixels", fix="copy it again")
    fix = "copy it again" if "truncated" in reason else "convert it to JPEG or PNG"
    return PictureError(f"cannot be read: {reason}", fix=fix)


def _refusal(data: bytes) -> Exception | None:
    """Why the format that the data begins with does not open it, which Pillow keeps to itself."""
    for name in _FORMATS:
        if not _accepts(name, data[:HEAD_BYTES]):
            continue
        try:
            PilImage.OPEN[name][0](io.BytesIO(data), "")
        except Exception as error:
            return error
    return None


def _accepts(name: str, head: bytes) -> bool:
    accept = PilImage.OPEN[name][1]
    return accept is not None and accept(head) is True


def _allow(pixels: int) -> None:
    """Lifts Pillow's own limit to `pixels`. The limit is global to the process, so it is never
    lowered."""
    if PilImage.MAX_IMAGE_PIXELS is not None and pixels > PilImage.MAX_IMAGE_PIXELS:
        PilImage.MAX_IMAGE_PIXELS = pixels
