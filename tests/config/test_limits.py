"""What claims to be larger than the limits is refused by its header, by every decoder."""

import functools
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import zstandard
from conftest import ROOT, Run
from mcap.writer import CompressionType, Writer
from PIL import Image as PilImage
from support.streams import ByteServer, part

from node.capture.sources.base import Incomplete
from node.capture.sources.image_files import read_image
from node.capture.sources.open import open_source
from node.capture.sources.video_file import VideoFileSource
from node.config.load import load_config
from node.config.schema import CameraConfig
from node.errors import ConfigError, PictureError, SourceError
from node.image import limits
from node.image.frame import Stamp
from node.image.h26x.decoder import EncodedPacket, VideoDecoder
from node.image.jpeg import decode_jpeg, encode_jpeg
from node.image.limits import Limits, set_limits
from perception_client.recordings.mcap_file import open_chunked
from perception_client.recordings.unpack import unpacked

sys.path.append(str(ROOT / "scripts" / "faults" / "hostile"))

import bombs

NOISE = np.random.default_rng(7).integers(0, 255, (48, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def same_limits() -> Iterator[None]:
    """Limits are the process's, and commands set them."""
    before = limits.limits()
    yield
    set_limits(before)


@pytest.mark.parametrize(("width", "height"), [(16383, 16383), (8400, 8400), (16000, 4400)])
@pytest.mark.parametrize("suffix", bombs.PICTURES)
def test_a_picture_that_claims_to_be_huge_is_refused(
    tmp_path: Path, suffix: str, width: int, height: int
) -> None:
    file = tmp_path / f"photo{suffix}"
    file.write_bytes(bombs.PICTURES[suffix](width, height))
    with pytest.raises(PictureError, match=r"photo\..* limits\.max_pixels = 70000000; raise it if"):
        read_image(file)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_refused_before_it_is_decoded(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.mp4"
    frames = [PilImage.fromarray(np.roll(NOISE, shift, 0)) for shift in (0, 5)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], lossless=True)
    data = bytearray(file.read_bytes())
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", 9000, 9000)
    else:
        at = data.index(b"VP8X") + 12
        data[at : at + 6] = (8999).to_bytes(3, "little") * 2
    file.write_bytes(data)
    with pytest.raises(PictureError, match=r"9000 x 9000 .* limits\.max_pixels"):
        open_source(CameraConfig(source=str(file)))
    # Pillow reads a WebP as a whole to open it.
    with file.open("r+b") as opened:
        opened.truncate(201 << 20)
    source = open_source(CameraConfig(source=str(file)))
    assert source.read() is None
    assert isinstance(source, Incomplete)
    assert "201 MiB are more than limits.max_picture_mb" in (source.skipped or "")


def test_a_jpeg_of_a_camera_or_a_recording_is_held_to_the_same() -> None:
    with pytest.raises(PictureError, match="65500 x 65500 pixels are more than"):
        decode_jpeg(bombs.jpeg(65500, 65500))
    set_limits(Limits(max_pixels=64 * 48))
    assert decode_jpeg(encode_jpeg(NOISE, 90)).shape == (48, 64, 3)
    set_limits(Limits(max_pixels=64 * 48 - 1))
    with pytest.raises(PictureError, match=r"64 x 48 .* limits\.max_pixels = 3071"):
        decode_jpeg(encode_jpeg(NOISE, 90))


def test_bytes_have_a_limit_too(tmp_path: Path) -> None:
    set_limits(Limits(max_picture_mb=1))
    jpeg = encode_jpeg(NOISE, 90) + bytes(1 << 20)
    with pytest.raises(PictureError, match=r"1 MiB are more than limits\.max_picture_mb = 1"):
        decode_jpeg(jpeg)
    (tmp_path / "a.bmp").write_bytes(jpeg)
    with pytest.raises(PictureError, match=r"a\.bmp: .* limits\.max_picture_mb = 1"):
        read_image(tmp_path / "a.bmp")
    with pytest.raises(PictureError, match=r"limits\.max_picture_mb"):
        VideoDecoder("h264", b"").decode(EncodedPacket(jpeg, Stamp.now(), is_key=True))


def test_a_picture_may_be_as_large_as_is_allowed(tmp_path: Path) -> None:
    """Pillow's own bound, of 179 million pixels, is raised where ours is."""
    file = tmp_path / "wide.png"
    PilImage.new("1", (20_000, 9_000)).save(file)
    with pytest.raises(PictureError, match=r"limits\.max_pixels"):
        read_image(file)
    (tmp_path / "claim.png").write_bytes(bombs.png(20_000, 9_000))
    set_limits(Limits(max_pixels=180_000_000))
    with pytest.raises(SourceError) as caught:  # it is allowed, and its rows are missing
        read_image(tmp_path / "claim.png")
    assert "limits" not in str(caught.value)


def test_many_scans_are_no_way_round(tmp_path: Path) -> None:
    bomb = bombs.jpeg_of_scans(4096, 2160, 60)
    (tmp_path / "scans.jpg").write_bytes(bomb)
    reason = r"4096 x 2160 pixels in 70 scans would take seconds"
    with pytest.raises(PictureError, match=reason):
        decode_jpeg(bomb)
    with pytest.raises(PictureError, match=reason):
        read_image(tmp_path / "scans.jpg")


def test_scans_of_a_preview_are_not_counted(tmp_path: Path) -> None:
    preview = bombs.jpeg_of_scans(16, 16, 200)
    PilImage.new("RGB", (2048, 2048)).save(tmp_path / "a.jpg", progressive=True)
    picture = (tmp_path / "a.jpg").read_bytes()
    segment = b"\xff\xe2" + struct.pack(">H", len(preview) + 2) + preview
    assert decode_jpeg(picture[:2] + segment + picture[2:]).shape == (2048, 2048, 3)
    assert decode_jpeg(picture + preview).shape == (2048, 2048, 3)


def test_only_the_formats_of_pictures_are_read(tmp_path: Path) -> None:
    """Pillow would have Ghostscript run what is in this one."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(SourceError, match="is not a picture that can be read"):
        read_image(tmp_path / "a.jpg")


def test_a_pipe_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(SourceError, match="is not a regular file"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(("width", "height"), [(16128, 16128), (9600, 8000)])
def test_a_video_that_claims_to_be_huge_is_refused(tmp_path: Path, width: int, height: int) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(bombs.h264(width, height))
    with pytest.raises(SourceError, match=rf"{width} x {height} pixels are more than limits"):
        VideoFileSource(file)
    file.write_bytes(bombs.h264(64, 64))
    picture = VideoFileSource(file).read()
    assert picture is not None
    assert picture.image.shape == (64, 64, 3)


def test_a_stream_that_becomes_huge_is_damaged_there() -> None:
    units = [
        b"\0\0\0\1" + content
        for content in bombs.h264(16128, 16128, after=1).split(b"\0\0\0\1")[1:]
    ]
    starts = [index for index, unit in enumerate(units) if unit[4] & 31 == 7]
    frames = [
        b"".join(units[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]
    decoder = VideoDecoder("h264", b"")
    assert decoder.decode(EncodedPacket(frames[0], Stamp.now(), is_key=True))
    with pytest.raises(PictureError, match="a picture is damaged"):
        decoder.decode(EncodedPacket(frames[1], Stamp.now(), is_key=True))


def test_a_camera_with_a_huge_picture_goes_on() -> None:
    good = [encode_jpeg(np.roll(NOISE, shift, 0), 90) for shift in range(20)]
    sent = [part(jpeg) for jpeg in [*good[:4], bombs.jpeg(50_000, 50_000), *good[4:]]]
    server = ByteServer(*[(0.05, body) for body in sent])
    try:
        source = open_source(CameraConfig(source=server.url, discard_backlog=False))
        shapes: list[object] = []
        while len(shapes) < 8:
            try:
                picture = source.read()
                shapes.append(None if picture is None else picture.image.shape)
            except PictureError as error:
                shapes.append("refused" if "50000 x 50000 pixels are more" in str(error) else error)
        source.close()
    finally:
        server.close()
    assert shapes.count("refused") == 1
    assert shapes[-1] == (48, 64, 3)


ZEROS = functools.cache(lambda: bombs.zeros(1))


@pytest.mark.parametrize(
    ("compression", "packed", "length", "reason"),
    [
        ("zstd", ZEROS, 1000, "it declares 1000 bytes, and contains a different number"),
        ("zstd", ZEROS, 1 << 30, r"a chunk of 1024 MiB is longer than limits\.max_chunk_mb = 64"),
        (
            "zstd",
            lambda: zstandard.compress(bytes(1 << 26)),
            9,
            "it declares 9 bytes, and contains",
        ),
        ("lz4", lambda: lz4.frame.compress(bytes(1 << 27)), 9, "it declares 9 bytes, and contains"),
        ("", lambda: bytes(50), 60, "it declares 60 bytes, and contains a different number"),
        ("rar", lambda: bytes(50), 50, "compressed with 'rar', which is not supported; convert"),
        (
            "zstd",
            lambda: zstandard.compress(struct.pack("<BQHIQQ", 5, 22, 1, 0, 0, 0) * 510_000),
            31 * 510_000,
            "a chunk of more than 500000 records",
        ),
    ],
)
def test_a_chunk_that_claims_to_be_huge_is_left_out(
    tmp_path: Path, compression: str, packed: object, length: int, reason: str
) -> None:
    assert callable(packed)
    (tmp_path / "a.mcap").write_bytes(bombs.chunk(compression, packed(), length))
    with pytest.raises(SourceError, match=reason):
        open_chunked(tmp_path / "a.mcap")


def test_an_honest_chunk_is_unpacked() -> None:
    content = os.urandom(3 << 20)
    unsized = zstandard.ZstdCompressor(write_content_size=False)
    for compression, packed in (
        ("zstd", zstandard.compress(content)),
        ("zstd", unsized.compress(content)),
        ("lz4", lz4.frame.compress(content)),
        ("", content),
    ):
        assert unpacked(compression, packed, len(content)) == content


def test_text_that_is_nested_without_end_is_one_line(tmp_path: Path, in_process: Run) -> None:
    deep = tmp_path / "deep"
    deep.write_text("a = " + "[" * 100_000)
    done = in_process("config", "check", deep)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr[-300:]
    deep.write_text("[" * 100_000)
    done = in_process("replay", "none.avi", "--expect", deep)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr[-300:]


def test_commands_for_recordings_take_a_limit(tmp_path: Path, in_process: Run) -> None:
    file = tmp_path / "a.mcap"
    with file.open("wb") as stream:
        writer = Writer(stream, chunk_size=3 << 20, compression=CompressionType.ZSTD)
        writer.start()
        channel = writer.register_channel("data/", "json", writer.register_schema("a", "", b""))
        writer.add_message(channel, 1, os.urandom(3 << 20), 1)
        writer.finish()
    file.write_bytes(file.read_bytes()[:-40])
    done = in_process("recover", file, "--set", "limits.max_chunk_mb=2")
    assert done.returncode == 3
    assert "a chunk of 3 MiB is longer than limits.max_chunk_mb = 2; raise it" in done.stderr
    for command in (["report", file], ["export", "jsonl", file, "-"]):
        done = in_process(command[0], "--set", "limits.max_chunk_mb=2", *command[1:])
        assert "is longer than limits.max_chunk_mb = 2" in done.stderr
    done = in_process("recover", file)
    assert done.returncode == 0
    assert "1 records" in done.stdout


def test_a_command_leaves_out_what_is_too_large_and_goes_on(
    tmp_path: Path, in_process: Run
) -> None:
    PilImage.fromarray(NOISE).save(tmp_path / "good.png")
    (tmp_path / "huge.jpg").write_bytes(bombs.jpeg(30_000, 30_000))
    done = in_process("label", tmp_path)
    assert done.returncode == 3
    assert "huge.jpg: claims more pixels than limits.max_pixels = 70000000" in done.stderr
    assert "1 labelled, 1 of 2 files skipped" in done.stderr
    done = in_process("label", tmp_path, "--set", "limits.max_pixels=2000")
    assert done.returncode == 3
    assert "good.png: 64 x 48 pixels are more than limits.max_pixels = 2000" in done.stderr


@pytest.mark.parametrize("key", ["max_pixels", "max_picture_mb", "max_chunk_mb"])
def test_the_limits_have_a_range(key: str) -> None:
    assert getattr(load_config(settings=[f"limits.{key}=2048"]).limits.limits, key) == 2048
    for value in ("0", "-1", "1e300", "true", "9999999999"):
        with pytest.raises(ConfigError, match=rf"limits\.{key} = "):
            load_config(settings=[f"limits.{key}={value}"])
