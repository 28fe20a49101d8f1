"""Image files of every kind: the pixels come out as they are, or one line says why not."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PilImage
from PIL import ImageOps, TiffImagePlugin

from node.errors import PictureError
from node.image.still import decode_stills

HEIGHT, WIDTH = 36, 52
RAMP = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
"""Grey from black to white."""
COLOUR = np.dstack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)])
"""BGR."""


def saved(image: PilImage.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def written(suffix: str, values: NDArray[np.generic]) -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


def written_by_tifffile(planes: NDArray[np.uint16]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate")
    return file.getvalue()


def pil(values: NDArray[np.generic] = COLOUR) -> PilImage.Image:
    return PilImage.fromarray(values[:, :, ::-1].copy() if values.ndim == 3 else values)


def pgm(values: NDArray[np.generic], most: int) -> bytes:
    return f"P5\n{WIDTH} {HEIGHT}\n{most}\n".encode() + values.astype(">u2").tobytes()


WIDE = RAMP.astype(np.uint16) * 257
WHITE_IS_ZERO = TiffImagePlugin.ImageFileDirectory_v2()
WHITE_IS_ZERO[262] = 0

DEEP: dict[str, Callable[[], bytes]] = {
    "png of 16 bits": lambda: written(".png", WIDE),
    "tiff of 16 bits": lambda: written(".tiff", WIDE),
    "big-endian tiff of 16 bits": lambda: saved(pil(WIDE.astype(">u2")), "TIFF"),
    "tiff of floats": lambda: saved(pil((RAMP / 255).astype(np.float32)), "TIFF"),
    "floats that overshoot": lambda: saved(pil((RAMP / 254.5).astype(np.float32)), "TIFF"),
    "pfm": lambda: written(".pfm", (RAMP / 255).astype(np.float32)),
    "pgm of 16 bits": lambda: written(".pgm", WIDE),
    "pgm of 12 bits": lambda: pgm(RAMP.astype(int) * 4095 // 255, 4095),
    "pgm of 10 bits": lambda: pgm(RAMP.astype(int) * 1000 // 255, 1000),
    "plain pgm": lambda: (
        f"P2 {WIDTH} {HEIGHT} 700 ".encode()
        + " ".join(str(int(value) * 700 // 255) for value in RAMP.ravel()).encode()
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_values_of_more_than_8_bits_keep_their_brightness(kind: str) -> None:
    (image,) = decode_stills(DEEP[kind]())
    assert image.dtype == np.uint8
    assert image[:, :, 0] == pytest.approx(RAMP, abs=1)
    assert np.array_equal(image[:, :, 0], image[:, :, 2])


def test_colours_of_16_bits_keep_their_brightness() -> None:
    for suffix in (".png", ".tiff", ".ppm"):
        (image,) = decode_stills(written(suffix, COLOUR.astype(np.uint16) * 257))
        assert np.array_equal(image, COLOUR), suffix


def test_a_tiff_whose_white_is_zero_is_no_negative() -> None:
    data = saved(pil(65535 - WIDE), "TIFF")
    # The tag 262 (SHORT, one value): 1, black is zero.
    black = struct.pack("<HHII", 262, 3, 1, 1)
    assert data.count(black) == 1
    (image,) = decode_stills(data.replace(black, struct.pack("<HHII", 262, 3, 1, 0)))
    assert image[:, :, 0] == pytest.approx(RAMP, abs=1)


UNKNOWN_RANGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "12 bits in 16": (lambda: written(".png", RAMP.astype(np.uint16) * 16), "nearly black"),
    "14 bits in 16": (lambda: written(".tiff", RAMP.astype(np.uint16) * 64), "nearly black"),
    "10 bits of colour in 16": (
        lambda: written(".png", COLOUR.astype(np.uint16) * 4),
        "lowest 1.6% of their range",
    ),
    "12 bits in a pgm of 65535": (lambda: pgm(RAMP.astype(int) * 16, 65535), "nearly black"),
    "floats of 255": (
        lambda: saved(pil(RAMP.astype(np.float32)), "TIFF"),
        "floats from 0 to 255; 0 is black and 1 is white",
    ),
    "floats below zero": (lambda: saved(pil((RAMP - 9.0).astype(np.float32)), "TIFF"), "floats"),
    "not a number": (
        lambda: saved(pil(np.full((4, 4), np.nan, np.float32)), "TIFF"),
        "no number (nan)",
    ),
    "a single nan": (
        lambda: saved(pil(np.where(RAMP == 0, np.nan, RAMP / 255).astype(np.float32)), "TIFF"),
        "no number (nan)",
    ),
    "floats of 64 bits": (
        lambda: written(".tiff", (RAMP / 255).astype(np.float64)),
        "floats of 64 bits",
    ),
    "integers of 32 bits": (lambda: saved(pil(RAMP.astype(np.int32) * 9000), "TIFF"), "signed"),
    "separate planes of 16 bits": (
        lambda: written_by_tifffile(np.moveaxis(COLOUR, 2, 0).astype(np.uint16) * 257),
        "separate planes of 16 bits",
    ),
    "colours of floats, TIFF": (
        lambda: written(".tiff", COLOUR.astype(np.float32) / 255),
        "values in a form that is not read, such as colours of floats",
    ),
    "colours of floats, PFM": (
        lambda: written(".pfm", COLOUR.astype(np.float32) / 255),
        "values in a form that is not read, such as colours of floats",
    ),
    "signed integers": (lambda: written(".tiff", RAMP.astype(np.int16) * 128), "signed"),
}


@pytest.mark.parametrize("kind", UNKNOWN_RANGE)
def test_values_of_an_unknown_range_are_refused_instead_of_black_or_white(kind: str) -> None:
    make, reason = UNKNOWN_RANGE[kind]
    with pytest.raises(PictureError) as caught:
        list(decode_stills(make()))
    assert reason in str(caught.value)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_every_colour_space_becomes_bgr(kind: str) -> None:
    if kind == "LAB":
        data = saved(PilImage.new("LAB", (WIDTH, HEIGHT), (120, 128, 128)), "TIFF")
    else:
        data = saved(pil().convert(kind), "TIFF")
    (image,) = decode_stills(data)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert 60 < image.mean() < 200


def test_a_jpeg_of_12_bits_says_what_it_is() -> None:
    data = bytearray(saved(pil(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    with pytest.raises(PictureError, match="cannot handle 12-bit layers"):
        list(decode_stills(bytes(data)))


@pytest.mark.parametrize("data", [b"P6 0 0 255\n", b"P5 0 9 65535\n", b"Pf\n0 4\n-1.0\n"])
def test_a_picture_without_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(PictureError, match="has no pixels"):
        list(decode_stills(data))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_every_frame_and_page_comes_in_order(kind: str) -> None:
    shades = [30, 120, 220]
    first, *others = (pil(np.full((HEIGHT, WIDTH, 3), shade, np.uint8)) for shade in shades)
    data = saved(first, kind, save_all=True, append_images=others, duration=50)
    assert [image.mean() for image in decode_stills(data)] == pytest.approx(shades, abs=3)
    images = decode_stills(data[: len(data) * 4 // 5])
    with pytest.raises(PictureError, match=r"truncated|cannot be read"):
        list(images)


def test_previews_in_a_tiff_are_no_pictures() -> None:
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file) as pages:
        for size, kind in ((WIDTH // 4, 1), (WIDTH, 0), (WIDTH // 2, 1)):
            pil().resize((size, HEIGHT)).save(pages, "TIFF", tiffinfo={254: kind})
            pages.newFrame()
    assert [image.shape[1] for image in decode_stills(file.getvalue())] == [WIDTH]


def test_the_gain_map_of_a_phone_is_no_picture() -> None:
    data = saved(pil(), "MPO", save_all=True, append_images=[PilImage.new("L", (20, 20))])
    assert [image.shape[:2] for image in decode_stills(data)] == [(HEIGHT, WIDTH)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_upright_whatever_its_orientation(kind: str, orientation: int) -> None:
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    data = saved(pil(), kind, exif=exif)
    expected = ImageOps.exif_transpose(PilImage.open(io.BytesIO(data))).convert("RGB")
    (image,) = decode_stills(data)
    assert np.array_equal(image[:, :, ::-1], np.asarray(expected))


ORIENTATION = struct.pack("<HHII", 0x0112, 3, 1, 1)
WRONG_ENTRIES = {
    "a text": struct.pack("<HHI4s", 0x0112, 2, 4, b"top\0"),
    "a fraction": struct.pack("<HHII", 0x0112, 5, 1, 8),
    "far beyond the end": struct.pack("<HHII", 0x0112, 3, 900, 0xFFFFFF00),
    "an unknown type": struct.pack("<HHII", 0x0112, 77, 1, 6),
    "a list": struct.pack("<HHIHH", 0x0112, 3, 2, 6, 6),
    "a directory in a circle": struct.pack("<HHII", 0x8769, 4, 1, 8),
    "a resolution that is a text": struct.pack("<HHI4s", 0x011A, 2, 4, b"72\0\0"),
}


@pytest.mark.parametrize("entry", WRONG_ENTRIES)
def test_a_wrong_entry_in_the_metadata_costs_nothing(entry: str) -> None:
    (truth,) = decode_stills(saved(pil(), "JPEG"))
    head = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2)
    for turned in (1, 6):
        orientation = struct.pack("<HHII", 0x0112, 3, 1, turned)
        for entries in (WRONG_ENTRIES[entry] + orientation, orientation + WRONG_ENTRIES[entry]):
            exif = head + entries + struct.pack("<I", 8)  # the next directory: this one
            (image,) = decode_stills(saved(pil(), "JPEG", exif=exif))
            assert sorted(image.shape) == sorted(truth.shape)


def chunk(kind: bytes, content: bytes, *, broken: bool = False) -> bytes:
    checksum = zlib.crc32(kind + content) ^ broken
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


BOMB = zlib.compress(bytes(80_000_000), 9)
PNG_METADATA = {
    "a text bomb": chunk(b"zTXt", b"Comment\0\0" + BOMB),
    "an XMP bomb": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "a profile bomb": chunk(b"iCCP", b"profile\0\0" + BOMB),
    "a profile of rubbish": chunk(b"iCCP", b"profile\0\0rubbish"),
    "a broken checksum": chunk(b"tEXt", b"Comment\0text", broken=True),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short resolution": chunk(b"pHYs", b"\0\0"),
    "EXIF of rubbish": chunk(b"eXIf", b"II*\0rubbish"),
    "many long texts": chunk(b"tEXt", b"Comment\0" + bytes(900_000)) * 80,
}


@pytest.mark.parametrize("kind", PNG_METADATA)
def test_metadata_of_a_png_costs_nothing(kind: str) -> None:
    data = saved(pil(), "PNG")
    after_header = 8 + 25
    (image,) = decode_stills(data[:after_header] + PNG_METADATA[kind] + data[after_header:])
    assert np.array_equal(image, COLOUR)


def test_metadata_of_a_jpeg_costs_nothing() -> None:
    data = saved(pil(), "JPEG")
    (truth,) = decode_stills(data)

    def segment(marker: int, content: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content

    for extra in (
        segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40),
        segment(0xE2, b"ICC_PROFILE\0\x01\x05rubbish"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><<<"),
        segment(0xE1, b"Exif\0\0"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
        segment(0xFE, b""),
    ):
        (image,) = decode_stills(data[:2] + extra + data[2:])
        assert np.array_equal(image, truth)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_damage_is_a_picture_error_whatever_the_decoder_raises(kind: str) -> None:
    data = saved(pil(), kind)
    random = np.random.default_rng(18)
    for _ in range(150):
        damaged = bytearray(data)
        for offset in random.integers(0, len(data), 6):
            damaged[offset] = random.integers(256)
        with contextlib.suppress(PictureError):
            for image in decode_stills(bytes(damaged)):
                assert image.dtype == np.uint8
