"""Streams of real H.264 and H.265, whole and damaged: nothing that never was is delivered."""

import contextlib
import io
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.streams import ByteServer

from node.capture.h26x import stream as coded_stream
from node.capture.h26x.stream import H26xStream
from node.capture.sources.base import Picture, Source
from node.capture.sources.open import open_source
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.h26x.annex_b import ParameterSets, units
from node.image.h26x.decoder import Decoded, EncodedPacket, VideoDecoder
from node.image.h26x.h264 import FrameNumbers

av = pytest.importorskip("av", reason="damage is found with it")

PICTURES, KEY_EVERY = 60, 20
HIT = 26
"""The picture that something happens to: the six before it and its key frame at 20 are whole."""
KEPT = [*range(HIT), *range(40, PICTURES)]
ENCODERS = {"h264": "libx264", "hevc": "libx265"}
X265 = f"log-level=none:keyint={KEY_EVERY}:min-keyint={KEY_EVERY}:scenecut=0"
OPTIONS = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "g": str(KEY_EVERY), "crf": "18",
                "x264-params": "scenecut=0"},
    "libx265": {"preset": "ultrafast", "tune": "zerolatency",
                "x265-params": X265},
}  # fmt: skip

Damage = Callable[[bytes], bytes | None]


@pytest.fixture(scope="module")
def truth() -> list[Image]:
    """A view that moves, so that what stands on another picture shows it."""
    photo = cv2.imread(str(Path(skimage.__file__).parent / "data" / "coffee.png"))
    assert photo is not None
    small = cv2.resize(photo, (320, 240))
    return [np.roll(small, 7 * index, axis=1) for index in range(PICTURES)]


def coded(truth: list[Image], codec: str, **more: str) -> list[bytes]:
    """The pictures as they travel, one packet each."""
    context = av.CodecContext.create(ENCODERS[codec], "w")
    context.width, context.height, context.pix_fmt = 320, 240, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), 30
    context.options = OPTIONS[ENCODERS[codec]] | more
    packets = []
    for index, picture in enumerate(truth):
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts = index
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]


def lost(packet: bytes) -> None:
    return None


def overwritten(packet: bytes) -> bytes:
    middle = len(packet) // 2
    return packet[:middle] + bytes(range(1, 81)) + packet[middle + 80 :]


def cut(packet: bytes) -> bytes:
    return packet[: len(packet) // 2]


def end_cut(packet: bytes) -> bytes:
    """A checksum that is gone with the last part of its picture."""
    return packet[: len(packet) * 7 // 8]


def served(packets: list[bytes], damage: Damage, index: int) -> ByteServer:
    sent = [damage(packet) if number == index else packet for number, packet in enumerate(packets)]
    return ByteServer(b"".join(packet for packet in sent if packet is not None))


def opened(server: ByteServer, **settings: object) -> Source:
    """Servers that do not wait send a backlog only."""
    all_of_it = {"source": server.url, "discard_backlog": False}
    return open_source(CameraConfig.model_validate(all_of_it | settings))


def read_to_the_end(source: Source) -> tuple[list[Picture], int]:
    """All pictures until the server closes, and how many were refused."""
    pictures, refused = [], 0
    while True:
        try:
            picture = source.read()
        except PictureError:
            refused += 1
        except SourceError:
            return pictures, refused
        else:
            assert picture is not None
            pictures.append(picture)


def places(pictures: list[Picture], truth: list[Image]) -> list[int | None]:
    """Which of the true pictures each one is; None for one that never was."""
    known = np.array([thumbnail(picture) for picture in truth])
    indices: list[int | None] = []
    for picture in pictures:
        differences = np.abs(known - thumbnail(picture.image)).max(axis=(1, 2, 3))
        nearest = int(np.argmin(differences))
        indices.append(nearest if differences[nearest] < 25 else None)
    return indices


def thumbnail(picture: Image) -> NDArray[np.int16]:
    """The mean of each block of 16 pixels, which smears change and coding does not."""
    return cv2.resize(picture, (20, 15), interpolation=cv2.INTER_AREA).astype(np.int16)


def without_parameters(packets: list[bytes], codec: str) -> list[bytes]:
    """As some cameras send: parameter sets come with the first picture only."""
    kinds = {"h264": (7, 8), "hevc": (32, 33, 34)}[codec]

    def pictures_only(packet: bytes) -> bytes:
        kept = (
            unit for unit in units(packet)
            if (unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F) not in kinds
        )  # fmt: skip
        return b"".join(b"\0\0\0\1" + unit for unit in kept)

    return [packets[0], *(pictures_only(packet) for packet in packets[1:])]


CASES = [
    ("h264", lost, {}), ("h264", overwritten, {}), ("h264", cut, {}), ("hevc", lost, {}),
    ("hevc", cut, {}), ("hevc", overwritten, {"x265-params": f"{X265}:hash=1"}),
    ("hevc", end_cut, {"x265-params": f"{X265}:hash=1"}),
]  # fmt: skip


@pytest.mark.parametrize(("codec", "damage", "more"), CASES)
def test_nothing_that_never_was_is_delivered(
    truth: list[Image], codec: str, damage: Damage, more: dict[str, str]
) -> None:
    server = served(coded(truth, codec, **more), damage, HIT)
    source = opened(server)
    pictures, refused = read_to_the_end(source)
    source.close()
    server.close()
    assert isinstance(source, H26xStream)
    assert places(pictures, truth) == KEPT
    assert refused == PICTURES - len(KEPT) - (damage is lost)


@pytest.mark.parametrize("index", range(KEY_EVERY, 2 * KEY_EVERY, 3))
def test_what_comes_after_damage_is_exact(truth: list[Image], index: int) -> None:
    """FFmpeg's decoder of CAVLC, which cheap cameras send, leaves coefficients of a damaged picture
    in the next one that it decodes."""
    packets = coded(truth, "h264", profile="baseline")
    whole = decoded(packets)
    damaged = decoded([*packets[:index], cut(packets[index]), *packets[index + 1 :]])
    assert sorted(damaged) == [*range(index), *range(2 * KEY_EVERY, PICTURES)]
    assert all(np.array_equal(damaged[at], whole[at]) for at in damaged)


def decoded(packets: list[bytes]) -> dict[int, Image]:
    """What the decoder lets by, by index."""
    decoder, images = VideoDecoder("h264", b""), {}
    for index, packet in enumerate(packets):
        picture = EncodedPacket(packet, Stamp.at_media(index), is_key=index % KEY_EVERY == 0)
        with contextlib.suppress(PictureError):
            frames = decoder.decode(picture)
            images.update({frame.stamp.unix_ns: decoder.pixels(frame.frame) for frame in frames})
    return images


@pytest.mark.parametrize("codec", list(ENCODERS))
def test_parameter_sets_that_come_once_last_beyond_damage(truth: list[Image], codec: str) -> None:
    packets = without_parameters(coded(truth, codec), codec)
    server = served(packets, cut, HIT)
    source = opened(server)
    pictures, _ = read_to_the_end(source)
    source.close()
    server.close()
    assert places(pictures, truth) == KEPT


def test_parameter_sets_come_once_and_before_what_refers_to_them() -> None:
    """An RTSP camera sends them in its description and again with each key frame, there behind
    start codes of another length."""
    vps, sps, pps = b"\x40\1v", b"\x42\1s", b"\x44\1p"
    kept = ParameterSets("hevc")
    kept.keep(b"".join(b"\0\0\1" + unit for unit in (vps, sps, pps)))
    kept.keep(b"".join(b"\0\0\0\1" + unit for unit in (pps, vps, sps)) + b"\0\0\0\1\x26\1key")
    assert list(units(bytes(kept))) == [vps, sps, pps]


def test_ever_new_parameter_sets_do_not_pile_up() -> None:
    kept = ParameterSets("h264")
    for number in range(1000):
        kept.keep(b"\0\0\1\x67" + number.to_bytes(2, "big") + b"\0\0\1\x65picture")
    assert len(list(units(bytes(kept)))) < 100
    assert (999).to_bytes(2, "big") in bytes(kept)
    assert b"picture" not in bytes(kept)


def test_a_silence_in_which_numbers_may_have_begun_anew_is_a_loss(truth: list[Image]) -> None:
    """Frame numbers of x264 repeat after 16 pictures: two seconds later any may be the next."""
    packets = coded(truth, "h264")
    gone = range(24, 45)  # 45 has the number that would have followed, and stands on the key at 40
    decoder, delivered = VideoDecoder("h264", b""), []
    for index, packet in enumerate(packets):
        if index not in gone:
            periods = 22.0 if index == gone.stop else 1.0
            picture = EncodedPacket(packet, Stamp.at_media(index), index % KEY_EVERY == 0, periods)
            with contextlib.suppress(PictureError):
                delivered += [frame.stamp.unix_ns for frame in decoder.decode(picture)]
    assert delivered == list(range(24))


@pytest.mark.parametrize("detect_damage", [True, False])
def test_pictures_that_come_out_of_order_are_all_shown_and_none_is_too_young(
    truth: list[Image], detect_damage: bool
) -> None:
    """With B-frames a picture comes before those that are shown ahead of it."""
    packets = coded(truth, "h264", tune="film", bf="3", b_strategy="0")
    server = ByteServer(*((1 / 60, packet) for packet in packets))
    source = opened(server, detect_damage=detect_damage)
    pictures, refused = read_to_the_end(source)
    source.close()
    server.close()
    stamps = [
        picture.stamp.mono_ns
        for picture in pictures
        if picture.stamp is not None and picture.stamp.mono_ns
    ]
    assert (places(pictures, truth), refused) == (list(range(PICTURES)), 0)
    assert len(stamps) == len(pictures)
    assert stamps == sorted(stamps)


def test_a_rate_limit_above_the_rate_of_a_stream_out_of_order_drops_few(
    truth: list[Image],
) -> None:
    """Several pictures share the stamp of the first packet that could hold them."""
    written = io.BytesIO()
    parts, position = [], 0
    with av.open(written, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.options = {"bf": "8", "g": "30", "x264-params": "b-adapt=0:scenecut=0"}
        frames = [av.VideoFrame.from_ndarray(picture, format="bgr24") for picture in truth * 2]
        for frame in (*frames, None):
            for packet in stream.encode(frame):
                container.mux(packet)
                parts.append(written.getvalue()[position:])
                position += len(parts[-1])
    server = ByteServer(*((1 / 60, part) for part in parts))
    source = opened(server, max_fps=200)
    pictures, refused = read_to_the_end(source)
    source.close()
    server.close()
    assert refused == 0
    # The first come at once, when the stream is opened.
    assert len(pictures) > PICTURES


def test_what_was_sent_before_is_passed_over_at_opening_and_after_a_silence(
    truth: list[Image],
) -> None:
    """At opening FFmpeg gives what it probed, and after a silence the network what it held back."""
    packets = 2 * coded(truth, "h264")
    silent, key = 84, 100
    times = [1 / 60] * silent + [0.8] + [0.0] * 9 + [1 / 60] * (len(packets) - silent - 10)
    server = ByteServer(*zip(times, packets, strict=True))
    source = opened(server, discard_backlog=True)
    pictures, _ = read_to_the_end(source)
    source.close()
    server.close()
    seen = places(pictures, truth)
    lap = seen.index(0) if 0 in seen else 0
    numbers = [index + PICTURES * (at >= lap) for at, index in enumerate(seen) if index is not None]
    assert len(numbers) == len(seen)
    assert numbers[0] > KEY_EVERY
    before = range(silent - 15, silent - 1)  # the last one shows its end with the next only
    assert set(before) <= set(numbers)
    assert [number for number in numbers if number >= silent] == list(range(key, len(packets)))


def test_a_decoder_that_is_too_slow_hides_no_age(
    truth: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding takes twice as long as pictures take to come: they are stamped when they come,
    passed over up to a key frame, counted, and the camera says so."""
    packets = 6 * coded(truth, "h264")
    decode = VideoDecoder.decode

    def slowly(self: VideoDecoder, picture: EncodedPacket) -> list[Decoded]:
        time.sleep(2 / 60)  # the decoder's own time
        return decode(self, picture)

    monkeypatch.setattr(VideoDecoder, "decode", slowly)
    begun = time.monotonic()
    server = ByteServer(*((1 / 60, packet) for packet in packets))
    source = opened(server, discard_backlog=True)
    assert isinstance(source, H26xStream)
    ages, dropped, short = [], 0, set()
    while time.monotonic() < begun + 5.5:
        try:
            picture = source.read()
        except PictureError:
            continue
        assert picture is not None
        assert picture.stamp is not None
        assert picture.stamp.mono_ns is not None
        ages.append((time.monotonic_ns() - picture.stamp.mono_ns) / 1e9)
        dropped += picture.dropped
        short.add(source.shortfall)
    source.close()
    server.close()
    assert len(ages) > 20
    assert max(ages) < 0.8, "the stamp tells, and what waits does not grow"
    assert dropped > 40
    assert any(why is not None and "decoded more slowly than it comes" in why for why in short)


def test_a_stream_that_hangs_is_closed_at_once_and_its_thread_ends(truth: list[Image]) -> None:
    server = ByteServer(*((1 / 60, packet) for packet in coded(truth, "h264")))
    source = opened(server, discard_backlog=True)
    assert "read-camera" in [thread.name for thread in threading.enumerate()]
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 2
    server.close()
    deadline = time.monotonic() + 10
    while "read-camera" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("codec", list(ENCODERS))
def test_a_whole_stream_is_delivered_whole_and_as_opencv_does(
    truth: list[Image], codec: str
) -> None:
    server = ByteServer(b"".join(coded(truth, codec)))
    source = opened(server)
    pictures, refused = read_to_the_end(source)
    source.close()
    plain = cv2.VideoCapture(server.url, cv2.CAP_FFMPEG)
    theirs = [plain.read()[1] for _ in pictures]
    server.close()
    assert (places(pictures, truth), refused) == (list(range(PICTURES)), 0)
    for ours, their in zip(pictures, theirs, strict=True):
        assert np.abs(ours.image.astype(int) - their).mean() < 1


def test_where_it_is_turned_off_opencv_decodes_and_conceals(truth: list[Image]) -> None:
    server = served(coded(truth, "h264"), lost, HIT)
    source = opened(server, detect_damage=False)
    pictures, refused = read_to_the_end(source)
    source.close()
    server.close()
    assert refused == 0
    assert None in places(pictures, truth)


def test_without_the_package_that_finds_damage_it_says_so_and_goes_on(
    truth: list[Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coded_stream, "can_decode", lambda: False)
    server = ByteServer(b"".join(coded(truth, "h264")))
    source = opened(server)
    source.close()
    server.close()
    assert not isinstance(source, H26xStream)
    assert "damaged pictures of h264 are not found without the package av" in caplog.text


@pytest.mark.parametrize(
    "more", [{}, {"tune": "film", "bf": "2"}, {"x264-params": "slices=4:cqm=jvt"},
             {"intra-refresh": "1"}, {"profile": "baseline"}, {"x264-params": "interlaced=1"}],
)  # fmt: skip
def test_a_gap_in_the_frame_numbers_is_a_lost_picture(
    truth: list[Image], more: dict[str, str]
) -> None:
    packets = coded(truth[:40], "h264", **more)
    whole, holed = FrameNumbers(), FrameNumbers()
    assert not any(whole.lost(packet) for packet in packets)
    index = next(i for i in range(HIT, 40) if len(packets[i]) > 1000)
    losses = [holed.lost(packet) for packet in packets[:index] + packets[index + 1 :]]
    assert losses.index(True) in (index, index + 1)


@given(st.lists(st.binary(max_size=40).map(lambda payload: b"\0\0\1" + payload), max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_bytes_have_frame_numbers_or_none(units: list[bytes]) -> None:
    assert FrameNumbers().lost(b"".join(units)) in (True, False)
