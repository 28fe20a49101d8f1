"""Recording on the robot: what is in the files, what is left of them, and the black box."""

import contextlib
import errno
import functools
import gc
import itertools
import json
import resource
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import skimage
from conftest import Run, Start, stop
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from mcap.reader import make_reader
from support.streams import MjpegServer
from support.waiting import wait_until

from node.capture.sources.image_files import read_image
from node.config.load import changed
from node.config.schema import NodeConfig
from node.errors import OutputError, SourceError
from node.image.frame import Frame, Image, Stamp
from node.pipeline.live import run_live
from node.recording import intake, new_files
from node.recording import recorder as recorder_module
from node.recording.folder import RecordingFolder
from node.recording.in_force import in_force
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.recording.recorder import Recorder
from node.recording.records import image_channel
from node.recording.recover import is_whole, recover
from perception_client.messages.kinds import EventMessage, LabelsMessage, RecordingHealth
from perception_client.recordings.mcap_file import open_chunked
from perception_client.recordings.records import Entry
from perception_client.subscriber import Control, Status, Subscriber

WAIT_S = 20.0


@functools.cache
def photo() -> Image:
    return read_image(Path(skimage.__file__).parent / "data" / "coffee.png")


def frame(number: int, image: Image | None = None, jpeg: bytes | None = None) -> Frame:
    image = photo() if image is None else image
    return Frame(image, "front", number, Stamp.now(), None, 0, jpeg=jpeg)


@pytest.fixture
def recorders(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    made: list[Recorder] = []

    def make(**settings: object) -> Recorder:
        prefixed = {f"recording.{key}": value for key, value in settings.items()}
        config = changed(NodeConfig(), {"recording.folder": str(tmp_path), **prefixed})
        recorder = Recorder(config, "session")
        recorder.start()
        made.append(recorder)
        return recorder

    yield make
    for recorder in made:
        assert recorder.close(5.0)


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.mcap"))


def test_a_recording_opens_in_foxglove_with_its_overlay(recording: Path) -> None:
    """By the format's own reader: the schemas that Foxglove knows, and the same stamps on pictures
    and on what is drawn over them."""
    images: dict[str, list[int]] = {"/front/image": [], "/rear/image": []}
    drawn: dict[str, list[int]] = {"/front/annotations": [], "/rear/annotations": []}
    topics, best = set(), set()
    with recording.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        for schema, channel, message in reader.iter_messages():
            topics.add((channel.topic, channel.message_encoding, schema.name, schema.encoding))
            if channel.topic in images:
                image = CompressedImage.FromString(message.data)
                assert image.format == "jpeg"
                assert image.data[:2] == b"\xff\xd8"
                images[channel.topic].append(image.timestamp.ToNanoseconds())
            elif channel.topic in drawn:
                texts = ImageAnnotations.FromString(message.data).texts
                assert len(texts) == 5
                best.add(texts[0].text.rpartition(" ")[0])
                drawn[channel.topic].append(texts[0].timestamp.ToNanoseconds())
            elif schema.encoding == "jsonschema":
                content = json.loads(message.data)
                assert set(json.loads(schema.data)["required"]) <= content.keys()
    assert ("/front/image", "protobuf", "foxglove.CompressedImage", "protobuf") in topics
    assert ("/rear/annotations", "protobuf", "foxglove.ImageAnnotations", "protobuf") in topics
    named = {topic for topic, *_ in topics}
    assert {
        "labels/front/", "labels/rear/", "events/front/", "health/perception/", "info/perception/",
        "config/perception/", "frames/front/",
    } <= named  # fmt: skip
    for camera in ("front", "rear"):
        assert len(drawn[f"/{camera}/annotations"]) > 5
        assert {"espresso", "Egyptian cat"} <= best
        assert set(drawn[f"/{camera}/annotations"]) <= set(images[f"/{camera}/image"])


def test_what_was_recorded_is_what_was_sent(recording: Path) -> None:
    opened = Recording([recording])
    assert opened.cameras == ("front", "rear")
    assert not opened.problems
    for camera in opened.cameras:
        frames = [frame for frame in opened.frames() if frame.camera == camera]
        assert [frame.frame_id for frame in frames] == list(range(len(frames)))
        assert all(earlier.log_ns < later.log_ns for earlier, later in itertools.pairwise(frames))
        labels = [message for _, message in opened.messages("labels") if message.camera == camera]
        assert [message.seq for message in labels] == list(range(len(labels)))
    events = [message for _, message in opened.messages("events")]
    assert any(
        isinstance(message, EventMessage) and message.name == "espresso" for message in events
    )
    config = in_force(opened, opened.start_ns).config
    assert config is not None
    assert NodeConfig.model_validate(config).smooth.time_constant_s == 0.1


def test_the_streams_own_bytes_are_kept(recorders: Callable[..., Recorder], tmp_path: Path) -> None:
    server = MjpegServer(photo())
    try:
        from node.capture.sources.open import open_source
        from node.config.schema import CameraConfig

        source = open_source(CameraConfig(source=server.url))
        pictures = [source.read() for _ in range(3)]
        source.close()
    finally:
        server.close()
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)
    for number, picture in enumerate(pictures):
        assert picture is not None
        recorder.frame(frame(number, picture.image, picture.jpeg))
    assert recorder.end().result(WAIT_S) == path
    kept = [frame.jpeg for frame in Recording([path]).frames()]
    assert kept == [picture.jpeg for picture in pictures if picture is not None]


def test_parts_stand_alone_and_stay_within_the_budget(
    recorders: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_S", 0.02)
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    recorder = recorders(split_mb=1, budget_mb=3, quality=90, keep_free_mb=0)
    other = tmp_path / "other_node.mcap"
    other.write_bytes(b"of somebody else")
    first = recorder.begin().result(WAIT_S)
    number = itertools.count()
    sizes = []

    def record_more() -> bool:
        recorder.frame(frame(next(number), noise))
        time.sleep(0.005)  # a camera of 200 frames a second
        sizes.append(sum(path.stat().st_size for path in files_in(tmp_path) if path != other))
        return not first.exists() and len(files_in(tmp_path)) >= 3

    wait_until(record_more)
    recorder.end().result(WAIT_S)
    assert other.exists()
    # The budget, the part being written, and what comes between two looks.
    assert max(sizes) < 3 * 2**20 + 2 * 2**20
    for part in files_in(tmp_path):
        if part != other:
            opened = Recording([part])
            assert in_force(opened, opened.start_ns).config is not None
            assert list(opened.frames())


def test_what_the_disk_is_too_slow_for_is_lost_and_counted(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit stands for a disk that hangs: nothing waits, and the file says what is missing."""
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 2 * photo().nbytes)
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)
    started = time.monotonic()
    for number in range(200):
        recorder.frame(frame(number))
    assert time.monotonic() - started < 1.0
    assert recorder.health.lost_frames > 50
    wait_until(lambda: recorder.health.state == "recording")
    time_to_write = time.monotonic() + 0.5
    wait_until(lambda: time.monotonic() > time_to_write)
    recorder.frame(frame(200))
    recorder.end().result(WAIT_S)
    frames = list(Recording([path]).frames())
    assert sum(frame.lost_before for frame in frames) == recorder.health.lost_frames
    assert len(frames) + recorder.health.lost_frames == 201


def test_no_space_left_stops_the_recording_and_nothing_else(
    recorders: Callable[..., Recorder],
) -> None:
    recorder = recorders(keep_free_mb=100_000_000)
    with pytest.raises(OutputError, match=r"only .* MiB are free, and recording\.keep_free_mb"):
        recorder.begin().result(WAIT_S)
    assert recorder.health.state == "failed"
    recorder.frame(frame(0))
    with pytest.raises(OutputError, match=r"set recording\.black_box_s"):
        recorder.dump("request").result(WAIT_S)


def health_of(subscriber: Subscriber, state: str) -> RecordingHealth:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        recording = subscriber.health(WAIT_S).recording
        if recording is not None and recording.state == state:
            return recording
        subscriber.wait(0.2)
    raise AssertionError(f"the recording was never {state}")


def test_a_recording_ends_though_frames_come_faster_than_they_are_encoded(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recorder_module.frame_entries

    def slowly(*arguments: Any, **more: Any) -> list[Entry]:
        time.sleep(0.02)
        return real(*arguments, **more)

    monkeypatch.setattr(recorder_module, "frame_entries", slowly)
    recorder, stop = recorders(enabled=True), threading.Event()

    def film() -> None:
        for number in itertools.count():
            if stop.wait(0.005):
                return
            recorder.frame(frame(number))

    camera = threading.Thread(target=film)
    camera.start()
    time.sleep(0.5)  # the camera's lead
    try:
        assert recorder.end().result(10) is not None
    finally:
        stop.set()
        camera.join()


def test_what_waits_to_be_recorded_holds_its_bytes_only(
    recorders: Callable[..., Recorder],
) -> None:
    recorder = recorders(enabled=True)
    image = np.zeros((8, 8, 3), np.uint8)
    pixels = weakref.ref(image)
    recorder.frame(frame(0, image, b"x" * 100))
    del image
    gc.collect()
    assert pixels() is None


def test_a_disk_that_is_full_is_told_and_labels_go_on(
    start_node: Start, in_process: Run, ipc: str, tmp_path: Path
) -> None:
    """The disk is full for this process at 3 MB: a real limit of a real file."""
    photo = Path(skimage.__file__).parent / "data" / "coffee.png"
    in_process("label", photo)  # exports the model, a longer file, into the cache

    node = start_node(
        "record", "--source", "demo", "--endpoint", ipc, "--output", tmp_path / "full",
        "--set", "recording.quality=100",
    )  # fmt: skip
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber:
        failed = health_of(subscriber, "failed")
        assert failed.last_error is not None
        assert "File too large; make room, or name another folder" in failed.last_error
        seen = [subscriber.receive(5.0)[0] for _ in range(30)]
    assert seen[-1].status is Status.OK
    assert stop(node)[0] == 1  # less is recorded than there was
    (broken,) = files_in(tmp_path / "full")
    assert not is_whole(broken)
    saved = recover(broken, tmp_path / "saved.mcap")
    assert saved.messages > 20
    assert is_whole(tmp_path / "saved.mcap")


def test_a_killed_node_loses_its_last_second_at_most(
    start_node: Start, in_process: Run, ipc: str, tmp_path: Path
) -> None:
    node = start_node("record", "--source", "demo", "--endpoint", ipc, "--output", tmp_path / "cut")
    received: list[LabelsMessage] = []
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber:
        while len(received) < 60 or time.time_ns() - received[29].published_ns < 1.1e9:
            message, _ = subscriber.receive(WAIT_S)
            received.append(message)
    killed_ns = time.time_ns()
    node.kill()
    node.wait(10)
    (cut,) = files_in(tmp_path / "cut")
    recording = Recording([cut])  # readable as it is
    assert "repair it with: perception-node recover" in recording.problems[0]
    done = in_process("recover", tmp_path / "cut")
    assert done.returncode == 0, done.stderr
    repaired = cut.with_name(f"{cut.stem}_recovered.mcap")
    assert f"saved in {repaired}" in done.stdout
    kept = {message.seq for _, message in Recording([repaired]).messages("labels")}
    due = {message.seq for message in received if killed_ns - message.published_ns > 1e9}
    assert len(due) > 20
    assert due <= kept
    again = in_process("recover", repaired)
    assert "whole, left as it is" in again.stdout
    # A second run, as a unit makes one at every start.
    for outcome in (f"repaired already, in {repaired}", f"saved in {repaired}"):
        done = in_process("recover", tmp_path / "cut")
        assert done.returncode == 0, done.stderr
        assert outcome in done.stdout
        repaired.write_bytes(repaired.read_bytes()[:-1000])  # cut off during the repair
    in_process("recover", cut, "--in-place")
    assert is_whole(cut)


def test_damage_costs_what_it_hit_and_is_said(recording: Path, tmp_path: Path) -> None:
    """Cut off, bits turned, rubbish: an error of ours or the rest of the frames, never anything
    else, and never for long."""
    whole = recording.read_bytes()
    frames = sum(1 for _ in Recording([recording]).frames())
    random = np.random.default_rng(7)
    partial = 0
    for trial in range(60):
        data = bytearray(whole)
        if trial % 3 == 0:
            del data[int(random.integers(0, len(data))) :]
        else:
            for _ in range(10 if trial % 3 == 1 else 1):
                data[int(random.integers(0, len(data)))] ^= 1 << int(random.integers(0, 8))
        broken = tmp_path / "broken.mcap"
        broken.write_bytes(data)
        started = time.monotonic()
        with contextlib.suppress(SourceError):
            opened = Recording([broken])
            readable = sum(1 for _ in opened.frames())
            assert readable == frames or opened.problems
            partial += 0 < readable < frames
        assert time.monotonic() - started < 5.0
    assert partial > 10


def test_what_is_no_recording_is_said_in_one_line(in_process: Run, tmp_path: Path) -> None:
    from mcap.writer import Writer

    foreign = tmp_path / "foreign.mcap"
    with foreign.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        schema = writer.register_schema("std_msgs/String", "ros2msg", b"string data")
        writer.add_message(writer.register_channel("/chat", "cdr", schema), 1, b"hello", 1)
        writer.finish()
    (tmp_path / "text.mcap").write_text("this is no recording")
    (tmp_path / "empty.mcap").touch()
    for name, reason in (
        ("foreign.mcap", "holds no pictures; its topics: /chat (std_msgs/String, cdr)"),
        ("text.mcap", "is not an MCAP recording"),
        ("empty.mcap", "is empty (0 bytes)"),
        ("none.mcap", "there is no such file"),
    ):
        for command in ("replay", "report"):
            done = in_process(command, tmp_path / name)
            assert done.returncode == 3
            assert reason in done.stderr
            assert "Traceback" not in done.stderr


def test_pictures_of_another_format_are_not_called_damaged(in_process: Run, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.mcap"
    file = RecordingFile(foreign, {})
    image = CompressedImage(format="jxl", data=b"\xff\x0a")
    file.write([Entry(image_channel("front"), 1, 1, 0, image.SerializeToString())])
    file.close()
    done = in_process("replay", foreign)
    assert done.returncode == 3
    problem = (
        "/front/image: pictures of this form are not supported (foxglove.CompressedImage, protobuf"
    )
    assert f"{problem}, format 'jxl'); convert them to JPEG" in done.stderr


def test_a_duration_begins_with_the_first_frame(in_process: Run, tmp_path: Path, ipc: str) -> None:
    """Not while the models of [degrade] load, of which each takes longer."""
    done = in_process(
        "record", "--source", "demo", "--runtime", "torch", "--output", tmp_path, "--duration", 0.6,
        "--set", 'degrade.steps=[{model="efficientnet_lite0"}, {model="efficientnet_lite0"}]',
        "--endpoint", ipc, "--set", "camera.0.deadline_s=9",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    frames = [frame.media_ns for frame in Recording(files_in(tmp_path)).frames()]
    assert frames[-1] == pytest.approx(0.6e9, abs=0.3e9)


def test_the_black_box_keeps_the_last_seconds(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = recorders(black_box_s=0.5)
    number = itertools.count()
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        recorder.frame(frame(next(number)))
        time.sleep(0.02)  # a camera of 50 frames a second
    path = recorder.dump("request").result(WAIT_S)
    assert "black-box_request" in path.name
    frames = list(Recording([path]).frames())
    assert frames[-1].frame_id == next(number) - 1
    assert 0.3 < (frames[-1].log_ns - frames[0].log_ns) / 1e9 <= 0.55
    assert recorder.dump("request").result(WAIT_S) != path


def test_a_lost_camera_and_a_request_write_the_black_box(
    start_node: Start, ipc: str, tmp_path: Path
) -> None:
    server = MjpegServer(photo())
    folder = tmp_path / "box"
    control = f"ipc://{tmp_path}/control"
    node = start_node(
        "run", "--source", server.url, "--endpoint", ipc, "--set", f"control.endpoint={control}",
        "--set", f"recording.folder={folder}", "--set", "recording.black_box_s=1",
    )  # fmt: skip
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber, Control(control) as ctl:
        wait_until(lambda: (subscriber.latest(1.0, timeout_s=1.0) or _none()).status is Status.OK)
        assert not files_in(folder)  # it was not lost before it was there
        dump = Path(ctl.record("dump") or "")
        assert "black-box_request" in dump.name
        started = Path(ctl.record("start") or "")
        assert health_of(subscriber, "recording").file == str(started)
        server.close()
        wait_until(lambda: bool(list(folder.glob("*black-box_stalled*")))
                   or bool(list(folder.glob("*black-box_no_camera*"))))  # fmt: skip
        assert ctl.record("stop") == str(started)
        assert health_of(subscriber, "off").file == str(started)
        node.send_signal(signal.SIGABRT)  # as systemd's watchdog does
    assert node.wait(10) == -signal.SIGABRT
    assert list(folder.glob("*black-box_SIGABRT*"))
    for file in files_in(folder):
        assert is_whole(file), file
    assert list(Recording([dump]).frames())
    assert any(
        message.status is Status.OK for _, message in Recording([started]).messages("labels")
    )


def _none() -> LabelsMessage:
    return LabelsMessage(
        node="", camera="", session="", seq=0, status=Status.NO_CAMERA, published_ns=0
    )


def test_an_event_that_is_named_writes_the_black_box(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = recorders(black_box_s=1, black_box_events=[{"kind": "appeared", "name": "person"}])
    recorder.frame(frame(0))
    for name in ("dog", "person"):
        recorder.message(
            EventMessage(
                node="perception", camera="front", session="s", seq=0, kind="appeared", key=name,
                id=1, name=name, score=0.9, since_ns=1, frame_id=0, stamp_ns=1, clock="host",
                published_ns=time.time_ns(),
            )
        )  # fmt: skip
    wait_until(lambda: bool(files_in(tmp_path)))
    (file,) = files_in(tmp_path)
    assert "black-box_appeared-person" in file.name


def labels_message(number: int) -> LabelsMessage:
    return LabelsMessage(
        node="perception", camera="front", session="s", seq=number, status=Status.OK,
        frame_id=number, stamp_ns=1, published_ns=time.time_ns(),
    )  # fmt: skip


def test_a_computer_too_busy_to_encode_still_writes_what_was_seen(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow encoder stands for a processor that others keep busy. An end within its time counts
    what it leaves out, and the file is whole."""
    encode = recorder_module.frame_entries

    def slowly(*arguments: Any, **options: Any) -> list[Entry]:
        time.sleep(0.05)
        return encode(*arguments, **options)

    monkeypatch.setattr(recorder_module, "frame_entries", slowly)
    monkeypatch.setattr(recorder_module, "LAST_FRAMES_SHARE", 0.04)
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)
    for number in range(100):
        recorder.frame(frame(number))
    recorder.message(labels_message(7))
    assert recorder.close(5.0)
    assert is_whole(path)
    opened = Recording([path])
    assert [message.seq for _, message in opened.messages("labels")] == [7]
    frames = list(opened.frames())
    assert 0 < len(frames) < 50
    assert len(frames) + recorder.health.lost_frames == 100


def test_no_frame_is_missed_between_two_parts(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next part takes its time to open, as on a slow disk."""
    monkeypatch.setattr(recorder_module, "FLUSH_S", 0.02)
    recorder = recorders(split_s=1)
    recorder.begin().result(WAIT_S)
    opening, release = threading.Event(), threading.Event()

    class Slow(RecordingFile):
        def __init__(self, path: Path, about: Mapping[str, str]) -> None:
            opening.set()
            assert release.wait(WAIT_S)
            super().__init__(path, about)

    monkeypatch.setattr(new_files, "RecordingFile", Slow)
    recorder.frame(frame(0))
    assert opening.wait(WAIT_S)
    recorder.frame(frame(1))
    release.set()
    recorder.end().result(WAIT_S)
    assert len(files_in(tmp_path)) >= 2
    assert [frame.frame_id for frame in Recording(files_in(tmp_path)).frames()] == [0, 1]


def test_black_boxes_stay_within_the_budget(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    """Also where nothing else is recorded."""
    recorder = recorders(black_box_s=60, split_mb=1, budget_mb=2, keep_free_mb=0)
    paths = []
    for number in range(4):
        recorder.frame(frame(number, jpeg=b"\xff\xd8" + bytes(900_000)))
        paths.append(recorder.dump("request").result(WAIT_S))
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_a_budget_is_that_of_one_node(tmp_path: Path) -> None:
    names = [f"{node}_2026-01-0{day}T00-00-00Z.mcap" for node in ("arm", "arm_2") for day in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes(bytes(1000))
    RecordingFolder(tmp_path, "arm", 1000, 0).make_room()
    assert [(tmp_path / name).exists() for name in names] == [False, True, True, True]


def test_a_folder_that_cannot_be_made_is_named(in_process: Run, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    done = in_process("record", "--source", "demo", "--output", tmp_path / "taken")
    assert done.returncode == 1
    error = (
        f"recording not started: {tmp_path}/taken: it is a file, not a folder; name another folder"
    )
    assert done.stderr.count("recording not started") == done.stderr.count(error) == 1


def test_what_is_in_two_files_comes_once(
    recorders: Callable[..., Recorder], in_process: Run, tmp_path: Path
) -> None:
    """A folder with parts, a black box of the same seconds, and what was recovered of one."""
    recorder = recorders(black_box_s=60)
    recorder.begin().result(WAIT_S)
    for number in range(3):
        recorder.frame(frame(number))
        recorder.message(labels_message(number))
    recorder.dump("request").result(WAIT_S)
    part = recorder.end().result(WAIT_S)
    assert part is not None
    part.with_name("part_recovered.mcap").write_bytes(part.read_bytes()[:-100])
    assert len(files_in(tmp_path)) == 3
    opened = Recording(files_in(tmp_path))
    assert [frame.frame_id for frame in opened.frames()] == [0, 1, 2]
    assert [message.seq for _, message in opened.messages("labels")] == [0, 1, 2]


def test_two_runs_in_a_folder_are_not_one_recording(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    """Their frames have the same numbers, and between them may lie days: the newest is read."""
    for number, (name, session) in enumerate((("b_1", "one"), ("b_2", "one"), ("a_1", "two")), 1):
        about = {"session": session, "node": "perception", "number": str(number)}
        file = RecordingFile(tmp_path / f"{name}.mcap", about)
        later_ns = 10_000_000_000 if name == "b_2" else 0
        for entry in itertools.islice(Recording([recording]).entries(), 200):
            file.write([replace(entry, log_ns=entry.log_ns + later_ns)])
        file.close()
    done = in_process("report", tmp_path)
    assert done.returncode == 0, done.stderr
    notice = f"{tmp_path} holds 2 runs; this is the newest, a_1; --run NAME reads another: b_1"
    assert done.stderr.splitlines() == [notice]
    assert "<title>a_1" in (tmp_path / "report.html").read_text()
    for arguments in (
        (f"{tmp_path}/b_*.mcap",),
        (tmp_path, "--run", "b_2"),
        (tmp_path, "--run", "one"),
    ):
        (tmp_path / "b_1.html").unlink(missing_ok=True)
        done = in_process("report", *arguments)
        assert done.returncode == 0, done.stderr
        assert "2 files" in (tmp_path / "b_1.html").read_text()
    done = in_process("report", tmp_path, "--run", "c")
    assert done.returncode == 3
    assert f"{tmp_path} holds no run 'c'; its runs: a_1, b_1" in done.stderr
    done = in_process("report", f"{tmp_path}/*_1.mcap")
    assert done.returncode == 3
    assert "matches 2 runs; name one with --run: a_1, b_1" in done.stderr


def test_a_file_that_is_damaged_all_over_is_not_taken_for_saved(
    recorders: Callable[..., Recorder], in_process: Run, tmp_path: Path
) -> None:
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)
    recorder.frame(frame(0))
    recorder.end().result(WAIT_S)
    opened = open_chunked(path)
    data = bytearray(path.read_bytes())
    for at in opened.chunks:
        data[at.offset + 100] ^= 1  # its records fail their checksum
    path.write_bytes(data)
    done = in_process("recover", path)
    assert done.returncode == 3
    assert "all of it is damaged" in done.stderr
    assert files_in(tmp_path) == [path]


def test_times_without_a_checksum_are_not_believed(recording: Path, tmp_path: Path) -> None:
    """The head of a chunk says when it begins and ends; its records say it as well."""
    whole = recording.read_bytes()
    opened = open_chunked(recording)
    data = bytearray(whole[: opened.chunks[-1].offset])
    for at in opened.chunks[1:-1:2]:
        data[at.offset + 9 + 15] ^= 0x40  # high bytes of its end
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(data)
    assert Recording([broken]).length_s < 60
    assert sum(1 for _ in Recording([broken]).frames()) > 20


def test_a_failure_that_nobody_foresaw_writes_the_black_box(tmp_path: Path) -> None:
    def build(config: NodeConfig) -> NoReturn:
        raise ZeroDivisionError

    config = changed(
        NodeConfig(),
        {
            "wire.endpoint": f"ipc://{tmp_path}/labels",
            "recording.folder": str(tmp_path),
            "recording.black_box_s": 5,
        },
    )
    with pytest.raises(ZeroDivisionError):
        run_live(config, build, threading.Event())
    (file,) = files_in(tmp_path)
    assert "black-box_failure" in file.name


def test_a_disk_that_hangs_keeps_nothing_from_the_file(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written outlasts a killed process, whether the disk has it or not."""
    hangs = threading.Event()

    def fdatasync(descriptor: int) -> None:
        assert hangs.wait(WAIT_S)

    monkeypatch.setattr("node.recording.mcap_writer.os.fdatasync", fdatasync)
    monkeypatch.setattr("node.recording.mcap_writer.MOST_SYNC_S", WAIT_S)
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)

    def is_written(seq: int) -> bool:
        with contextlib.suppress(SourceError):
            return any(message.seq == seq for _, message in Recording([path]).messages("labels"))
        return False

    for number in range(2):  # the second one while the disk is busy with the first
        recorder.frame(frame(number))
        recorder.message(labels_message(number))
        wait_until(functools.partial(is_written, number))
    hangs.set()
    recorder.end().result(WAIT_S)
    assert is_whole(path)


def test_what_the_disk_says_late_is_told(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network's disk says only when it is asked to keep something that it is full."""

    def fdatasync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("node.recording.mcap_writer.os.fdatasync", fdatasync)
    recorder = recorders()
    recorder.begin().result(WAIT_S)
    recorder.frame(frame(0))
    wait_until(lambda: recorder.health.state == "failed")
    assert "No space left on device; make room" in str(recorder.health.last_error)


def test_a_picture_that_no_black_box_holds_costs_itself(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = recorders(black_box_s=60, black_box_mb=1)
    recorder.begin().result(WAIT_S)
    recorder.frame(frame(0, jpeg=b"\xff\xd8" + bytes(2_000_000)))
    recorder.frame(frame(1))
    path = recorder.end().result(WAIT_S)
    assert path is not None
    assert [frame.frame_id for frame in Recording([path]).frames()] == [0, 1]
    assert (recorder.health.lost_frames, recorder.health.lost_messages) == (0, 0)


def test_a_frame_that_cannot_be_encoded_costs_itself(recorders: Callable[..., Recorder]) -> None:
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)
    recorder.frame(frame(0, np.zeros((0, 0, 3), np.uint8)))
    recorder.frame(frame(1))
    assert recorder.close(WAIT_S)
    assert is_whole(path)
    assert [frame.frame_id for frame in Recording([path]).frames()] == [1]
