"""Files of a few bytes whose headers claim gigabytes, made when they are wanted."""

import io
import re
import struct
import zlib
from collections.abc import Callable

import av
import numpy as np
import simplejpeg
import zstandard
from PIL import Image as PilImage

MIB = 1 << 20
_START = re.compile(rb"\x00\x00(?:\x00)?\x01")


def jpeg(width: int, height: int) -> bytes:
    """A picture of 16 x 16 pixels whose header says otherwise."""
    made = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 85))
    offset = made.find(b"\xff\xc0")
    made[offset + 5 : offset + 9] = struct.pack(">HH", height, width)
    return bytes(made)


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive picture, whose last scan comes so many times more."""
    stream = io.BytesIO()
    PilImage.new("RGB", (width, height)).save(stream, "JPEG", progressive=True)
    made = stream.getvalue()
    return made[:-2] + made[made.rfind(b"\xff\xda") : -2] * scans + b"\xff\xd9"


def png(width: int, height: int) -> bytes:
    """With a hundred rows at most of its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )  # fmt: skip

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )  # fmt: skip


def gif(width: int, height: int) -> bytes:
    """With hardly any pixels."""
    sizes = struct.pack("<HH", width, height)
    return b"GIF89a" + sizes + b"\x80" + bytes(8) + b"," + bytes(4) + sizes + b"\0\2\2L\1\0;"


def bmp(width: int, height: int) -> bytes:
    """With hardly any pixels."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + head + bytes(100)


def ppm(width: int, height: int) -> bytes:
    """With hardly any pixels."""
    return f"P6 {width} {height} 255\n".encode() + bytes(100)


def tiff(width: int, height: int) -> bytes:
    """With hardly any pixels (TIFF 6.0, section 3)."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100),
    ]  # fmt: skip
    listed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0" + struct.pack("<I", 200) + bytes(192)
        + struct.pack("<H", len(entries)) + listed + bytes(4)
    )  # fmt: skip


def webp(width: int, height: int) -> bytes:
    """A picture of 16 x 16 pixels whose header says otherwise; up to 16383 each."""
    stream = io.BytesIO()
    PilImage.new("RGB", (16, 16)).save(stream, "WEBP", lossless=True)
    made = bytearray(stream.getvalue())
    offset = made.find(b"VP8L") + 9
    (bits,) = struct.unpack("<I", made[offset : offset + 4])
    claimed = (bits & ~0xFFFFFFF) | (width - 1) | ((height - 1) << 14)
    made[offset : offset + 4] = struct.pack("<I", claimed)
    return bytes(made)


PICTURES: dict[str, Callable[[int, int], bytes]] = {
    ".jpg": jpeg, ".png": png, ".gif": gif, ".bmp": bmp, ".ppm": ppm, ".tiff": tiff, ".webp": webp,
}  # fmt: skip


def h264(width: int, height: int, frames: int = 5, after: int = 0) -> bytes:
    """A video of 64 x 64 pixels (Annex B) whose parameter sets from frame `after` on say otherwise:
    multiples of 16."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="h264") as container:
        track = container.add_stream("libx264", rate=30)
        track.width = track.height = 64
        track.pix_fmt = "yuv420p"
        track.options = {"profile": "baseline", "x264-params": "keyint=1:bframes=0:ref=1"}
        for shade in range(frames):
            picture = np.full((64, 64, 3), shade * 20, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
    made, frame = b"", -1
    for unit in filter(None, _START.split(stream.getvalue())):
        kind = unit[0] & 31
        frame += kind == 7
        if kind == 7 and frame >= after:
            unit = _parameters(width, height)
        made += b"\0\0\0\1" + unit
    return made


def _parameters(width: int, height: int) -> bytes:
    """A sequence parameter set of the baseline profile (ITU-T H.264, 7.3.2.1.1)."""

    def number(value: int) -> str:
        bits = format(value + 1, "b")
        return "0" * (len(bits) - 1) + bits

    bits = (
        f"{66:08b}{0xC0:08b}{62:08b}" + number(0) + number(0) + number(2) + number(1) + "0"
        + number(width // 16 - 1) + number(height // 16 - 1) + "1100" + "1"
    )  # fmt: skip
    bits += "0" * (-len(bits) % 8)
    made, zeros = bytearray(b"\x67"), 0
    for value in int(bits, 2).to_bytes(len(bits) // 8, "big"):
        if zeros >= 2 and value <= 3:
            made.append(3)
            zeros = 0
        made.append(value)
        zeros = zeros + 1 if value == 0 else 0
    return bytes(made)


def chunk(compression: str, packed: bytes, length: int) -> bytes:
    """An MCAP file of one chunk that says that it has `length` bytes, cut off behind it."""
    name = compression.encode()
    body = struct.pack("<QQQII", 1, 2, length, 0, len(name)) + name
    body += struct.pack("<Q", len(packed)) + packed
    return b"\x89MCAP0\r\n" + struct.pack("<BQ", 6, len(body)) + body


def zeros(gigabytes: int) -> bytes:
    """So many, packed by zstd, without a word of how many they are."""
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    part = bytes(1 << 24)
    return b"".join(packer.compress(part) for _ in range(64 * gigabytes)) + packer.flush()
