"""Several runs in one folder: the newest is what was recorded last, whatever the clock, the times
of the files or their names say."""

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Run
from support import foreign
from support.recordings import NOISE, START_NS, labels

from node.errors import SourceError
from node.image.frame import Frame, Stamp
from node.recording.encode import frame_entries, message_entries
from node.recording.folder import RecordingFolder
from node.recording.mcap_writer import RecordingFile
from node.recording.new_files import NewFiles
from node.recording.reader import Recording
from node.recording.runs import open_recording
from perception_client.messages.kinds import LabelsMessage, Status
from perception_client.recordings.runs import find_recording, runs_of
from perception_client.testing.recorded import RecordedLabels

DAY_S = 86_400.0


def record(
    folder: Path, node: str, session: str, ahead_s: float = 0.0, kind: str = "", frames: int = 3
) -> Path:
    """One file as the recorder makes it. ahead_s: how far the clock of the computer is ahead."""
    files = NewFiles(
        RecordingFolder(folder, node, None, 0), {"node": node, "session": session}, lambda at_ns: ()
    )
    at_ns = START_NS + round(ahead_s * 1e9)
    file = files.make(at_ns, kind)
    for number in range(frames):
        frame = Frame(NOISE, "front", number, Stamp(at_ns, None, "media"), None, 0)
        file.write(frame_entries(frame, at_ns + number * 10**8, quality=30, lost_before=0))
    file.close()
    moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(at_ns / 1e9))
    begin, _, number_part = file.path.name.removeprefix(f"{node}_").partition("Z")
    path = file.path.rename(folder / f"{node}_{moment}{number_part}")
    assert begin
    os.utime(path, (at_ns / 1e9, at_ns / 1e9))
    return path


def newest(folder: Path) -> tuple[Path, ...]:
    opened = open_recording(str(folder))
    assert opened is not None
    return opened.recording.paths


@pytest.mark.parametrize("nodes", [("arm", "arm", "arm"), ("arm", "base", "arm"), ("b", "a", "c")])
def test_the_newest_run_is_what_was_recorded_last(tmp_path: Path, nodes: tuple[str, ...]) -> None:
    clocks = (3 * DAY_S, 0.0, -2 * DAY_S)
    made = [record(tmp_path, node, str(n), clocks[n]) for n, node in enumerate(nodes)]
    assert newest(tmp_path) == (made[2],)
    for path in reversed(made):  # as a tool that copies without times leaves them
        os.utime(path)
    assert newest(tmp_path) == (made[2],)
    kept = made[2].rename(tmp_path / "a drive to keep.mcap")
    assert newest(tmp_path) == (kept,)
    assert [run.name for run in runs_of(find_recording(str(tmp_path)) or [])][-1] == kept.stem


def test_the_parts_and_black_boxes_of_a_run_are_one(tmp_path: Path) -> None:
    first = record(tmp_path, "arm", "one", DAY_S)
    parts = [record(tmp_path, "arm", "two", ahead_s) for ahead_s in (0.0, 1.0)]
    parts.append(record(tmp_path, "arm", "two", 0.5, kind="black-box_request"))
    other = record(tmp_path, "base", "three", 9.0)
    assert set(newest(tmp_path)) == {other}
    opened = open_recording(str(tmp_path), run=parts[1].name)
    assert opened is not None
    assert set(opened.recording.paths) == set(parts)
    assert opened.note is None
    opened = open_recording(str(tmp_path), run="one")
    assert opened is not None
    assert opened.recording.paths == (first,)
    opened = open_recording(str(tmp_path), run="arm")  # the newest of the node
    assert opened is not None
    assert set(opened.recording.paths) == set(parts)


def test_of_folders_that_were_put_together_the_times_decide(tmp_path: Path) -> None:
    """Two robots have the same numbers; within one robot the numbers count as before."""
    for name in ("one", "two", "both"):
        (tmp_path / name).mkdir()
    old = [record(tmp_path / "one", "arm", "a", 5.0), record(tmp_path / "one", "arm", "b", -5.0)]
    new = [
        record(tmp_path / "two", "base", "c", DAY_S),
        record(tmp_path / "two", "base", "d", 50.0),
    ]
    for path in (*old, *new):
        shutil.copyfile(path, tmp_path / "both" / path.name)
    assert newest(tmp_path / "both") == (tmp_path / "both" / new[1].name,)


def test_recordings_of_other_programs_are_runs(tmp_path: Path) -> None:
    channel = foreign.Channel("/arm/image", "foxglove.CompressedImage", "protobuf")

    def write(name: str, later_s: float) -> Path:
        records = foreign.records(channel, foreign.still("protobuf"), 3)
        shifted = (
            replace(record, log_ns=record.log_ns + round(later_s * 1e9)) for record in records
        )
        return foreign.write(tmp_path / f"{name}.mcap", shifted)

    drive = [write("drive_9", 0.0), write("drive_10", 0.2), write("drive_11", 0.4)]
    assert newest(tmp_path) == tuple(drive)
    again = write("drive_12", 7200.0)  # too late to be a part of it
    assert newest(tmp_path) == (again,)
    other = write("a", DAY_S)
    assert newest(tmp_path) == (other,)
    opened = open_recording(str(tmp_path), run="drive_10")
    assert opened is not None
    assert opened.recording.paths == tuple(drive)
    own = record(tmp_path, "arm", "one", 365 * DAY_S)
    assert newest(tmp_path) == (own,)


def test_a_file_in_which_nothing_is_readable_hides_no_run(tmp_path: Path, in_process: Run) -> None:
    made = [record(tmp_path, "arm", "one", ahead_s) for ahead_s in (0.0, 1.0)]
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "text.mcap").write_text("no recording")
    made[1].write_bytes(made[1].read_bytes()[:400])  # after a power cut
    done = in_process("report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "holds nothing that can be read" in (tmp_path / "report.html").read_text()
    assert sum(1 for _ in Recording(newest(tmp_path)).frames()) == 3
    made[0].unlink()
    with pytest.raises(SourceError, match="holds nothing that can be read"):
        open_recording(str(tmp_path))
    other = record(tmp_path, "arm", "two")
    opened = open_recording(str(tmp_path))
    assert opened is not None
    assert opened.recording.paths[0] == other
    assert any("empty.mcap is empty (0 bytes)" in problem for problem in opened.recording.problems)


def test_every_command_reads_the_newest_run_or_the_one_that_is_named(
    tmp_path: Path, in_process: Run
) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    old = record(folder, "arm", "one", DAY_S, frames=2)
    new = record(folder, "arm", "two", frames=4)
    note = f"{folder} holds 2 runs; this is the newest, {new.stem}; --run NAME reads another: "
    commands = {
        "replay": ["--runtime", "torch", "--speed", "max", "--jsonl"], "export jsonl": [],
        "export video": [], "export imagefolder": [], "export coco": [], "export ros2": [],
        "report": ["--output"],
    }  # fmt: skip
    for command, options in commands.items():
        name = f"{command}.mp4" if command == "export video" else command
        done = in_process(*command.split(), folder, *options, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert note + old.stem in done.stderr
        done = in_process(*command.split(), folder, *options, tmp_path / "none", "--run", "thre")
        assert done.returncode == 3
        assert f"{folder} holds no run 'thre'; its runs: {new.stem}, {old.stem}" in done.stderr
    done = in_process("replay", folder, *commands["replay"], tmp_path / "old", "--run", old.stem)
    assert done.returncode == 0, done.stderr
    assert "runs" not in done.stderr
    for name, frames in (("replay", 4), ("old", 2)):
        lines = (tmp_path / name).read_text().splitlines()
        assert [json.loads(line)["frame_id"] for line in lines] == list(range(frames))


def played(path: Path, messages: Iterable[tuple[float, LabelsMessage]]) -> list[float]:
    """The ages of labels. messages: with their times on the recording's clock, in s."""
    file = RecordingFile(path, {"session": "s", "node": "n"})
    frame = Frame(NOISE, "front", 0, Stamp(START_NS, None, "media"), None, 0)
    file.write(frame_entries(frame, START_NS, quality=30, lost_before=0))
    for at_s, message in messages:
        file.write(message_entries(message, START_NS + round(at_s * 1e9)))
    file.close()
    with RecordedLabels(path) as source:
        return [message.age_s for message, _ in source]


@pytest.mark.parametrize("step_s", [0.0, 0.3, -0.3, 3600.0, -3600.0, -400 * DAY_S])
@pytest.mark.parametrize("has_monotonic", [True, False])
def test_ages_do_not_follow_a_clock_that_is_set_while_recording(
    tmp_path: Path, step_s: float, has_monotonic: bool
) -> None:
    messages = []
    for number in range(8):
        at_s = number / 10
        message = labels(at_s + (step_s if number >= 4 else 0.0), number)
        assert message.stamp_ns is not None
        mono_ns = 10**12 + round(at_s * 1e9)
        message = replace(message, stamp_ns=message.stamp_ns - 40_000_000)
        if has_monotonic:
            message = replace(
                message, stamp_mono_ns=mono_ns - 40_000_000, published_mono_ns=mono_ns
            )
        messages.append((at_s, message))
    assert played(tmp_path / "a.mcap", messages) == pytest.approx([0.04] * 8, abs=0.001)


def test_a_folder_with_several_runs_is_told_to_a_test(tmp_path: Path) -> None:
    for session, ahead_s, status in (("one", DAY_S, Status.OK), ("two", 0.0, Status.PAUSED)):
        path = record(tmp_path, "n", session, ahead_s)
        file = RecordingFile(
            path.with_suffix(".x.mcap"), {"node": "n", "session": session, "number": "1"}
        )
        file.write(message_entries(labels(0.0, 0, status), START_NS))
        file.close()
    with pytest.warns(UserWarning, match="holds 2 runs; this is the newest, n_"):
        source = RecordedLabels(tmp_path)
    assert [message.status for message, _ in source] == [Status.PAUSED]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = RecordedLabels(tmp_path, run="one")
    assert [message.status for message, _ in source] == [Status.OK]
