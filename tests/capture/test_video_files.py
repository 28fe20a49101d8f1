"""Video files of many writers: whole, cut off, damaged, turned, and in any colours."""

import contextlib
import gc
import io
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import Any

import av
import numpy as np
import pytest
from conftest import Run
from PIL import Image as PilImage
from support.streams import ByteServer

from node.capture.rate import RealtimeSource
from node.capture.sources.base import Incomplete, Picture, Source
from node.capture.sources.file_length import claimed_length
from node.capture.sources.open import open_source
from node.capture.sources.video_file import VideoFileSource
from node.capture.sources.video_track import VideoTrack
from node.config.schema import CameraConfig
from node.errors import SourceError
from node.image.frame import Image
from node.image.orientation import Orientation

WIDTH, HEIGHT, RATE = 96, 64, 25
H264 = {"preset": "ultrafast", "g": "10", "bf": "0", "x264-params": "scenecut=0"}
B_FRAMES = {"preset": "medium", "g": "10", "bf": "2", "x264-params": "scenecut=0:b-adapt=0"}
H265 = {"preset": "ultrafast", "x265-params": "log-level=none:keyint=10:scenecut=0"}

NOISE = np.random.default_rng(11).integers(0, 255, (8, 12, 3), np.uint8)


def view(index: int) -> Image:
    """Blocks that move by a block a frame: neighbours differ much, and coding blurs little."""
    return np.roll(NOISE, index, axis=1).repeat(8, axis=0).repeat(8, axis=1)


def place_of(image: Image) -> int | None:
    """Which of 12 views an image shows; None for none of them."""
    small = image.reshape(8, 8, 12, 8, 3).mean(axis=(1, 3))
    errors = [np.abs(small - np.roll(NOISE, index, axis=1)).mean() for index in range(12)]
    return int(np.argmin(errors)) if min(errors) < 12 else None


def track(
    container: Any,
    codec: str,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> Any:
    stream = container.add_stream(codec, rate=RATE)
    stream.width, stream.height, stream.pix_fmt = *size, pixels
    stream.codec_context.options = options or {}
    return stream


def encode(container: Any, stream: Any, pictures: Iterable[tuple[int, Image]]) -> None:
    """Muxes pictures, each with its time in frames."""
    for time, picture in pictures:
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts, frame.time_base = time, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def video(
    file: Path,
    codec: str = "libx264",
    *,
    frames: int = 30,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = H264,
    muxer: dict[str, str] | None = None,
    times: Callable[[int], int] = lambda index: index,
) -> Path:
    with av.open(str(file), "w", options=muxer or {}) as container:
        pictures = ((times(index), view(index)) for index in range(frames))
        encode(container, track(container, codec, pixels, options), pictures)
    return file


def read(source: Source) -> list[Picture]:
    pictures = list(iter(source.read, None))
    source.close()
    return pictures  # type: ignore[return-value]


def skipped(source: Source) -> str | None:
    assert isinstance(source, Incomplete)
    return source.skipped


def opened(file: Path, **settings: Any) -> Source:
    return open_source(CameraConfig(source=str(file), **settings))


KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "av1.mkv": ("libsvtav1", "yuv420p", {"preset": "12", "svtav1-params": "avif=0"}),
    "vp8.webm": ("libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "10", "b": "2M"}),
    "vp9.webm": ("libvpx-vp9", "yuv444p", {"cpu-used": "8", "lag-in-frames": "10"}),
    "b-frames.mp4": ("libx264", "yuv420p", B_FRAMES),
    "ten-bit.mp4": ("libx264", "yuv422p10le", H264),
    "h265.mov": ("libx265", "yuv420p", H265),
    "rgb.mkv": ("libx264rgb", "bgr24", {"preset": "ultrafast"}),
    "prores.mov": ("prores_ks", "yuva444p10le", {}),
    "alpha.mov": ("qtrle", "argb", {}),
    "palette.avi": ("rawvideo", "bgr24", {}),
    "twelve-bit.mkv": ("ffv1", "gbrp12le", {}),
    "mpeg2.ts": ("mpeg2video", "yuv420p", {"bf": "2", "g": "10", "b": "4M"}),
    "mpeg1.mpg": ("mpeg1video", "yuv420p", {"bf": "2", "b": "4M"}),
    "packed.avi": ("mpeg4", "yuv420p", {"bf": "2", "b": "4M"}),
    "wmv.asf": ("wmv2", "yuv420p", {"b": "4M"}),
    "sorenson.flv": ("flv", "yuv420p", {"b": "4M"}),
    "raw.h264": ("libx264", "yuv420p", B_FRAMES),
    "raw.hevc": ("libx265", "yuv420p", H265),
    "motion.mjpeg": ("mjpeg", "yuvj420p", {}),
    "mpeg2.mxf": ("mpeg2video", "yuv422p", {"b": "6M"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_of_every_kind_is_read_in_order(tmp_path: Path, name: str) -> None:
    codec, pixels, options = KINDS[name]
    source = opened(video(tmp_path / name, codec, pixels=pixels, options=options))
    pictures = read(source)
    assert [place_of(picture.image) for picture in pictures] == [index % 12 for index in range(30)]
    positions = [picture.media_ns or 0 for picture in pictures]
    assert np.diff(positions) / 1e9 == pytest.approx([1 / RATE] * 29, abs=2e-3)
    assert skipped(source) is None
    assert (source.facts.width, source.facts.height) == (WIDTH, HEIGHT)


def decoded_frames() -> int:
    """The number of decoded frames in memory."""
    return sum(isinstance(item, av.VideoFrame) for item in gc.get_objects())


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_frames_leave_the_memory_without_a_garbage_collection(tmp_path: Path, kind: str) -> None:
    """Hundreds of pictures fit between two collections; of four megapixels, they fill the memory
    of a small computer."""
    file = video(tmp_path / "a.mp4", muxer={"movflags": "frag_keyframe+empty_moov"})
    server = ByteServer(file.read_bytes())
    address = str(file) if kind == "file" else server.url
    source = open_source(CameraConfig(source=address, discard_backlog=False))
    gc.collect()
    gc.disable()
    try:
        before = decoded_frames()
        for _ in range(20):
            assert source.read() is not None
        assert decoded_frames() - before <= 4
    finally:
        gc.enable()
        source.close()
        server.close()


def test_grey_is_grey(tmp_path: Path) -> None:
    for name, pixels in (("a.mkv", "gray"), ("b.mkv", "gray10le")):
        first = read(opened(video(tmp_path / name, "ffv1", pixels=pixels, options={})))[0].image
        assert (first == first[:, :, :1]).all()
        assert first.std() > 20


def test_frames_far_apart_among_sound_are_all_read(tmp_path: Path) -> None:
    file = tmp_path / "talk.mkv"
    with av.open(str(file), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        film = track(container, "mjpeg", "yuvj420p")
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(view(number), format="bgr24")
            frame.pts, frame.time_base = number * 10 * RATE, Fraction(1, RATE)
            container.mux(film.encode(frame))
            for index in range(5000):
                packet = av.Packet(bytes(16))
                packet.stream, packet.time_base = sound, Fraction(1, 8000)
                packet.pts = packet.dts = 80000 * number + 16 * index
                packet.duration = 8
                container.mux(packet)
    source = opened(file)
    assert [place_of(picture.image) for picture in read(source)] == [0, 1, 2, 3]
    assert skipped(source) is None


@pytest.mark.parametrize("name", ["two.mp4", "two.mov", "two.mkv"])
@pytest.mark.parametrize("preview_frames", [1, 9])
def test_the_film_is_read_and_not_its_preview(
    tmp_path: Path, name: str, preview_frames: int
) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        preview = track(container, "mjpeg", "yuvj420p", size=(48, 32))
        film = track(container, "libx264", options=H264)
        small = [np.ascontiguousarray(view(index + 5)[::2, ::2]) for index in range(preview_frames)]
        encode(container, preview, ((3 * index, picture) for index, picture in enumerate(small)))
        encode(container, film, ((index, view(index)) for index in range(30)))
    source = opened(tmp_path / name)
    assert [place_of(picture.image) for picture in read(source)] == [
        index % 12 for index in range(30)
    ]
    assert f"of video track 1 ({WIDTH}x{HEIGHT}), one of 2" in (source.summary() or "")


def with_matrix(file: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Replaces the display matrix of the first track (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(file.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file.write_bytes(data)
    return file


MATRICES: dict[tuple[int, int, int, int], Callable[[Image], Image]] = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_turned_or_mirrored_video_is_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    stored = read(opened(video(tmp_path / "stored.mp4", frames=3)))[2].image
    source = opened(with_matrix(video(tmp_path / "turned.mp4", frames=3), matrix))
    shown = read(source)[2].image
    assert np.array_equal(shown, MATRICES[matrix](stored))
    assert (source.facts.height, source.facts.width) == shown.shape[:2]
    assert shown.flags.c_contiguous


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_stream_is_upright(tmp_path: Path, codec: str, turn: int) -> None:
    matrix = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[turn]
    pixels, options = ("yuv420p", H264) if codec == "libx264" else ("yuvj420p", {})
    fragments = {"movflags": "frag_keyframe+empty_moov"}
    file = video(tmp_path / "a.mp4", codec, pixels=pixels, options=options, muxer=fragments)
    server = ByteServer(with_matrix(file, matrix).read_bytes())
    source = open_source(CameraConfig(source=server.url, discard_backlog=False))
    picture = source.read()
    source.close()
    server.close()
    assert picture is not None
    upright = MATRICES[matrix](view(0))
    assert picture.image.shape == upright.shape
    assert np.abs(picture.image.astype(int) - upright).mean() < 12
    assert picture.jpeg is None


def test_the_nearest_orientation_is_chosen() -> None:
    image = view(0)
    tilted = struct.pack("=9i", 60000, 20000, 0, -20000, 60000, 0, 0, 0, 1 << 30)
    assert np.array_equal(Orientation.of_matrix(tilted).upright(image), image)
    assert Orientation.of_matrix(bytes(36)) == Orientation()
    assert np.array_equal(Orientation.of_turn(-90).upright(image), np.rot90(image))


LUMA = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}
BGR = (40, 160, 220)


@pytest.mark.parametrize(
    ("weights", "tag", "full", "pixels", "size"),
    [
        ("601", 6, False, "yuv420p", (64, 48)),
        ("709", 1, False, "yuv420p", (64, 48)),
        ("709", 1, True, "yuv422p", (64, 48)),
        ("601", 5, True, "yuv444p", (64, 48)),
        ("709", 1, False, "yuv422p10le", (64, 48)),
        ("2020", 9, False, "yuv420p10le", (64, 48)),
        ("601", 2, False, "yuv420p", (1280, 720)),
    ],
)
def test_colours_follow_the_tags_of_the_video(
    tmp_path: Path, weights: str, tag: int, full: bool, pixels: str, size: tuple[int, int]
) -> None:
    (red_weight, blue_weight), (blue, green, red) = LUMA[weights], BGR
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = [(blue - luma) / (2 - 2 * blue_weight), (red - luma) / (2 - 2 * red_weight)]
    scales = (255, 255, 0) if full else (219, 224, 16)
    values = [
        scales[2] + luma * scales[0] / 255,
        *(128 + component * scales[1] / 255 for component in chroma),
    ]
    deep = "10" in pixels
    file = tmp_path / "a.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 1 + full
        stream.codec_context.options = {"crf": "4", "preset": "ultrafast"}
        frame = av.VideoFrame(*size, pixels)
        frame.colorspace, frame.color_range, frame.pts = tag, 1 + full, 0
        for plane, value in zip(frame.planes, values, strict=True):
            samples = np.frombuffer(plane, np.uint16 if deep else np.uint8)
            samples[:] = round(value * (4 if deep else 1))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (picture,) = read(opened(file))
    assert picture.image.reshape(-1, 3).mean(axis=0) == pytest.approx(BGR, abs=2.5)


FASTSTART = {"movflags": "faststart"}


@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("a.mp4", "libx264", FASTSTART),
        ("a.mov", "libx265", FASTSTART),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
        ("a.flv", "flv", {}),
        ("a.asf", "wmv2", {}),
    ],
)
def test_a_file_that_is_cut_off_is_read_as_far_as_it_goes_and_says_so(
    tmp_path: Path, name: str, codec: str, muxer: dict[str, str]
) -> None:
    options = {"libx264": H264, "libx265": H265}.get(codec, {"b": "2M"})
    file = video(tmp_path / name, codec, frames=60, options=options, muxer=muxer)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 6 // 10])
    source = opened(file)
    pictures = read(source)
    frames = [round((picture.media_ns or 0) * RATE / 1e9) for picture in pictures]
    assert [place_of(picture.image) for picture in pictures] == [frame % 12 for frame in frames]
    assert 10 < len(frames) < 50
    assert f"{file}: not read as a whole: " in (skipped(source) or "")


def test_a_file_without_its_last_bytes_is_cut_off(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv", "c.avi"):
        codec, options = ("mpeg4", {}) if name == "c.avi" else ("libx264", H264)
        file = video(tmp_path / name, codec, options=options)
        length = file.stat().st_size
        assert claimed_length(file).claimed_bytes == length
        assert skipped_of(file) is None
        file.write_bytes(file.read_bytes()[:-5])
        assert f"cut off, or still being written: {length - 5} of {length} bytes" in (
            skipped_of(file) or ""
        )


def skipped_of(file: Path) -> str | None:
    source = opened(file)
    read(source)
    return skipped(source)


def test_padding_behind_the_end_is_no_damage(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv"):
        file = video(tmp_path / name)
        file.write_bytes(file.read_bytes() + bytes(5000))
        source = opened(file)
        assert len(read(source)) == 30
        assert skipped(source) is None


def test_a_file_that_is_being_written_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Without a claimed length there is nothing missing; without an index there is nothing."""

    class Part(io.BytesIO):
        def seekable(self) -> bool:
            return False

    written = Part()
    container = av.open(written, "w", format="matroska")
    film = track(container, "libx264", options=H264)
    encode(container, film, ((index, view(index)) for index in range(30)))
    file = tmp_path / "a.mkv"
    file.write_bytes(written.getvalue())
    assert len(read(opened(file))) >= 20
    assert skipped_of(file) is None
    container.close()
    indexless = video(tmp_path / "a.mp4")
    indexless.write_bytes(indexless.read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"a\.mp4: its index is missing.*still being written"):
        opened(indexless)


def damaged(file: Path, packet: int) -> Path:
    """Overwrites one packet but for its head."""
    with av.open(str(file)) as container:
        packets = [entry for entry in container.demux(video=0) if entry.size]
        position, size = packets[packet].pos, packets[packet].size
    data = bytearray(file.read_bytes())
    start, end = (position or 0) + 16, (position or 0) + size
    data[start:end] = np.random.default_rng(5).bytes(max(0, end - start))
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", H264),
        ("a.mp4", "libx264", B_FRAMES),
        ("a.avi", "mjpeg", {}),
        ("a.avi", "mpeg4", {"g": "10", "b": "2M"}),
    ],
)
def test_a_picture_that_never_was_is_not_shown(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    file = damaged(video(tmp_path / name, codec, pixels=pixels, options=options), 10)
    source = opened(file)
    pictures = read(source)
    frames = [round((picture.media_ns or 0) * RATE / 1e9) for picture in pictures]
    assert [place_of(picture.image) for picture in pictures] == [frame % 12 for frame in frames]
    assert {*range(10), *range(20, 30)} <= set(frames)
    assert len(frames) < 30
    assert " damaged (" in (skipped(source) or "")
    shown = read(opened(file, detect_damage=False))
    assert len(shown) >= 29


def test_damage_is_found_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = damaged(video(tmp_path / "a.mp4", options=B_FRAMES), 27)
    configure, results = VideoTrack._configure, []
    for threads in (1, 2, 7, 16):

        def with_threads(self: VideoTrack, threads: int = threads) -> None:
            configure(self)
            if not self._careful:
                self._stream.codec_context.thread_count = threads

        monkeypatch.setattr(VideoTrack, "_configure", with_threads)
        source = opened(file)
        results.append(([picture.media_ns for picture in read(source)], skipped(source)))
    assert all(result == results[0] for result in results)
    assert results[0][1] is not None


CLOSES_EARLY = """
import faulthandler, sys
from pathlib import Path
from node.capture.sources.video_track import VideoTrack
faulthandler.dump_traceback_later(30, exit=True)
for _ in range(200):
    track = VideoTrack(Path(sys.argv[1]))
    track.read()
    track.close()
    del track
"""
"""In a process of its own, since a decoder that waits for its threads may hold Python's lock."""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a single processor needs no threads")
def test_a_stream_that_is_closed_before_its_end_ends_its_threads(tmp_path: Path) -> None:
    file = video(tmp_path / "a.ts", frames=25)
    done = subprocess.run(
        [sys.executable, "-c", CLOSES_EARLY, str(file)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_lost_packets_of_a_transport_stream_are_missed(tmp_path: Path) -> None:
    whole = video(tmp_path / "whole.ts").read_bytes()
    packets = [whole[start : start + 188] for start in range(0, len(whole), 188)]
    starts = [index for index, packet in enumerate(packets) if packet[1] & 0x5F == 0x41]
    holed = packets[: starts[13]] + packets[starts[14] :]
    (tmp_path / "holed.ts").write_bytes(b"".join(holed))
    source = opened(tmp_path / "holed.ts")
    frames = [round((picture.media_ns or 0) * RATE / 1e9) for picture in read(source)]
    assert frames == [*range(13), *range(20, 30)]
    assert "pictures were lost" in (skipped(source) or "")


def test_a_recording_from_the_middle_of_a_stream_is_whole_from_its_first_key_frame(
    tmp_path: Path,
) -> None:
    whole = video(tmp_path / "whole.ts").read_bytes()
    first = 188 * next(index for index in range(20, 999) if whole[188 * index + 1] & 0x5F == 0x41)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(whole[: 188 * 3] + whole[first:])
    source = opened(joined)
    assert len(read(source)) in (10, 20)
    assert skipped(source) is None
    assert "before the first key frame cannot be decoded" in (source.summary() or "")


def test_two_transport_streams_in_one_file_are_both_read(tmp_path: Path) -> None:
    whole = video(tmp_path / "one.ts").read_bytes()
    (tmp_path / "two.ts").write_bytes(whole + whole)
    source = opened(tmp_path / "two.ts")
    positions = [picture.media_ns or 0 for picture in read(source)]
    assert len(positions) == 60
    assert all(earlier < later for earlier, later in itertools.pairwise(positions))
    assert skipped(source) is None


def test_a_video_whose_size_changes_is_read_to_its_end(tmp_path: Path) -> None:
    small = np.ascontiguousarray(view(3)[:32, :48])
    parts = []
    for pictures in ([view(index) for index in range(12)], [small] * 9):
        part = io.BytesIO()
        with av.open(part, "w", format="h264") as container:
            size = pictures[0].shape[1::-1]
            encode(
                container, track(container, "libx264", options=H264, size=size), enumerate(pictures)
            )
        parts.append(part.getvalue())
    file = tmp_path / "a.h264"
    file.write_bytes(b"".join(parts))
    shapes = [picture.image.shape for picture in read(opened(file))]
    assert shapes == [(HEIGHT, WIDTH, 3)] * 12 + [(32, 48, 3)] * 9


def test_positions_are_those_of_a_variable_rate(tmp_path: Path) -> None:
    file = video(tmp_path / "a.mp4", options=B_FRAMES, times=lambda index: index * index)
    positions = [picture.media_ns or 0 for picture in read(opened(file))]
    assert positions == pytest.approx([index * index * 1e9 / RATE for index in range(30)], abs=1e6)
    source = VideoFileSource(file)
    assert source.skip_to(round(100 * 1e9 / RATE)) == 10
    picture = source.read()
    assert picture is not None
    assert place_of(picture.image) == 10


def test_a_video_with_b_frames_loops_and_plays_at_its_rate(tmp_path: Path) -> None:
    file = video(tmp_path / "a.mp4", options=B_FRAMES, frames=13)
    source = RealtimeSource(opened(file, loop=True), threading.Event())
    pictures = [source.read() for _ in range(20)]
    source.close()
    shown = [picture for picture in pictures if picture is not None]
    assert [place_of(picture.image) for picture in shown] == [
        *(index % 12 for index in range(13)),
        *range(7),
    ]
    assert [picture.lap for picture in shown] == [0] * 13 + [1] * 7
    gaps = np.diff([picture.media_ns or 0 for picture in shown])
    assert gaps / 1e9 == pytest.approx([1 / RATE] * 19, abs=2e-3)


def test_what_an_edit_list_leaves_out_is_not_missing(tmp_path: Path) -> None:
    """B-frames make the muxer write one; here it also begins at the fifth frame."""
    file = video(tmp_path / "a.mp4", options={**H264, "g": "30"})
    data = bytearray(file.read_bytes())
    start = data.index(b"elst") + 4
    timescale = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big")
    data[start + 12 : start + 16] = (5 * timescale // RATE).to_bytes(4, "big")
    file.write_bytes(data)
    source = opened(file)
    assert [place_of(picture.image) for picture in read(source)] == [
        index % 12 for index in range(5, 30)
    ]
    assert skipped(source) is None


def test_sound_without_a_film_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    with av.open(str(file), "w") as container:
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for index in range(5):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.rate, frame.pts = 48000, 1024 * index
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(SourceError, match=r"a\.mp4 has no video track; it holds audio"):
        opened(file)


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "live hls": "\n#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
    "dash": '<?xml version="1.0"?>\n<MPD type="static"><BaseURL>{}</BaseURL></MPD>',
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_other_files_opens_none_of_them(tmp_path: Path, kind: str) -> None:
    inside = video(tmp_path / "inside.ts", frames=3)
    for name, path in (("a.mp4", inside.name), ("b.m3u8", f"file://{inside}")):
        text = LISTS[kind].format(path)
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match=rf"{name} is a list of other files, not a video"):
            opened(tmp_path / name)
        # As no text, it reaches FFmpeg.
        (tmp_path / name).write_bytes(text.encode() + b"#\x01\n")
        with pytest.raises(SourceError, match="is not a video that can be read"):
            opened(tmp_path / name)


def test_a_drawing_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text('<?xml version="1.0"?>\n<svg xmlns="x"><image/></svg>')
    with pytest.raises(SourceError, match="is a text, neither a picture nor a video"):
        opened(tmp_path / "a.mp4")


def test_a_video_that_cannot_be_decoded_at_all_is_refused(tmp_path: Path) -> None:
    file = video(tmp_path / "a.mkv", "libvpx", options={"b": "2M"}, frames=6)
    with av.open(str(file)) as container:
        places = [(entry.pos or 0, entry.size) for entry in container.demux(video=0) if entry.size]
    data = bytearray(file.read_bytes())
    for position, size in places:
        data[position + 8 : position + size] = bytes(size - 8)
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r"no picture in it can be decoded \(vp8: "):
        opened(file)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.mp4"])
def test_every_frame_of_an_animated_picture_has_its_time(tmp_path: Path, name: str) -> None:
    frames = [PilImage.fromarray(view(index)[:, :, ::-1]) for index in range(5)]
    kind = "GIF" if name == "a.mp4" else name.split(".")[1].upper()
    durations = [100, 40, 300, 100, 100]
    frames[0].save(
        tmp_path / name, kind, save_all=True, append_images=frames[1:], duration=durations
    )
    source = opened(tmp_path / name)
    pictures = read(source)
    assert [place_of(picture.image) for picture in pictures] == [0, 1, 2, 3, 4]
    starts = np.cumsum([0, *durations[:-1]]) * 1e6
    assert [picture.media_ns for picture in pictures] == pytest.approx(starts)
    assert skipped(source) is None
    looped = opened(tmp_path / name, loop=True)
    assert [looped.read().lap for _ in range(12)] == [0] * 5 + [1] * 5 + [2] * 2  # type: ignore[union-attr]


def test_an_animated_picture_that_is_cut_off_says_so(tmp_path: Path) -> None:
    frames = [PilImage.fromarray(view(index)) for index in range(6)]
    file = tmp_path / "a.gif"
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=100)
    whole = file.read_bytes()
    for end in (len(whole) * 7 // 10, len(whole) - 1):
        file.write_bytes(whole[:end])
        source = opened(file)
        assert 2 <= len(read(source)) <= 6
        assert "copy it again" in (skipped(source) or "")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animated_picture_that_is_damaged_costs_no_more(tmp_path: Path, kind: str) -> None:
    frames = [PilImage.fromarray(view(index)[::4, ::4]) for index in range(3)]
    file = tmp_path / "a.mp4"
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    whole = file.read_bytes()
    chance = random.Random(kind)
    for _ in range(200):
        data = bytearray(whole[: chance.randrange(len(whole)) if chance.random() < 0.5 else None])
        for _ in range(3):
            if data:
                data[chance.randrange(len(data))] = chance.choice(
                    (0, 1, 255, chance.randrange(256))
                )
        file.write_bytes(data)
        with contextlib.suppress(SourceError):
            read(opened(file))


def test_an_animated_picture_in_a_folder_that_is_cut_off_says_so(tmp_path: Path) -> None:
    frames = [PilImage.fromarray(view(index)) for index in range(4)]
    (tmp_path / "photos").mkdir()
    file = tmp_path / "photos" / "a.gif"
    frames[0].save(file, save_all=True, append_images=frames[1:])
    frames[0].save(file.with_name("b.png"))
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.rindex(b"!\xf9")])  # as many frames as there were but one
    source = opened(tmp_path / "photos")
    assert len(read(source)) == 4
    assert "1 is cut off: its end mark is missing" in (skipped(source) or "")


def test_the_first_frame_of_an_animation_waits_for_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.gif"
    frames = [PilImage.fromarray(view(index)) for index in range(2)]
    frames[0].save(file, save_all=True, append_images=frames[1:])
    data = file.read_bytes()
    second = data[data.rindex(b"!\xf9") : -1]
    file.write_bytes(data[:-1] + second * 20_000 + b";")
    began_s = monotonic()
    assert opened(file).read() is not None
    assert monotonic() - began_s < 1


def test_a_still_picture_under_a_video_name_is_one_picture(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        file = tmp_path / f"{kind}.mp4"
        PilImage.fromarray(view(4)[:, :, ::-1]).save(file, kind, quality=95)
        assert [place_of(picture.image) for picture in read(opened(file))] == [4]


def test_a_job_on_a_cut_video_labels_what_is_there_and_ends_with_3(
    in_process: Run, tmp_path: Path, tcp: str
) -> None:
    file = video(tmp_path / "cut.mp4", muxer=FASTSTART, frames=20)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 7 // 10])
    frames = len(read(opened(file)))
    out = tmp_path / "out.jsonl"
    for command in (
        ["replay", file, "--speed", "max", "--jsonl", out],
        ["label", file, "--jsonl", out],
    ):
        out.unlink(missing_ok=True)
        done = in_process(*command)
        assert done.returncode == 3, done.stderr
        assert "it is cut off, or still being written" in done.stderr.splitlines()[-1]
        messages = [json.loads(line) for line in out.read_text().splitlines()]
        assert len([message for message in messages if message["status"] == "ok"]) == frames
    done = in_process("run", "--source", file, "--endpoint", tcp)
    assert done.returncode == 3, done.stderr
    assert "it is cut off, or still being written" in done.stderr.splitlines()[-1]
