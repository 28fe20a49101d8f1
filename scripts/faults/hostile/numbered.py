"""Pictures that carry their number, as clips of each codec, and the model that reads it: so the age
of a picture is known from its pixels alone.

Picture number n is filmed at n periods of CLOCK_MONOTONIC, in every process of this computer.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
import openvino as ov
import openvino.opset13 as ops
import skimage

from node.image.frame import Image
from node.image.jpeg import encode_jpeg
from node.image.opencv import cv2

Codec = Literal["mjpeg", "h264", "hevc"]
CODECS: tuple[Codec, ...] = get_args(Codec)
FPS = 30
PERIOD_S = 1 / FPS
KEY_EVERY = 30
SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
_BITS = 8
_FEW = 120
"""Pictures of a clip of 4K: so many make four seconds, after which numbers come again."""
_ROWS, _COLUMNS = 32, 64
_ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "g": str(KEY_EVERY),
                         "x264-params": "scenecut=0:repeat-headers=1"}),
    "hevc": ("libx265", {"preset": "ultrafast", "tune": "zerolatency", "x265-params":
                         f"log-level=none:keyint={KEY_EVERY}:min-keyint={KEY_EVERY}:scenecut=0:"
                         "repeat-headers=1"}),
}  # fmt: skip


def pictures_of(size: str) -> int:
    """How many pictures a clip has before their numbers come again."""
    return _FEW if size == "4K" else 240


def filmed_s(number: int) -> float:
    """When a picture was filmed, on CLOCK_MONOTONIC."""
    return number * PERIOD_S


def newest_of(index: int, pictures: int, before_s: float) -> int:
    """The newest number of the picture at an index of the clip that was filmed before a moment."""
    newest = int(before_s / PERIOD_S)
    return newest - (newest - index) % pictures


@dataclass(frozen=True, slots=True)
class Clip:
    """packets[index]: the bytes of the picture that shows this index."""

    codec: Codec
    size: str
    packets: tuple[bytes, ...]

    def packet(self, number: int) -> bytes:
        """The bytes of a picture, by its number."""
        return self.packets[number % len(self.packets)]


def clip(codec: Codec, size: str) -> Clip:
    """Encoded once, and kept in the computer's folder for temporary files."""
    folder = Path(tempfile.gettempdir()) / f"numbered-clips-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{codec}-{size}-{pictures_of(size)}"
    lengths = file.with_suffix(".json")
    if not lengths.exists():
        packets = _jpegs(size) if codec == "mjpeg" else _coded(codec, size)
        file.write_bytes(b"".join(packets))
        half = lengths.with_suffix(f".{os.getpid()}")
        half.write_text(json.dumps([len(packet) for packet in packets]), encoding="utf-8")
        half.replace(lengths)
    data, offset, parts = file.read_bytes(), 0, []
    for length in json.loads(lengths.read_text(encoding="utf-8")):
        parts.append(data[offset : offset + length])
        offset += length
    return Clip(codec, size, tuple(parts))


def picture(index: int, size: str) -> Image:
    """A view that moves, below a row of blocks: the bits of the index, the highest first."""
    width, height = SIZES[size]
    image = np.roll(_view(width, height), 8 * index, axis=1)
    for bit in range(_BITS):
        left, right = (width * (bit + side) // _BITS for side in (0, 1))
        image[: height // 4, left:right] = 235 if index >> (_BITS - 1 - bit) & 1 else 20
    return image


def write_model(folder: Path) -> Path:
    """A classifier whose best label is the index that a picture shows."""
    count = 2**_BITS
    weights = np.zeros((3, _ROWS, _COLUMNS, count), np.float32)
    for index in range(count):
        for bit in range(_BITS):
            left = bit * _COLUMNS // _BITS
            sign = 1 if index >> (_BITS - 1 - bit) & 1 else -1
            weights[:, 2:6, left + 2 : left + 6, index] = 2 * sign / 48
    pixels = ops.parameter([-1, 3, _ROWS, _COLUMNS], ov.Type.f32, name="pixels")
    flat = ops.reshape(pixels, np.array([-1, 3 * _ROWS * _COLUMNS]), special_zero=False)
    logits = ops.matmul(flat, weights.reshape(-1, count), transpose_a=False, transpose_b=False)
    file = folder / "numbers.xml"
    ov.save_model(ov.Model([logits], [pixels], "numbers"), file, compress_to_fp16=False)
    names = ", ".join(f'"{index}"' for index in range(count))
    file.with_suffix(".toml").write_text(
        f'name = "numbers"\ntask = "classify"\nlabels = [{names}]\n[input]\n'
        f'size = [{_ROWS}, {_COLUMNS}]\nresize = "stretch"\nscale = 0.00784\n'
        "mean = [1.0, 1.0, 1.0]\n",
        encoding="utf-8",
    )
    return file


_VIEWS: dict[tuple[int, int], Image] = {}


def _view(width: int, height: int) -> Image:
    if (width, height) not in _VIEWS:
        photo = cv2.imread(str(Path(skimage.__file__).parent / "data" / "coffee.png"))
        assert photo is not None
        _VIEWS[width, height] = np.asarray(cv2.resize(photo, (width, height)), np.uint8)
    return _VIEWS[width, height]


def _jpegs(size: str) -> list[bytes]:
    return [encode_jpeg(picture(index, size), 80) for index in range(pictures_of(size))]


def _coded(codec: Codec, size: str) -> list[bytes]:
    encoder, options = _ENCODERS[codec]
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = SIZES[size]
    context.pix_fmt, context.options = "yuv420p", options
    context.time_base, context.framerate = Fraction(1, FPS), Fraction(FPS)
    packets = []
    for index in range(pictures_of(size)):
        frame = av.VideoFrame.from_ndarray(picture(index, size), format="bgr24")
        frame.pts = index
        packets += [bytes(packet) for packet in context.encode(frame)]
    packets += [bytes(packet) for packet in context.encode(None)]
    assert len(packets) == pictures_of(size)
    return packets
