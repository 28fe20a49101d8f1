"""Recordings that other programs wrote: whatever the MCAP format allows is read, or one line names
what is not."""

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Run
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from mcap.writer import CompressionType, IndexType, Writer
from rosbags import rosbag2 as bags
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore
from support import foreign
from support.foreign import LATE_NS, STEP_NS, Channel, Record, at, picture, raw, records, still

from node.errors import PictureError, SourceError
from node.image.limits import Limits, set_limits
from node.recording.reader import Recording
from node.recording.recover import is_whole
from node.recording.runs import open_recording
from perception_client.recordings.mcap_file import open_chunked

PROTOBUF = Channel("/arm/image", "foxglove.CompressedImage", "protobuf")
JSON = Channel("/arm/image", "foxglove.CompressedImage", "json")
CHAT = Channel("/chat", "std_msgs/String", "cdr")


def jpegs(count: int = 10) -> Iterator[Record]:
    return records(PROTOBUF, still("protobuf"), count)


def numbers(path: Path) -> list[int]:
    return [frame.frame_id for frame in Recording([path]).frames()]


LAYOUTS: dict[str, dict[str, Any]] = {
    "as usual": {},
    "lz4": {"compression": CompressionType.LZ4},
    "not compressed": {"compression": CompressionType.NONE},
    "a chunk for each picture": {"chunk_size": 1},
    "no definitions in the index": {"repeat_channels": False, "repeat_schemas": False},
    "no schemas in the index": {"repeat_schemas": False},
    "no definitions in the index, and chunks of one picture": {
        "repeat_channels": False, "repeat_schemas": False, "chunk_size": 1, "use_statistics": False,
        "index_types": IndexType.CHUNK,
    },
    "no chunks": {"use_chunking": False},
    "no chunks and no index": {"use_chunking": False, "index_types": IndexType.NONE,
                               "use_statistics": False, "repeat_channels": False,
                               "repeat_schemas": False, "use_summary_offsets": False},
    "no index": {"index_types": IndexType.NONE},
    "nothing after the chunks": {"index_types": IndexType.NONE, "use_statistics": False,
                                 "repeat_channels": False, "repeat_schemas": False,
                                 "use_summary_offsets": False},
    "no index of messages": {"index_types": IndexType.CHUNK},
    "no checksums": {"enable_crcs": False},
    "no statistics": {"use_statistics": False, "use_summary_offsets": False},
}  # fmt: skip


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    path = foreign.write(tmp_path / "a.mcap", jpegs(), **options)
    assert numbers(path) == list(range(10))
    assert Recording([path]).problems == ()
    assert is_whole(path)


@pytest.mark.parametrize("options", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_of_a_file_that_was_cut_off_the_rest_is_read(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = foreign.write(tmp_path / "a.mcap", jpegs(40), **{"chunk_size": 4000, **options})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    kept = numbers(path)
    assert kept == list(range(len(kept)))
    assert len(kept) > 15
    assert "it was cut off" in " ".join(Recording([path]).problems)


def test_messages_between_chunks_and_chunks_without_an_index_are_read(tmp_path: Path) -> None:
    """The index of this file names its first chunk alone, and is valid."""
    both = list(jpegs())
    base = foreign.write(tmp_path / "one.mcap", both[:4]).read_bytes()
    data_end, footer = base.index(bytes([15, 4, 0, 0, 0])), base[-8 - 29 : -8]
    loose = foreign.write(tmp_path / "l.mcap", both[4:7], use_chunking=False).read_bytes()
    other = foreign.write(tmp_path / "o.mcap", both[7:]).read_bytes()

    def data(content: bytes) -> bytes:
        head = 8 + 9 + int.from_bytes(content[9:17], "little")
        return content[head : content.index(bytes([15, 4, 0, 0, 0]))]

    added = data(loose) + data(other)
    summary = base[data_end + 13 : -8 - 29]  # it is where it was, but for what was added
    start = data_end + 13 + len(added)
    foot = footer[:9] + start.to_bytes(8, "little") + bytes(8)
    foot += zlib.crc32(summary + foot).to_bytes(4, "little")
    path = tmp_path / "both.mcap"
    path.write_bytes(
        base[:data_end] + added + base[data_end : data_end + 13] + summary + foot + base[-8:]
    )
    assert open_chunked(path).whole
    assert numbers(path) == list(range(10))


def test_what_lies_before_the_pictures_is_no_obstacle(tmp_path: Path) -> None:
    for chunking in (True, False):
        path = tmp_path / f"{chunking}.mcap"
        with path.open("wb") as stream:
            writer = Writer(stream, use_chunking=chunking)
            writer.start(library="another program")
            writer.add_attachment(1, 1, "map.pgm", "image/x-portable-graymap", bytes(300_000))
            writer.add_metadata("robot", {"name": "arm"})
            foreign.add(writer, jpegs())
            writer.add_attachment(2, 2, "log.txt", "text/plain", b"end")
            writer.finish()
        assert numbers(path) == list(range(10))


def test_records_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    shuffled = [list(jpegs(12))[index] for index in (3, 0, 1, 7, 2, 11, 5, 4, 10, 6, 9, 8)]
    for options in ({}, {"chunk_size": 2000}, {"use_chunking": False}):
        path = foreign.write(tmp_path / "a.mcap", shuffled, **options)
        frames = list(Recording([path]).frames())
        assert [frame.media_ns for frame in frames] == [n * STEP_NS for n in range(12)]
        assert [frame.frame_id for frame in frames] == list(range(12))


def test_pictures_that_are_equal_are_several(tmp_path: Path) -> None:
    """A program may leave every time and every number at 0, and a scene may stand still."""
    same = still("protobuf")(0)
    path = foreign.write(tmp_path / "a.mcap", [Record(PROTOBUF, 0, same)] * 10)
    assert numbers(path) == list(range(10))


def test_a_topic_may_have_several_channels(tmp_path: Path) -> None:
    parts = [list(jpegs()), list(records(JSON, still("json")))]
    path = foreign.write(tmp_path / "a.mcap", [parts[n % 2][n] for n in range(10)])
    assert Recording([path]).cameras == ("arm",)
    assert numbers(path) == list(range(10))


def test_topics_that_differ_are_different_cameras(tmp_path: Path) -> None:
    topics = ("/left cam/image", "/left-cam/image", "/" + "x" * 90 + "/1", "/" + "x" * 90 + "/2")
    kinds = [Channel(topic, PROTOBUF.schema, "protobuf") for topic in topics]
    path = foreign.write(
        tmp_path / "a.mcap", chain(*(records(kind, still("protobuf"), 3) for kind in kinds))
    )
    cameras = Recording([path]).cameras
    assert len(set(cameras)) == 4
    assert {"left-cam", "left-cam_2"} < set(cameras)
    assert max(map(len, cameras)) <= 64
    assert len(numbers(path)) == 12


def yuv(conversion: int) -> Callable[[Any], Any]:
    return lambda image: cv2.cvtColor(image, conversion)


def mosaic(image: Any) -> Any:
    """Red at the corner."""
    cells = image[:, :, 1].copy()
    cells[0::2, 0::2] = image[0::2, 0::2, 2]
    cells[1::2, 1::2] = image[1::2, 1::2, 0]
    return cells


def gray16(image: Any) -> Any:
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype("<u2") * 257
    return gray.view(np.uint8)


FORMS: dict[str, tuple[str, str, Any]] = {
    "protobuf jpeg": ("foxglove.CompressedImage", "protobuf", still("protobuf")),
    "protobuf png": ("foxglove.CompressedImage", "protobuf", still("protobuf", ".png")),
    "protobuf webp": ("foxglove.CompressedImage", "protobuf", still("protobuf", ".webp")),
    "json jpeg": ("foxglove.CompressedImage", "json", still("json")),
    "json png, which says jpeg": (
        "foxglove.CompressedImage", "json", still("json", ".png", "jpeg")),
    "json raw": ("foxglove.RawImage", "json", raw("json", "bgr8", lambda image: image)),
    "ros 2 jpeg": ("sensor_msgs/msg/CompressedImage", "cdr",
                   still("cdr", ".jpg", "bgr8; jpeg compressed bgr8")),
    "ros 2 png": ("sensor_msgs/msg/CompressedImage", "cdr",
                  still("cdr", ".png", "rgb8; png compressed bgr8")),
    "ros 2 of foxglove": ("foxglove_msgs/msg/CompressedImage", "cdr", still("foxglove cdr")),
    "ros 2 raw of foxglove": ("foxglove_msgs/msg/RawImage", "cdr",
                              raw("foxglove cdr", "bgr8", lambda image: image)),
    "ros 1 jpeg": ("sensor_msgs/CompressedImage", "ros1", still("ros1")),
    "ros 1 raw": ("sensor_msgs/Image", "ros1",
                  raw("ros1", "rgb8", lambda image: image[:, :, ::-1])),
    "idl": ("sensor_msgs::msg::CompressedImage", "cdr", still("cdr")),
    "rgb8": ("sensor_msgs/msg/Image", "cdr", raw("cdr", "rgb8", lambda image: image[:, :, ::-1])),
    "bgr8, padded": ("sensor_msgs/msg/Image", "cdr", raw("cdr", "bgr8", lambda image: image, 24)),
    "bgra8": ("foxglove.RawImage", "protobuf",
              raw("protobuf", "bgra8", yuv(cv2.COLOR_BGR2BGRA))),
    "rgba8": ("foxglove.RawImage", "protobuf",
              raw("protobuf", "rgba8", yuv(cv2.COLOR_BGR2RGBA))),
    "mono8": ("sensor_msgs/msg/Image", "cdr", raw("cdr", "mono8", yuv(cv2.COLOR_BGR2GRAY))),
    "mono16": ("sensor_msgs/msg/Image", "cdr", raw("cdr", "mono16", gray16)),
    "yuyv": ("foxglove.RawImage", "protobuf",
             raw("protobuf", "yuyv", yuv(cv2.COLOR_BGR2YUV_YUYV))),
    "uyvy": ("sensor_msgs/msg/Image", "cdr", raw("cdr", "yuv422", yuv(cv2.COLOR_BGR2YUV_UYVY))),
    "bayer": ("sensor_msgs/msg/Image", "cdr", raw("cdr", "bayer_rggb8", mosaic)),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_picture_is_read(tmp_path: Path, form: str) -> None:
    schema, encoding, payload = FORMS[form]
    channel = Channel("/arm/image", schema, encoding)
    path = foreign.write(tmp_path / "a.mcap", records(channel, payload, 4))
    frames = list(Recording([path]).frames())
    assert [frame.frame_id for frame in frames] == [0, 1, 2, 3]
    assert [frame.stamp_ns for frame in frames] == [
        at(n) for n in range(4)
    ]  # the capture's, not the log's
    for number, frame in enumerate(frames):
        expected = picture(number)
        if form.startswith("mono"):
            expected = cv2.cvtColor(cv2.cvtColor(expected, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        inside = np.s_[4:-4, 4:-4]  # a mosaic has no neighbours at its border
        difference = np.abs(frame.image()[inside].astype(int) - expected[inside])
        assert np.median(difference) < 6
        assert difference.mean() < 9
        assert frame.jpeg.startswith(b"\xff\xd8")


def test_a_time_that_is_missing_is_that_of_the_record(tmp_path: Path) -> None:
    def payload(number: int) -> bytes:
        content = json.loads(still("json")(number))
        return json.dumps({"format": "jpeg", "data": content["data"]}).encode()

    path = foreign.write(tmp_path / "a.mcap", records(JSON, payload, 3))
    assert [frame.stamp_ns for frame in Recording([path]).frames()] == [
        at(n) + LATE_NS for n in range(3)
    ]


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx264", "h264", {"g": "4"}),
        ("libx264", "h264", {"g": "100", "tune": "film", "bf": "3"}),
        ("libx264", "h264", {"g": "6", "x264-params": "repeat-headers=1:slices=3"}),
        ("libx265", "h265", {"g": "4", "x265-params": "log-level=none:bframes=0"}),
    ],
)
def test_a_video_is_read_picture_by_picture(
    tmp_path: Path, codec: str, name: str, options: dict[str, str]
) -> None:
    try:
        packets = foreign.video(codec, 12, **options)
    except Exception as error:
        pytest.skip(f"this build of FFmpeg cannot encode it ({error})")
    channel = Channel("/arm/video", "foxglove.CompressedVideo", "protobuf")
    path = foreign.write(tmp_path / "a.mcap", records(channel, foreign.of_video(packets, name), 12))
    recording = Recording([path])
    means = [int(frame.image()[:, :, 2].mean()) for frame in recording.frames()]
    shown = [round((mean - 40) / 7) for mean in means]
    assert sorted(shown) == list(range(12))
    if "bf" not in options:
        assert shown == list(range(12))
    start_ns = recording.start_ns + 7 * STEP_NS  # in the middle of a group
    frames = list(recording.frames(start_ns))
    assert [frame.frame_id for frame in frames] == [7, 8, 9, 10, 11]
    assert [int(frame.image()[:, :, 2].mean()) for frame in frames] == means[7:]
    late = list(recording.frames())
    assert [int(frame.image()[:, :, 2].mean()) for frame in reversed(late)] == means[::-1]


def test_a_video_without_its_beginning_shows_no_picture_that_never_was(tmp_path: Path) -> None:
    packets = foreign.video("libx264", 12, g="5", sc_threshold="0")[2:]
    channel = Channel("/arm/video", "foxglove.CompressedVideo", "protobuf")
    path = foreign.write(
        tmp_path / "a.mcap", records(channel, foreign.of_video(packets, "h264"), 10)
    )
    frames = list(Recording([path]).frames())
    assert len(frames) == 10
    for frame in frames[:3]:
        with pytest.raises(PictureError, match="no key frame of the video comes before the pictur"):
            frame.image()
    whole = [round((int(frame.image()[:, :, 2].mean()) - 40) / 7) for frame in frames[3:]]
    assert whole == list(range(5, 12))


UNSUPPORTED: dict[str, tuple[Channel, bytes, str]] = {
    "message encoding": (
        Channel("/a/b", "foxglove.CompressedImage", "cbor"), b"x",
        "(foxglove.CompressedImage, cbor)"),
    "depth": (
        Channel("/depth", "sensor_msgs/msg/Image", "cdr"),
        raw("cdr", "16UC1", lambda image: image[:, :, :2])(0),
        "(sensor_msgs/msg/Image, cdr, encoding '16UC1')"),
    "compressed depth": (
        Channel("/depth", "sensor_msgs/msg/CompressedImage", "cdr"),
        still("cdr", ".png", "16UC1; compressedDepth png")(0),
        "(sensor_msgs/msg/CompressedImage, cdr, format '16UC1; compressedDepth png')"),
    "codec": (
        Channel("/v", "foxglove.CompressedVideo", "protobuf"),
        foreign.of_video([b"\x0a\x0b"], "av1")(0),
        "(foxglove.CompressedVideo, protobuf, format 'av1')"),
    "another transport": (
        Channel("/v", "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "cdr"), b"x",
        "(ffmpeg_image_transport_msgs/msg/FFMPEGPacket, cdr)"),
}  # fmt: skip


@pytest.mark.parametrize(("channel", "data", "form"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_a_form_that_is_not_supported_is_named(
    in_process: Run, tmp_path: Path, channel: Channel, data: bytes, form: str
) -> None:
    """Alone, and beside pictures that are."""
    odd = [Record(channel, at(2), data)]
    path = foreign.write(tmp_path / "a.mcap", odd)
    done = in_process("report", path)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    problem = f"{path}: {channel.topic}: pictures of this form are not supported {form}"
    assert problem in line
    path = foreign.write(tmp_path / "b.mcap", [*jpegs(), *odd], chunk_size=1)
    done = in_process("report", path)
    assert done.returncode == 3
    assert "name the cameras to read with --camera: arm" in done.stderr
    done = in_process("report", path, "--camera", "arm")
    assert done.returncode == 0, done.stderr


def test_a_camera_is_chosen_for_every_command(in_process: Run, tmp_path: Path) -> None:
    other = Channel("/rear/image", PROTOBUF.schema, "protobuf")
    both = [*jpegs(), *records(other, still("protobuf"), 6)]
    path = foreign.write(tmp_path / "a.mcap", both)
    done = in_process(
        "replay", path, "--speed", "max", "--camera", "rear", "--jsonl", "-", "--runtime", "torch"
    )
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["camera"] for line in done.stdout.splitlines()} == {"rear"}
    assert len(done.stdout.splitlines()) == 6
    for command in (["report", path], ["export", "ros2", path, tmp_path / "bag"],
                    ["export", "coco", path, tmp_path / "set"], ["replay", path]):  # fmt: skip
        done = in_process(*command, "--camera", "front")
        assert done.returncode == 3
        assert f"{path}: no camera 'front'; cameras: arm, rear" in done.stderr


def test_channels_without_a_schema(in_process: Run, tmp_path: Path) -> None:
    """Compressed pictures are recognised by their content; anything else is no picture."""
    for payload, encoding in ((still("json"), "json"), (still("protobuf"), "protobuf"),
                              (still("cdr"), "cdr")):  # fmt: skip
        odd = records(Channel("/arm/image", "", encoding), payload, 5)
        text = Record(Channel("/text", "", "json"), at(0), b'{"data": "hello"}')
        path = foreign.write(tmp_path / f"{encoding}.mcap", [text, *odd])
        assert numbers(path) == list(range(5))
        assert Recording([path]).cameras == ("arm",)
    path = foreign.write(tmp_path / "text.mcap", [text])
    done = in_process("replay", path)
    assert done.returncode == 3
    assert f"{path} holds no pictures; its topics: /text (no schema, json)" in done.stderr


def test_damaged_records_cost_themselves_and_are_told(tmp_path: Path) -> None:
    bad: dict[Channel, tuple[bytes, ...]] = {
        JSON: (b"{", b"[]", b'{"format": 1}', b'{"data": "?"}', b'{"data": [300]}', b"[" * 9999,
               b'{"header": 7, "data": ""}'),
        PROTOBUF: (b"\xff\xff",),
        Channel("/arm/image", "sensor_msgs/msg/CompressedImage", "cdr"): (
            b"", b"\x00\x01", bytes(9)),
        Channel("/arm/image", "sensor_msgs/Image", "ros1"): (b"\x01",),
    }  # fmt: skip
    for channel, contents in bad.items():
        for content in contents:
            odd = Record(channel, at(4) + LATE_NS + 1, content)
            path = foreign.write(tmp_path / "a.mcap", [*jpegs(), odd])
            recording = Recording([path])
            assert [frame.frame_id for frame in recording.frames()] == [
                0, 1, 2, 3, 4, 6, 7, 8, 9, 10
            ]  # fmt: skip
            (problem,) = recording.problems
            assert problem.startswith("/arm/image: a picture is skipped: ")


@pytest.mark.parametrize(
    "changes",
    [{"width": 0}, {"height": 10**6}, {"step": 1}, {"width": 2**31}, {"data": ""}, {"step": 2**31}],
)
def test_a_raw_picture_that_cannot_be_is_an_error_of_ours(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    def payload(number: int) -> bytes:
        content = json.loads(raw("json", "bgr8", lambda image: image)(number))
        return json.dumps({**content, **changes}).encode()

    path = foreign.write(
        tmp_path / "a.mcap", records(Channel("/a", "foxglove.RawImage", "json"), payload, 1)
    )
    (frame,) = Recording([path]).frames()
    with pytest.raises(SourceError):
        frame.image()


def test_what_is_beyond_a_limit_is_an_error_and_no_damage(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3 << 20)
    big = Record(CHAT, at(5), noise)
    for name, options in (("chunk", {}), ("record", {"use_chunking": False})):
        path = foreign.write(tmp_path / f"{name}.mcap", [*jpegs(), big], **options)
        assert numbers(path) == list(range(10))
        set_limits(Limits(max_chunk_mb=2))
        try:
            with pytest.raises(SourceError, match=r"longer than limits\.max_chunk_mb = 2; raise"):
                numbers(path)
        finally:
            set_limits(Limits())


def test_a_compression_that_is_not_known_is_named(tmp_path: Path) -> None:
    path = foreign.write(tmp_path / "a.mcap", jpegs(), enable_crcs=False)
    path.write_bytes(path.read_bytes().replace(b"\x04\0\0\0zstd", b"\x04\0\0\0lzma"))
    with pytest.raises(SourceError, match="compressed with 'lzma', which is not supported; conv"):
        numbers(path)


def test_a_command_that_skipped_something_does_the_rest_and_ends_with_3(
    in_process: Run, tmp_path: Path
) -> None:
    """A file that was cut off holds no more than was read of it."""
    good = list(jpegs())
    damaged = CompressedImage(format="jpeg", data=foreign.coded(3)[:500])
    bad = Record(PROTOBUF, good[3].log_ns, damaged.SerializeToString())
    path = foreign.write(tmp_path / "a.mcap", [*good[:3], bad, *good[4:]])
    replay = ["replay", path, "--speed", "max", "--jsonl", "-", "--runtime", "torch"]
    for command in (["report", path], ["export", "video", path, tmp_path / "a.mp4"], replay):
        done = in_process(*command)
        assert done.returncode == 3, done.stderr
        summary = (
            "9 labelled, 1 damaged frames skipped" if command[0] == "replay" else "were skipped: "
        )
        assert summary in done.stderr.splitlines()[-1]
    assert len(done.stdout.splitlines()) == 9
    assert Path(path.with_suffix(".html")).exists()
    assert (tmp_path / "a.mp4").exists()
    path.write_bytes(foreign.write(tmp_path / "b.mcap", good, chunk_size=1).read_bytes()[:-900])
    done = in_process("report", path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", [None, CompressionMode.MESSAGE])
def test_a_bag_of_ros_2_is_read(tmp_path: Path, mode: CompressionMode | None) -> None:
    types = get_typestore(Stores.ROS2_HUMBLE)
    kind = "sensor_msgs/msg/CompressedImage"
    bag = bags.Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    if mode is not None:
        bag.set_compression(mode, CompressionFormat.ZSTD)
    with bag:
        connection = bag.add_connection("/cam/compressed", kind, typestore=types)
        for record in records(Channel("", kind, "cdr"), still("cdr"), 5):
            bag.write(connection, record.log_ns, record.data)
    opened = open_recording(str(tmp_path / "bag"))
    assert opened is not None
    assert opened.recording.cameras == ("cam_compressed",)
    frames = list(opened.recording.frames())
    assert [frame.stamp_ns for frame in frames] == [at(n) for n in range(5)]
    assert frames[4].image().shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.mcap.zstd", "is packed; unpack it: zstd -d a.mcap.zstd"),
        (
            "a_0.db3",
            "is a bag of ROS, and no MCAP file; convert it: rosbags-convert --src {0} --dst",
        ),
        ("a.bag", "is a bag of ROS, and no MCAP file; convert it: rosbags-convert --src {0}/a.bag"),
    ],
)
def test_a_bag_in_another_format_is_named(
    in_process: Run, tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / name).write_bytes(b"whatever")
    (tmp_path / "metadata.yaml").touch()
    for source in (tmp_path / name, tmp_path):
        for command in ("replay", "report"):
            done = in_process(command, source)
            assert done.returncode == 3
            assert f"{tmp_path / name} {reason.format(tmp_path)}" in done.stderr
