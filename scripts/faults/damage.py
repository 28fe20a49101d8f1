"""Damages pictures of real streams, one at a time, and prints how often a false picture passes:
with decoding as in OpenCV, which conceals damage, and with the node's strict decoding."""

import argparse
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import skimage

from node.errors import PictureError
from node.image.frame import Image, Stamp
from node.image.h26x.annex_b import Codec
from node.image.h26x.decoder import EncodedPacket, VideoDecoder
from node.image.jpeg import decode_jpeg, encode_jpeg
from node.image.opencv import cv2

PICTURES, KEY_EVERY = 45, 15
_TOLERANCE = 8
"""Grey levels: smaller differences are between decoders, not damage."""

_H264 = {"preset": "veryfast", "tune": "zerolatency", "g": str(KEY_EVERY)}
_H265 = "log-level=none:scenecut=0:keyint=15:min-keyint=15"
STREAMS: dict[str, tuple[Codec, str, dict[str, str]]] = {
    "H.264": ("h264", "libx264", _H264),
    "H.264 baseline": ("h264", "libx264", _H264 | {"profile": "baseline"}),
    "H.264 intra refresh": ("h264", "libx264", _H264 | {"intra-refresh": "1"}),
    "H.265": (
        "hevc", "libx265",
        {"preset": "ultrafast", "tune": "zerolatency", "x265-params": _H265},
    ),
    "H.265 with picture hash": (
        "hevc", "libx265",
        {"preset": "ultrafast", "tune": "zerolatency", "x265-params": f"{_H265}:hash=1"},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packet:
    """One coded picture."""

    data: bytes
    is_key: bool


def _overwritten(data: bytes, chance: random.Random) -> bytes:
    middle, length = len(data) // 2, min(100, len(data) // 4)
    return data[:middle] + chance.randbytes(length) + data[middle + length :]


def _bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(3):
        changed[chance.randrange(min(40, len(data) // 2), len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) // 4, len(data) - len(data) // 8)]


def _holed(data: bytes, chance: random.Random) -> bytes:
    length = min(1024, len(data) // 4)  # what USB 2.0 carries in one packet
    offset = chance.randrange(len(data) // 4, len(data) - length)
    return data[:offset] + data[offset + length :]


def _lost(data: bytes, chance: random.Random) -> bytes:
    return b""


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "lost": _lost, "cut off": _cut, "packet lost": _holed, "overwritten": _overwritten,
    "bits flipped": _bits,
}  # fmt: skip


def view() -> list[Image]:
    """Frames of a moving photograph."""
    photo = cv2.imread(str(Path(skimage.__file__).parent / "data" / "coffee.png"))
    assert photo is not None
    small = cv2.resize(photo, (480, 320))
    return [np.asarray(np.roll(small, 5 * step, axis=1), np.uint8) for step in range(PICTURES)]


def coded(pictures: Sequence[Image], encoder: str, options: dict[str, str]) -> list[Packet]:
    """Encodes frames as a camera's encoder does."""
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt, context.options = "yuv420p", options
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    frames = [av.VideoFrame.from_ndarray(picture, format="bgr24") for picture in pictures]
    for index, frame in enumerate(frames):
        frame.pts = index
    packets = [packet for frame in [*frames, None] for packet in context.encode(frame)]
    return [Packet(bytes(packet), packet.is_keyframe) for packet in packets]


def strictly(packets: Sequence[Packet | None], codec: Codec) -> dict[int, Image]:
    """Decodes with the node's decoder; pictures by their index."""
    decoder, pictures = VideoDecoder(codec, b""), {}
    for index, packet in enumerate(packets):
        if packet is not None:
            try:
                decoded = decoder.decode(
                    EncodedPacket(packet.data, Stamp.at_media(index), packet.is_key)
                )
            except PictureError:
                continue
            pictures.update(
                {picture.stamp.unix_ns: decoder.pixels(picture.frame) for picture in decoded}
            )
    return pictures


def concealing(packets: Sequence[Packet | None], codec: Codec) -> dict[int, Image]:
    """Decodes with FFmpeg as OpenCV does; pictures by their index."""
    context, pictures = av.CodecContext.create(codec, "r"), {}
    context.thread_count = 1
    for index, packet in enumerate(packets):
        if packet is not None:
            av_packet = av.Packet(packet.data)
            av_packet.pts = av_packet.dts = index
            for frame in context.decode(av_packet):
                pictures[frame.pts] = frame.to_ndarray(format="bgr24")
    return pictures


def wrong(decoded: dict[int, Image], truth: dict[int, Image]) -> bool:
    """Whether any decoded picture differs from the original."""
    return any(
        np.abs(picture.astype(int) - truth[index]).max() > _TOLERANCE
        for index, picture in decoded.items()
    )


def stream(name: str, damage: str, times: int) -> tuple[int, int]:
    """Counts the damages that passed, with concealing and with strict decoding."""
    codec, encoder, options = STREAMS[name]
    packets: list[Packet] = coded(view(), encoder, options)
    truth = strictly(packets, codec)
    assert len(truth) == PICTURES, f"{name}: {len(truth)} of {PICTURES} whole pictures"
    counts = [0, 0]
    for seed in range(times):
        chance = random.Random(seed)
        hit = chance.randrange(KEY_EVERY, 2 * KEY_EVERY)
        data = DAMAGES[damage](packets[hit].data, chance)
        sent: list[Packet | None] = [*packets]
        sent[hit] = Packet(data, packets[hit].is_key) if data else None
        counts[0] += wrong(concealing(sent, codec), truth)
        counts[1] += wrong(strictly(sent, codec), truth)
    return counts[0], counts[1]


def _with_stray_bytes(picture: Image) -> bytes:
    """A JPEG as some USB cameras send it: with restart markers, and stray bytes before them."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_RST_INTERVAL, 16]
    jpeg = cv2.imencode(".jpg", picture, options)[1].tobytes()
    scan = jpeg.index(b"\xff\xda") + 14
    return jpeg[:scan] + re.sub(rb"(\xff[\xd0-\xd7])", rb"abc\1", jpeg[scan:])


MOTION_JPEG: dict[str, Callable[[Image], bytes]] = {
    "motion JPEG": lambda picture: encode_jpeg(picture, 85),
    "motion JPEG, stray bytes": _with_stray_bytes,
}


def motion_jpeg(name: str, damage: str, times: int) -> tuple[int, int]:
    """Counts as `stream` does for motion JPEG, whose pictures are independent."""
    pictures = [MOTION_JPEG[name](picture) for picture in view()]
    assert all(decode_jpeg(picture) is not None for picture in pictures)
    counts = [0, 0]
    for seed in range(times):
        chance = random.Random(seed)
        data = DAMAGES[damage](pictures[seed % len(pictures)], chance)
        counts[0] += cv2.imdecode(np.frombuffer(data, np.uint8), 1) is not None
        try:
            decode_jpeg(data)
        except PictureError:
            continue
        counts[1] += 1
    return counts[0], counts[1]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50, help="damages of each kind")
    times = parser.parse_args().times
    print(f"{'stream':24} {'damage':13} {'concealing':>12} {'the node':>12}   of {times}")
    for name in MOTION_JPEG:
        for damage in list(DAMAGES)[1:]:
            before, now = motion_jpeg(name, damage, times)
            print(f"{name:24} {damage:13} {before:12} {now:12}", flush=True)
    for name in STREAMS:
        for damage in DAMAGES:
            before, now = stream(name, damage, times)
            print(f"{name:24} {damage:13} {before:12} {now:12}", flush=True)


if __name__ == "__main__":
    main()
