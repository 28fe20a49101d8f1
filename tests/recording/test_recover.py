"""What is left of a recording that was cut off and damaged, and what `recover` leaves alone."""

import errno
import itertools
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from conftest import Run, Start, stop
from mcap.reader import NonSeekingReader, make_reader
from mcap.records import Channel, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import Writer
from support.waiting import wait_until

from node.errors import SourceError
from node.image.frame import Frame, Stamp
from node.image.jpeg import encode_jpeg
from node.recording.encode import frame_entries
from node.recording.mcap_writer import RecordingFile, delete_unless_written, hold, is_being_written
from node.recording.reader import Recording
from node.recording.recover import is_whole, recover
from perception_client.recordings.mcap_file import ChunkedFile, open_chunked
from perception_client.recordings.records import Entry
from perception_client.subscriber import Subscriber

WAIT_S = 20.0
FRAMES = 24
PER_CHUNK = 3
REAR_FROM = 9
"""The camera `rear` comes that many frames after `front`."""


def entries() -> list[list[Entry]]:
    """By the chunk: two records a frame of `front`, and from REAR_FROM on two of `rear`."""
    return [
        [
            entry
            for number in range(first, first + PER_CHUNK)
            for camera in ("front", "rear")[: 1 + (number >= REAR_FROM)]
            for entry in frame_entries(picture(camera, number), number + 1, quality=90,
                                       lost_before=0)
        ]
        for first in range(0, FRAMES, PER_CHUNK)
    ]  # fmt: skip


def picture(camera: str, number: int) -> Frame:
    image = np.full((8, 8, 3), number, np.uint8)
    stamp = Stamp(number, number, "host")
    return Frame(image, camera, number, stamp, None, 0, jpeg=encode_jpeg(image, 90))


def write(path: Path) -> Path:
    file = RecordingFile(path, {"session": "s"})
    for chunk in entries():
        file.write(chunk)
        file.flush()
    file.close()
    return path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write(tmp_path / "written.mcap")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As versions before wrote it: channels are defined in the chunk of their first use only."""
    with monkeypatch.context() as patch:
        patch.setattr(RecordingFile, "_repeat_definitions", lambda self: None)
        return write(tmp_path / "old.mcap")


def cut(path: Path, *damaged: int) -> Path:
    """The same without its index and last chunk, with a bit flipped in some of its chunks."""
    data = bytearray(path.read_bytes())
    whole = open_chunked(path)
    for number in damaged:
        data[whole.chunks[number].offset + 200] ^= 1
    broken = path.with_name("cut.mcap")
    broken.write_bytes(data[: whole.chunks[-1].offset])
    return broken


def frames_of(path: Path) -> dict[str, list[int]]:
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for frame in Recording([path]).frames():
        numbers[frame.camera].append(frame.frame_id)
    return numbers


@pytest.mark.parametrize("damaged", range(FRAMES // PER_CHUNK - 1))
def test_a_damaged_chunk_costs_itself_and_no_camera(written: Path, damaged: int) -> None:
    broken = cut(written, damaged)
    lost = range(damaged * PER_CHUNK, (damaged + 1) * PER_CHUNK)
    kept = [number for number in range(FRAMES - PER_CHUNK) if number not in lost]
    expected = {"front": kept, "rear": [number for number in kept if number >= REAR_FROM]}
    assert frames_of(broken) == expected
    saved = broken.with_name("saved.mcap")
    recover(broken, saved)
    assert is_whole(saved)
    assert frames_of(saved) == expected


def test_of_copies_that_differ_the_commonest_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.recording.mcap_writer.REPEAT_S", 0.0)
    broken = cut(write(tmp_path / "written.mcap"), 0)
    data = bytearray(broken.read_bytes())
    first_chunk = data.index(b"/front/image")
    data[data.index(b"/front/image", first_chunk + 1) + 1] ^= 1  # the copy after it
    broken.write_bytes(data)
    assert frames_of(broken)["front"] == list(range(PER_CHUNK, FRAMES - PER_CHUNK))


def test_messages_of_unknown_channels_are_counted(old: Path) -> None:
    """A file of a version before: what its damaged chunk defined is lost, and said."""
    assert frames_of(old)["front"] == list(range(FRAMES))
    broken = cut(old, REAR_FROM // PER_CHUNK)
    problem = f"{broken}: {3 * PER_CHUNK * 2} messages of unknown channels are skipped"
    opened = Recording([broken])
    assert [line for line in opened.problems if problem in line]
    assert [frame.frame_id for frame in opened.frames()] == [
        number
        for number in range(FRAMES - PER_CHUNK)
        if number not in range(REAR_FROM, REAR_FROM + PER_CHUNK)
    ]
    assert (
        sum("unknown channels" in line for line in opened.problems) == 1
    )  # read twice, counted once


def test_recover_does_without_a_schema(old: Path, in_process: Run) -> None:
    """`rear` is defined in a chunk that is intact, its schema in one that is not."""
    broken = cut(old, 0)
    saved = broken.with_name("cut_recovered.mcap")
    done = in_process("recover", broken)
    assert done.returncode == 0, done.stderr
    assert "/rear/image: its schema is damaged or missing; saved without it" in done.stderr
    assert "messages of unknown channels are skipped" in done.stderr
    with saved.open("rb") as stream:
        topics = [
            (schema, channel.topic)
            for schema, channel, _ in make_reader(stream, True).iter_messages()
        ]
    assert set(topics) == {(None, "/rear/image"), (None, "frames/rear/")}
    assert len(topics) == 2 * (FRAMES - PER_CHUNK - REAR_FROM)


def test_where_all_channels_are_unknown_that_is_said(old: Path) -> None:
    with pytest.raises(SourceError, match="messages of unknown channels are skipped"):
        open_chunked(cut(old, 0, REAR_FROM // PER_CHUNK))


def test_whatever_stops_recover_leaves_no_file(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: Writer) -> NoReturn:
        raise ZeroDivisionError

    monkeypatch.setattr(Writer, "finish", finish)
    saved = written.with_name("saved.mcap")
    with pytest.raises(ZeroDivisionError):
        recover(written, saved)
    assert not saved.exists()


def test_the_formats_own_readers_take_repeated_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.recording.mcap_writer.REPEAT_S", 0.0)
    path = write(tmp_path / "written.mcap")
    expected = [entry.data for entry in itertools.chain(*entries())]
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.channel_count == len(summary.channels) == 4
        assert summary.statistics.message_count == len(expected)
        read = [
            message.data
            for schema, _, message in reader.iter_messages(log_time_order=False)
            if schema
        ]
        assert read == expected
        assert {channel.topic for _, channel, _ in reader.iter_messages(topics="/rear/image")}
        stream.seek(0)
        straight = NonSeekingReader(stream, validate_crcs=True).iter_messages(log_time_order=False)
        assert [message.data for _, _, message in straight] == expected
        stream.seek(0)
        defined: defaultdict[tuple[type, int], list[Channel | Schema]] = defaultdict(list)
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Channel | Schema):
                defined[type(record), record.id].append(record)
    for same in defined.values():
        assert len(same) > FRAMES // PER_CHUNK - REAR_FROM
        assert all(definition == same[0] for definition in same)


def test_repeated_channels_cost_little(written: Path, old: Path) -> None:
    """Once at their first use; then every REPEAT_S."""
    once = written.stat().st_size - old.stat().st_size
    assert 0 < once < 4000
    assert open_chunked(written).chunks[0] == open_chunked(old).chunks[0]


def test_an_index_is_read_without_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.recording.mcap_writer.REPEAT_S", 0.0)
    path = write(tmp_path / "written.mcap")

    def contents(*_: object) -> NoReturn:
        raise AssertionError

    monkeypatch.setattr(ChunkedFile, "contents", contents)
    assert len(open_chunked(path).chunks) == FRAMES // PER_CHUNK


def test_a_node_that_records_keeps_its_file(
    start_node: Start, in_process: Run, ipc: str, tmp_path: Path, written: Path
) -> None:
    folder = tmp_path / "recordings"
    node = start_node("record", "--source", "demo", "--endpoint", ipc, "--output", folder)
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber:
        for _ in range(20):
            subscriber.receive(WAIT_S)
        (path,) = folder.glob("*.mcap")
        broken = shutil.copy(cut(written), folder / "broken.mcap")
        done = in_process("recover", "--in-place", folder)
        warning = f"{path} is being written, left alone; stop the recording first\n"
        assert done.returncode == 0, done.stderr
        assert warning in done.stderr
        assert "records of" in done.stdout
        assert is_whole(broken)
        named = in_process("recover", path)
        assert (named.returncode, named.stderr.startswith(warning)) == (3, True)
        last = [subscriber.receive(WAIT_S)[0].seq for _ in range(20)][-1]
    assert stop(node)[0] == 0
    assert sorted(folder.iterdir()) == sorted([path, broken])
    assert last in {message.seq for _, message in Recording([path]).messages("labels")}
    assert in_process("recover", path).stdout == f"{path}: whole, left as it is\n"


@pytest.mark.parametrize(
    ("options", "name"), [((), "cut_recovered.mcap"), (("--in-place",), ".cut.mcap.repairing")]
)
def test_two_mendings_of_one_file_do_not_take_it_from_each_other(
    written: Path, in_process: Run, options: tuple[str, ...], name: str
) -> None:
    broken = cut(written, 0)
    content = broken.read_bytes()
    with broken.with_name(name).open("xb") as other:
        assert hold(other)
        other.write(b"half of it")
        done = in_process("recover", broken, *options)
        assert done.returncode == 3
        assert f"{broken} is being repaired by another command, left alone" in done.stderr
    assert broken.with_name(name).read_bytes() == b"half of it"
    assert broken.read_bytes() == content


def test_no_budget_deletes_a_file_during_its_repair(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[bool] = []

    def finish(self: Writer) -> None:
        deleted.append(delete_unless_written(saved))

    saved = written.with_name("saved.mcap")
    monkeypatch.setattr(Writer, "finish", finish)
    recover(written, saved)
    assert deleted == [False]


def test_a_file_that_goes_while_it_is_looked_at_is_said(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> ChunkedFile:
        opened = open_chunked(path)
        path.unlink()
        return opened

    monkeypatch.setattr("node.recording.recover.open_chunked", gone)
    with pytest.raises(SourceError, match="was it deleted meanwhile"):
        is_whole(written)


@pytest.mark.parametrize("end", [RecordingFile.close, RecordingFile.abandon])
def test_a_file_is_locked_while_it_is_open(
    tmp_path: Path, end: Callable[[RecordingFile], None]
) -> None:
    path = tmp_path / "open.mcap"
    assert not is_being_written(path)
    file = RecordingFile(path, {})
    assert is_being_written(path)
    end(file)
    assert not is_being_written(path)


@pytest.mark.parametrize("end", [RecordingFile.close, RecordingFile.abandon])
def test_a_file_is_unlocked_while_something_else_refers_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[RecordingFile], None]
) -> None:
    """A sync in progress refers to the open file: on a slow disk it outlasts the file's end."""
    in_progress: list[int] = []

    def fdatasync(descriptor: int) -> None:
        in_progress.append(os.dup(descriptor))

    monkeypatch.setattr("node.recording.mcap_writer.os.fdatasync", fdatasync)
    path = tmp_path / "open.mcap"
    file = RecordingFile(path, {})
    file.flush()
    wait_until(lambda: bool(in_progress))
    try:
        end(file)
        assert not is_being_written(path)
    finally:
        for descriptor in in_progress:
            os.close(descriptor)


def test_a_file_system_without_locks_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> NoReturn:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("node.recording.mcap_writer.fcntl.flock", flock)
    path = write(tmp_path / "written.mcap")
    assert not is_being_written(path)
    assert is_whole(path)
