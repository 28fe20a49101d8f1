"""Replay on the desk: the same every time, at any speed, one camera or several; the gate, and the
fixture by which a robot's control code is tested against a recording."""

import hashlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from conftest import COMMAND, ROOT, Run, Start
from support import commands

from node.capture.mailbox import LosslessMailbox
from node.capture.rate import MediaClock
from node.errors import SourceError
from node.recording.encode import frame_entries, message_entries
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.replay.feeder import ReplayFeeder
from node.replay.golden import OF_THIS_RUN, Comparison
from node.replay.sources import RecordingReplay, Shown, Span, looped
from perception_client.recordings.chunks import ChunkAt
from perception_client.recordings.mcap_file import ChunkedFile
from perception_client.subscriber import (
    CannotSeeError,
    Control,
    LabelsMessage,
    NodeGoneError,
    NotUsableError,
    Status,
    Subscriber,
)
from perception_client.testing.plugin import Play
from perception_client.testing.recorded import RecordedLabels

Map = dict[str, Any]


def lines(file: Path) -> list[Map]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def digest(messages: list[Map]) -> str:
    """Of all that does not tell of the run."""
    kept = [
        {key: value for key, value in message.items() if key not in OF_THIS_RUN}
        for message in messages
    ]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


@pytest.fixture(scope="module")
def golden(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The messages of a replay as fast as it goes, in a process of its own."""
    file = tmp_path_factory.mktemp("golden") / "golden.jsonl"
    command = [*COMMAND, "replay", recording, "--speed", "max", "--jsonl", file]
    commands.run(command, timeout_s=60).check_returncode()
    return file


def test_two_replays_of_two_cameras_are_the_same_to_the_bit(
    in_process: Run, recording: Path, golden: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    done = in_process("replay", recording, "--speed", "2", "--jsonl", out, "--expect", golden)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same as expected" in done.stdout
    assert digest(lines(out)) == digest(lines(golden))
    assert Counter(message["camera"] for message in lines(out)).keys() == {"front", "rear"}


def test_a_replay_shows_each_frame_with_its_own_stamp(recording: Path, golden: Path) -> None:
    recorded = {(frame.camera, frame.frame_id): frame for frame in Recording([recording]).frames()}
    for message in lines(golden):
        frame = recorded.pop((message["camera"], message["frame_id"]))
        assert message["stamp_ns"] == frame.stamp_ns
        assert message["clock"] == "media"
        assert message["stamp_mono_ns"] is None
        assert message["media_ns"] == frame.media_ns
    assert not recorded


def test_as_recorded_labels_what_was_labelled_then(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    """The model was slower than the cameras: what it dropped then is dropped again."""
    thinned = tmp_path / "thinned.mcap"
    source = Recording([recording])
    labels = {
        (message.camera, message.frame_id): message for _, message in source.messages("labels")
    }
    file = RecordingFile(thinned, {})
    for recorded in source.frames():
        frame = recorded.frame()
        file.write(frame_entries(frame, recorded.log_ns, quality=90, lost_before=0))
        message = labels.get((recorded.camera, recorded.frame_id))
        if message is not None and recorded.frame_id % 3 == 2:
            assert isinstance(message, LabelsMessage)
            file.write(message_entries(replace(message, dropped=2), recorded.log_ns))
    file.close()
    out = tmp_path / "out.jsonl"
    done = in_process("replay", thinned, "--speed", "max", "--as-recorded", "--jsonl", out)
    assert done.returncode == 0, done.stderr
    again = [(message["camera"], message["frame_id"], message["dropped"]) for message in lines(out)]
    last = {"front": -1, "rear": -1}
    for _, labelled in Recording([thinned]).messages("labels"):
        assert isinstance(labelled, LabelsMessage)
        assert labelled.frame_id is not None
        dropped = labelled.frame_id - last[labelled.camera] - 1
        assert (labelled.camera, labelled.frame_id, dropped) == again.pop(0)
        last[labelled.camera] = labelled.frame_id
    assert not again
    assert min(last.values()) > 0


def test_a_part_is_the_same_as_that_part_of_the_whole(
    in_process: Run, recording: Path, clip: Path, golden: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    in_process("replay", recording, "--speed", "max", "--from", 1, "--to", 2, "--jsonl", out)
    part = lines(out)
    assert part
    assert all(1e9 <= message["media_ns"] < 2e9 for message in part)
    frames = [(message["camera"], message["frame_id"]) for message in part]
    whole = [message for message in lines(golden) if 1e9 <= message["media_ns"] < 2e9]
    assert frames == [(message["camera"], message["frame_id"]) for message in whole]
    in_process("replay", clip, "--speed", "max", "--from", 0.5, "--to", 1, "--jsonl", out)
    assert [message["frame_id"] for message in lines(out)] == list(range(10, 20))
    in_process("replay", clip, "--speed", "max", "--jsonl", out)
    assert [message["frame_id"] for message in lines(out)] == list(range(40))


def test_a_loop_goes_on_growing(recording: Path) -> None:
    replay_source = RecordingReplay(Recording([recording]), Span(0, 0.5), as_recorded=False)
    frames = looped(replay_source.frames)
    once = sum(1 for _ in replay_source.frames())
    seen = [next(frames).frame for _ in range(3 * once)]
    for camera in ("front", "rear"):
        mine = [frame for frame in seen if frame.camera == camera]
        assert [frame.frame_id for frame in mine] == list(range(len(mine)))
        stamps = [frame.stamp.unix_ns for frame in mine if frame.stamp is not None]
        assert all(earlier < later for earlier, later in itertools.pairwise(stamps))
    assert len({frame.epoch for frame in seen}) >= 3


def test_frames_come_at_their_recorded_times(recording: Path) -> None:
    """At speed 2: the times between frames are half of the recorded ones."""
    replay_source = RecordingReplay(Recording([recording]), Span(), as_recorded=False)
    stop = threading.Event()
    mailbox = LosslessMailbox(stop)
    player = ReplayFeeder(replay_source.frames(), mailbox, stop, MediaClock(2.0, stop))
    player.start()
    errors_s = []
    first: tuple[float, int] | None = None
    while not mailbox.finished:
        for queued in mailbox.take_all(1.0, 1):
            now = time.monotonic()
            media_ns = queued.frame.media_ns or 0
            first = first or (now, media_ns)
            errors_s.append(now - first[0] - (media_ns - first[1]) / 2e9)
    assert player.join(5.0)
    assert len(errors_s) > 60
    assert sorted(abs(error_s) for error_s in errors_s)[len(errors_s) // 2] < 0.02


def test_a_simulator_steps_a_replay(start_node: Start, recording: Path, ipc: str) -> None:
    control = f"{ipc}-control"
    node = start_node(
        "replay", recording, "--endpoint", ipc, "--step", "--set", f"control.endpoint={control}",
        "--wait-for-subscriber",
    )  # fmt: skip
    count = sum(1 for _ in Recording([recording]).frames())
    with Subscriber(ipc, timeout_s=30.0) as subscriber, Control(control, timeout_s=30.0) as ctl:
        subscriber.wait(0.01)
        (first,) = ctl.step()
        received, _ = subscriber.receive(5.0)
        assert received == first
        assert len(ctl.step(10)) == 10
        rest = ctl.step(1000)
        assert len(rest) == count - 11
        assert next(message.seq for message in rest if message.camera == first.camera) > first.seq
    assert node.wait(10) == 0


def test_a_recordings_cameras_keep_their_settings(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    config = tmp_path / "two.toml"
    config.write_text(
        '[[camera]]\nname = "rear"\nroi = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]]\n'
        "[model]\ntop_k = 2\n"
    )
    out = tmp_path / "out.jsonl"
    done = in_process(
        "replay", recording, "--config", config, "--speed", "max", "--to", 0.5, "--jsonl", out
    )
    assert done.returncode == 0, done.stderr
    assert {message["camera"] for message in lines(out)} == {"front", "rear"}
    assert all(len(message["labels"]) == 2 for message in lines(out))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--from", "2", "--to", "1"], "--to 1 is not after --from 2"),
        (["--tolerance", "0.1"], "--tolerance and --json need --expect FILE"),
        (["--loop", "--expect", "{golden}"], "--loop has no end"),
    ],
)
def test_options_that_contradict_are_said(
    in_process: Run, recording: Path, golden: Path, options: list[str], reason: str
) -> None:
    done = in_process("replay", recording, *(option.format(golden=golden) for option in options))
    assert done.returncode == 2
    assert reason in done.stderr


def test_as_recorded_needs_labels(in_process: Run, clip: Path) -> None:
    for option in (["--as-recorded"], ["--run", "a"], ["--camera", "front"]):
        done = in_process("replay", clip, *option)
        assert done.returncode == 2
        assert f"{option[0]}: {clip} is no recording; give a file *.mcap" in done.stderr


def test_a_part_without_a_frame_is_an_error(
    in_process: Run, recording: Path, clip: Path, tmp_path: Path
) -> None:
    for source in (recording, clip):
        done = in_process("replay", source, "--from", 100, "--jsonl", tmp_path / "out.jsonl")
        assert done.returncode == 3
        assert "there is no frame to show from 100 s to its end" in done.stderr


def test_a_recording_that_goes_meanwhile_ends_the_replay_with_an_error(
    in_process: Run, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the player before the end of the footage is no success."""
    copy = tmp_path / "copy.mcap"
    copy.write_bytes(recording.read_bytes())
    opened = Recording([copy])
    assert opened.start_ns
    copy.unlink()
    stop = threading.Event()
    replay_source = RecordingReplay(opened, Span(), as_recorded=False)
    player = ReplayFeeder(replay_source.frames(), LosslessMailbox(stop), stop, None)
    player.start()
    assert player.join(5.0)
    assert isinstance(player.failure, SourceError)
    assert "was it deleted meanwhile?" in str(player.failure)


def test_frames_that_lie_close_together_come_at_their_times(recording: Path) -> None:
    """Those of two cameras, a millisecond apart, where making one takes twenty."""
    frame = next(Recording([recording]).frames()).frame()

    def pairs() -> Iterator[Shown]:
        for number in range(20):
            media_ns = number // 2 * 100_000_000 + number % 2 * 1_000_000
            time.sleep(0.02)  # decoding
            yield Shown(replace(frame, frame_id=number, media_ns=media_ns))

    stop = threading.Event()
    mailbox = LosslessMailbox(stop)
    player = ReplayFeeder(pairs(), mailbox, stop, MediaClock(1.0, stop))
    player.start()
    came: list[tuple[int, float]] = []
    while not mailbox.finished:
        for queued in mailbox.take_all(1.0, 1):
            came.append((queued.frame.media_ns or 0, time.monotonic()))
    assert player.join(5.0)
    assert len(came) == 20
    apart_s = [
        later - earlier for (_, earlier), (_, later) in zip(came[2::2], came[3::2], strict=True)
    ]
    assert sorted(apart_s)[len(apart_s) // 2] < 0.015


def test_a_player_that_breaks_off_says_so() -> None:
    def broken() -> Iterator[Shown]:
        raise ZeroDivisionError
        yield

    stop = threading.Event()
    player = ReplayFeeder(broken(), LosslessMailbox(stop), stop, None)
    player.start()
    assert player.join(5.0)
    assert isinstance(player.failure, ZeroDivisionError)


def test_as_recorded_begins_anywhere_at_once(recording: Path, tmp_path: Path) -> None:
    """What comes before the span is not read: only chunks that reach into it are."""
    long = tmp_path / "long.mcap"
    source = Recording([recording])
    entries = list(source.entries())
    file = RecordingFile(long, {})
    for hour in range(10):
        later_ns = hour * 3600 * 1_000_000_000
        file.write(replace(entry, log_ns=entry.log_ns + later_ns) for entry in entries)
        file.flush()
    file.close()
    opened = Recording([long])
    assert opened.start_ns == source.start_ns
    read: list[int] = []
    messages = ChunkedFile.messages

    def counted(self: ChunkedFile, stream: IO[bytes], at: ChunkAt, *more: Any) -> list[Any]:
        read.append(at.offset)
        return messages(self, stream, at, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkedFile, "messages", counted)
        replay_source = RecordingReplay(opened, Span(9 * 3600.0), as_recorded=True)
        first = next(replay_source.frames())
    assert (first.frame.media_ns or 0) >= 9 * 3600 * 1_000_000_000
    assert 0 < len(read) <= 4


# The gate.


def message(**changes: Any) -> Map:
    return {
        "schema": 1, "node": "n", "camera": "c", "session": "s", "seq": 0, "status": "ok",
        "published_ns": 1, "frame_id": 0, "media_ns": 0,
        "labels": [{"id": 1, "name": "cup", "score": 0.8}, {"id": 2, "name": "pot", "score": 0.1}],
        **changes,
    }  # fmt: skip


def detection(name: str, score: float, cx: float, **more: Any) -> Map:
    box = {"cx": cx, "cy": 50.0, "w": 20.0, "h": 20.0}
    return {"id": len(name), "name": name, "score": score, "box": box, **more}


def changes(expected: list[Map], got: list[Map], tolerance: float = 0.0) -> list[tuple[str, str]]:
    comparison = Comparison(expected, tolerance)
    for message in got:
        comparison.add(message)
    return [(difference.kind, difference.what) for difference in comparison.verdict().differences]


def test_the_gate_says_what_became_of_labels() -> None:
    nearer = [{"id": 1, "name": "cup", "score": 0.79}, {"id": 2, "name": "pot", "score": 0.1}]
    other = [{"id": 1, "name": "cup", "score": 0.8}, {"id": 3, "name": "urn", "score": 0.1}]
    turned = [{"id": 2, "name": "pot", "score": 0.8}, {"id": 1, "name": "cup", "score": 0.1}]
    assert changes([message()], [message(session="t", published_ns=2)]) == []
    assert changes([message()], [message(labels=nearer)]) == [("score", "cup")]
    assert changes([message()], [message(labels=nearer)], 0.02) == []
    assert changes([message()], [message(labels=other)]) == [
        ("vanished", "pot"), ("appeared", "urn"),
    ]  # fmt: skip
    assert ("order", "labels") in changes([message()], [message(labels=turned)], 0.02)
    assert changes([message()], [message(dropped=1)]) == [("field", "dropped")]


def test_the_gate_says_what_became_of_boxes() -> None:
    def seen(*detections: Map) -> Map:
        return message(labels=[], detections=list(detections))

    before = seen(detection("person", 0.9, 100.0), detection("dog", 0.5, 300.0))
    moved = seen(detection("person", 0.9, 101.0), detection("dog", 0.5, 300.0))
    gone = seen(detection("person", 0.9, 100.0))
    far = seen(detection("person", 0.9, 400.0), detection("dog", 0.5, 300.0))
    assert changes([before], [moved]) == [("box", "person")]
    assert changes([before], [moved], 0.12) == []  # IoU 19/21
    assert changes([before], [gone], 0.1) == [("vanished", "dog")]
    assert changes([gone], [before], 0.1) == [("appeared", "dog")]
    assert changes([before], [far], 0.1) == [("vanished", "person"), ("appeared", "person")]
    tracked = seen(detection("person", 0.9, 100.0, track=1), detection("dog", 0.5, 300.0))
    assert changes([before], [tracked]) == [("track", "person")]


def test_the_gate_says_what_became_of_frames() -> None:
    frames = [message(frame_id=n, seq=n) for n in range(4)]
    assert changes(frames, frames[:3]) == [("frame missing", "message")]
    assert changes(frames[:3], frames) == [("frame added", "message")]
    blind = message(frame_id=None, seq=2, status="stalled", labels=[])
    assert changes([*frames, blind], [*frames, blind]) == []
    turned = [frames[1], frames[0], *frames[2:]]
    assert changes(frames, turned) == [("order", "message")]


def test_another_runtime_is_the_same_within_the_stated_tolerance(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    """docs/recording.md states 0.005 for float32."""
    out = tmp_path / "torch.jsonl"
    options = ["--speed", "max", "--to", "1", "--set", "model.precision=fp32"]
    in_process("replay", recording, *options, "--runtime", "torch", "--jsonl", out)
    for runtime in ("onnxruntime", "openvino"):
        done = in_process(
            "replay", recording, *options, "--runtime", runtime, "--expect", out,
            "--tolerance", 0.005,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


# Control code against a recording.


def test_control_code_runs_against_a_recording_without_waiting(
    recorded_labels: Play, recording: Path
) -> None:
    labels = recorded_labels(recording, "front")
    started = time.monotonic()
    seen: Counter[str] = Counter()
    fresh = ticks = 0
    while labels.advance(0.05):  # a control loop of 20 Hz
        ticks += 1
        message = labels.latest(max_age_s=0.2)
        if message is not None and message.best is not None:
            fresh += 1
            assert 0 <= message.age_s <= 0.2
            seen[message.best.name] += 1
    assert time.monotonic() - started < labels.now_s
    assert fresh > 3
    assert seen["espresso"] > 0
    labels.advance(5.0)  # beyond its end
    with pytest.raises(NodeGoneError):
        labels.require(0.2)


def test_an_outage_of_a_recording_is_one_again(recording: Path, tmp_path: Path) -> None:
    """With the real messages of the recording, and cameras that are lost in its second second."""
    source = Recording([recording])
    begin_ns, end_ns = source.start_ns + 1_000_000_000, source.start_ns + 2_000_000_000
    lost = tmp_path / "lost.mcap"
    file = RecordingFile(lost, {})
    frame = next(source.frames()).frame()
    file.write(frame_entries(frame, source.start_ns, quality=50, lost_before=0))
    stalled: set[str] = set()
    for log_ns, message in source.messages():
        if not (isinstance(message, LabelsMessage) and begin_ns <= log_ns < end_ns):
            file.write(message_entries(message, log_ns))
        elif message.camera not in stalled:
            stalled.add(message.camera)
            blind = LabelsMessage(
                node=message.node, camera=message.camera, session=message.session, seq=message.seq,
                status=Status.STALLED, published_ns=message.published_ns,
            )  # fmt: skip
            file.write(message_entries(blind, log_ns))
    file.close()
    stale: list[NotUsableError] = []
    fresh: list[LabelsMessage] = []
    seen = blind = 0
    with RecordedLabels(lost) as labels:
        labels.on_stale(0.3, stale.append, on_fresh=fresh.append)
        while labels.advance(0.02):
            try:
                assert labels.require(0.2).age_s <= 0.2
                seen += 1
            except NotUsableError as error:  # or too old, where this computer was slow then
                # Before the first frame the camera was not there yet.
                blind += seen > 0 and isinstance(error, CannotSeeError)
    assert 30 <= blind <= 75  # 0.8 s at 50 Hz, from when the last labels were too old
    assert seen > 10
    assert any(isinstance(error, CannotSeeError) for error in stale)
    assert fresh


def test_a_replays_messages_serve_as_well(golden: Path) -> None:
    with RecordedLabels(golden) as labels:
        message = labels.wait_for("espresso", timeout_s=5.0)
        assert message.shows("espresso")
        count = sum(1 for _ in labels)
        assert count > 60
        assert labels.over


def test_the_readmes_test_of_control_code_runs_as_it_stands(
    recorded_labels: Play, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = (ROOT / "docs" / "recording.md").read_text().partition("### Test control code")[2]
    code = part.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "drive.mcap").symlink_to(recording)
    monkeypatch.chdir(tmp_path)
    namespace: Map = {}
    exec(code, namespace)
    namespace["test_the_robot_drives_on_when_it_sees_espresso"](recorded_labels)
