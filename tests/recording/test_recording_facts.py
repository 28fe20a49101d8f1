"""What a recording says beside its pictures may be of the wrong type, absurd or missing: each
reader leaves it out and says so, or ends with an error of its own."""

import contextlib
import functools
import itertools
import json
import operator
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.config.schema import NodeConfig
from node.errors import MessageError, PerceptionError
from node.image.frame import Frame, Stamp
from node.image.jpeg import encode_jpeg
from node.recording.encode import config_entry, frame_entries, message_entries
from node.recording.export.media import (
    Choice,
    write_coco,
    write_image_folder,
    write_jsonl,
)
from node.recording.export.ros2 import write_bag
from node.recording.export.video import write_video
from node.recording.facts import read_configuration, read_frame_facts
from node.recording.in_force import in_force
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.recording.recover import recover
from node.recording.report import report
from node.replay.sources import RecordingReplay, Span, looped
from perception_client.messages.calibration import Calibration
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import (
    Box,
    Detection,
    EventMessage,
    HealthMessage,
    ImageSize,
    InfoMessage,
    Label,
    LabelsMessage,
    Message,
    ModelInfo,
    Status,
    Timing,
)
from perception_client.recordings.facts import read_message
from perception_client.recordings.records import Channel, Entry
from perception_client.testing.recorded import RecordedLabels

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
FRAMES = 4
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
JPEG = encode_jpeg(IMAGE, 90)
MODEL = ModelInfo("m", "detect", "torch", "fp32", "cpu", "digest")

ABSURD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400, 1.5, 1e300, -1e300,
    float("nan"), float("inf"), "", "x", "7", "a\0b", "../../x", "\ud800", "x" * 5000, "\x1b[31m",
    [], [1], {}, {"a": 1},
)  # fmt: skip


def messages(number: int) -> Iterator[Message]:
    at_ns = START_NS + number * STEP_NS
    common: dict[str, Any] = {"node": "n", "session": "s", "seq": number, "published_ns": at_ns + 5}
    yield LabelsMessage(
        **common, camera="front", status=Status.OK, frame_id=number, stamp_ns=at_ns, clock="host",
        stamp_mono_ns=10, published_mono_ns=20, boot_id="b", timing_ns=Timing(1, 2, 3, 4, 5),
        model=MODEL, image=ImageSize(64, 48), labels=(Label(1, "a", 0.9),),
        detections=(Detection(1, "a", 0.9, Box(10.0, 10.0, 5.0, 5.0), track=1),),
    )  # fmt: skip
    yield EventMessage(
        **common, camera="front", kind="left", key="k", id=1, name="a", score=0.9, since_ns=at_ns,
        duration_ns=5, frame_id=number, stamp_ns=at_ns, clock="host",
    )  # fmt: skip
    if number == 0:
        calibration = Calibration("front", 64, 48, 50.0, 50.0, 32.0, 24.0, (0.1, 0.0, 0.0, 0.0))
        yield InfoMessage(**common, model=MODEL, names=("a", "b"), calibrations=(calibration,))
        yield HealthMessage(
            **common, state="running", cameras=(), latency_ns=None, rss_bytes=0, cpu=0.0,
            uptime_s=0.0, subscribers=0,
        )  # fmt: skip


@functools.cache
def entries() -> tuple[Entry, ...]:
    """One of each kind that a node writes, and a few of frames and labels."""
    records = [config_entry(NodeConfig(), 0, START_NS)]
    for number in range(FRAMES):
        at_ns = START_NS + number * STEP_NS
        frame = Frame(IMAGE, "front", number, Stamp(at_ns, 10, "host"), None, 0, jpeg=JPEG)
        records += frame_entries(frame, at_ns, quality=90, lost_before=0)
        for message in messages(number):
            records += message_entries(message, at_ns + 5)
    return tuple(records)


def write(path: Path, changed: Callable[[Entry], Entry]) -> Path:
    file = RecordingFile(path, {"session": "s"})
    file.write([changed(entry) for entry in entries()])
    file.close()
    return path


def with_fact(entry: Entry, keys: tuple[Any, ...], value: object) -> Entry:
    content = json.loads(entry.data)
    functools.reduce(operator.getitem, keys[:-1], content)[keys[-1]] = value
    return replace(entry, data=json.dumps(content).encode())


def only(name: str, change: Callable[[Entry], Entry]) -> Callable[[Entry], Entry]:
    return lambda entry: change(entry) if entry.channel.name == name else entry


def read_in_every_way(path: Path, folder: Path) -> Iterator[Callable[[], object]]:
    yield lambda: report.write_report(Recording([path]), folder / "report.html")
    kinds = ("labels", "events", "health", "info")
    yield lambda: write_jsonl(Recording([path]), lambda line: line.encode() and None, kinds)
    yield lambda: write_video(Recording([path]), folder / "video.mp4", None)
    yield lambda: write_coco(Recording([path]), folder / "coco", Choice())
    yield lambda: write_image_folder(Recording([path]), folder / "images", Choice())
    yield lambda: write_bag(Recording([path]), folder / "bag")
    yield lambda: recover(path, folder / "recovered.mcap")
    yield lambda: in_force(Recording([path]), 0).config
    yield functools.partial(play, path)
    for as_recorded in (False, True):
        yield functools.partial(show, path, as_recorded=as_recorded)


def play(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with RecordedLabels(path) as labels:
            for message, _ in labels:
                assert message.age_s > -1e12


def show(path: Path, *, as_recorded: bool) -> None:
    replay_source = RecordingReplay(Recording([path]), Span(), as_recorded=as_recorded)
    list(itertools.islice(looped(replay_source.frames), 2 * FRAMES))
    replay_source.summary()


def places(content: object, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inside = content.items() if isinstance(content, dict) else ()
    inside = enumerate(content) if isinstance(content, list) else inside
    for key, value in inside:
        yield (*before, key)
        yield from places(value, (*before, key))


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, tuple[Any, ...], object]:
    """A kind of record, a fact in it, and what stands there instead."""
    kinds = {entry.channel.name: entry for entry in entries() if entry.channel.encoding == "json"}
    name = draw(st.sampled_from(sorted(kinds)))
    keys = draw(st.sampled_from(list(places(json.loads(kinds[name].data)))))
    return name, keys, draw(st.sampled_from(ABSURD))


@settings(
    max_examples=25, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(mutations())
def test_absurd_facts_end_no_reader_but_with_an_error_of_ours(
    mutation: tuple[str, tuple[Any, ...], object],
) -> None:
    name, keys, value = mutation

    def changed(entry: Entry) -> Entry:
        with contextlib.suppress(KeyError):  # a fact that this one does not have
            return with_fact(entry, keys, value)
        return entry

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "absurd.mcap", only(name, changed))
        for read in read_in_every_way(path, Path(folder)):
            with contextlib.suppress(PerceptionError):
                read()


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("frame_id", "x"), ("frame_id", None), ("frame_id", -1), ("frame_id", 1e300),
        ("stamp_ns", "7"), ("stamp_ns", -1), ("stamp_ns", 2**63), ("clock", "sundial"),
        ("epoch", {}), ("epoch", True), ("lost_before", [1]), ("lost_before", 10**400),
    ],
)  # fmt: skip
def test_a_frame_with_a_fact_that_cannot_be_is_left_out_and_said(
    tmp_path: Path, fact: str, value: object
) -> None:
    at_ns = START_NS + STEP_NS

    def changed(entry: Entry) -> Entry:
        return with_fact(entry, (fact,), value) if entry.log_ns == at_ns else entry

    recording = Recording([write(tmp_path / "one.mcap", only("perception.frame", changed))])
    assert [frame.frame_id for frame in recording.frames()] == [0, 2, 3]
    (problem,) = recording.problems
    assert problem.startswith(f"frames/front/: a frame is skipped: frame.{fact} is ")


@pytest.mark.parametrize("command", ["replay", "report", "export jsonl", "export coco"])
def test_where_no_frame_is_left_a_command_says_which_fact_in_one_line(
    in_process: Run, tmp_path: Path, command: str
) -> None:
    changed = only("perception.frame", lambda entry: with_fact(entry, ("frame_id",), "x"))
    path = write(tmp_path / "none.mcap", changed)
    arguments = ["--endpoint", f"ipc://{tmp_path}/x"] if command == "replay" else []
    if command.startswith("export"):
        # What was said is whole without its pictures.
        arguments = [str(tmp_path / "out")]
    done = in_process(*command.split(), path, *arguments)
    assert "Traceback" not in done.stderr
    if command == "export jsonl":
        assert done.returncode == 0
        return
    assert done.returncode == 3
    assert (
        f"error: {path} holds no picture that can be read; frames/front/: a frame is skipped: "
        "frame.frame_id is 'x', not int"
    ) in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (("frame_id",), None, "labels.frame_id is missing, though the status is ok"),
        (("image",), None, "labels.image is missing, though there are detections"),
        (("detections", 0, "box", "w"), 1e300, "outside of any picture"),
        (("published_ns",), -1, "labels.published_ns is -1, not from 0"),
        (("dropped",), 2**60, "labels.dropped is 1152921504606846976, not from 0"),
        (("seq",), 10**400, "labels.seq is of 1329 bits, not int"),
        (("labels", 0, "name"), "\ud800", "bytes are no JSON"),
        (("status",), "fine", "labels.status is 'fine', none of ok"),
    ],
)
def test_a_message_that_cannot_be_is_left_out_and_said(
    tmp_path: Path, keys: tuple[Any, ...], value: object, reason: str
) -> None:
    at_ns = START_NS + 5

    def changed(entry: Entry) -> Entry:
        return with_fact(entry, keys, value) if entry.log_ns == at_ns else entry

    recording = Recording([write(tmp_path / "one.mcap", only("perception.labels", changed))])
    assert [message.seq for _, message in recording.messages("labels")] == [1, 2, 3]
    (problem,) = recording.problems
    assert problem.startswith("labels/front/: a message is skipped: ")
    assert reason in problem


def test_what_is_no_json_is_no_fact() -> None:
    for data in (b"", b"\xff", b"[" * 100_000, b'{"frame_id": ' + b"9" * 5000 + b"}", b"[]"):
        with pytest.raises(MessageError):
            read_frame_facts(data)
        with pytest.raises(MessageError):
            read_message("labels", data)
        with pytest.raises(MessageError):
            read_configuration(data)
    for data in (b"{}", b'{"config": 1}', b'{"config": null}'):
        with pytest.raises(MessageError, match=r"config is .*, not a map"):
            read_configuration(data)


def test_an_integer_that_msgpack_cannot_hold_is_none() -> None:
    content = {"schema": 1, "node": "n", "camera": "c", "session": "s", "seq": 2**64,
               "status": "paused", "published_ns": 1}  # fmt: skip
    with pytest.raises(MessageError, match=r"labels\.seq is of 65 bits, not int"):
        from_map("labels", content)
    assert from_map("labels", {**content, "seq": 2**64 - 1})


@pytest.mark.parametrize(
    ("topic", "camera"),
    [
        ("/my camera/image", "my-camera"), ("/a\0b/image", "a-b"), ("/../image", "camera"),
        ("/cam/color/image_raw", "cam_color_image_raw"), ("/" + "y" * 300 + "/image", "y" * 64),
        ("/\x1b[31m/image", "31m"), ("", "camera"),
    ],
)  # fmt: skip
def test_a_topic_of_another_recorder_is_a_name_that_a_camera_can_have(
    in_process: Run, tmp_path: Path, topic: str, camera: str
) -> None:
    path = tmp_path / "foreign.mcap"
    file = RecordingFile(path, {})
    pictures = [entry for entry in entries() if entry.channel.name == "foxglove.CompressedImage"]
    channel = Channel(topic, "protobuf", "foxglove.CompressedImage")
    file.write([replace(picture, channel=channel) for picture in pictures])
    file.close()
    assert Recording([path]).cameras == (camera,)
    NodeConfig.model_validate({"camera": [{"name": Recording([path]).cameras[0]}]})
    done = in_process("report", path)
    assert done.returncode == 0, done.stderr


def test_a_stamp_that_ros_has_no_number_for_is_said(tmp_path: Path) -> None:
    changed = only("perception.frame", lambda entry: with_fact(entry, ("stamp_ns",), 2**31 * 10**9))
    path = write(tmp_path / "late.mcap", changed)
    with pytest.raises(PerceptionError, match="beyond January 2038"):
        write_bag(Recording([path]), tmp_path / "bag")
