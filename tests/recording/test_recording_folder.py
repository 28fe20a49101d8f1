"""Recordings that share a folder: their order, their budget, and what becomes of a file that
somebody takes away."""

import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import pytest
from support.waiting import wait_until

from node.config.load import changed
from node.config.schema import NodeConfig
from node.errors import OutputError
from node.image.frame import Frame, Stamp
from node.recording import mcap_writer as file_module
from node.recording import recorder as recorder_module
from node.recording.dump_trigger import MOST_WAIT_S, DumpLimit
from node.recording.folder import RecordingFolder
from node.recording.mcap_writer import RecordingFile, delete_unless_written, is_being_written
from node.recording.reader import Recording
from node.recording.recorder import Recorder
from node.recording.recover import is_whole
from perception_client.messages.kinds import EventMessage, LabelsMessage, Status
from perception_client.recordings.names import in_order

WAIT_S = 20.0
KIB = 1024
JPEG = b"\xff\xd8" + bytes(100 * KIB)
DAY_S = 86_400


def frame(number: int, jpeg: bytes = JPEG) -> Frame:
    import numpy as np

    image = np.zeros((0, 0, 3), np.uint8)
    return Frame(image, "front", number, Stamp.now(), None, 0, jpeg=jpeg)


def status(seq: int, value: Status, camera: str = "front") -> LabelsMessage:
    return LabelsMessage(
        node="perception", camera=camera, session="s", seq=seq, status=value,
        frame_id=seq if value is Status.OK else None, published_ns=time.time_ns(),
    )  # fmt: skip


def files_in(folder: Path) -> list[Path]:
    return in_order(folder.glob("*.mcap"))


@pytest.fixture
def recorders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Recorder]]:
    """Recorders that look after their files fifty times a second."""
    monkeypatch.setattr(recorder_module, "FLUSH_S", 0.02)
    made: list[Recorder] = []

    def make(**settings: object) -> Recorder:
        prefixed = {f"recording.{key}": value for key, value in settings.items()}
        folder = {"recording.folder": str(tmp_path), "recording.keep_free_mb": 0}
        recorder = Recorder(changed(NodeConfig(), {**folder, **prefixed}), "session")
        recorder.start()
        made.append(recorder)
        return recorder

    yield make
    for recorder in made:
        assert recorder.close(5.0)


# Order.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the wall clock that names are made of, in seconds."""
    real = time.gmtime

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(
            "node.recording.folder.time.gmtime", lambda at=None: real(seconds if at is None else at)
        )

    return set_to


def made_at(folder: RecordingFolder, kind: str = "", size: int = 1000) -> Path:
    folder.make_room()
    path = folder.new_path(kind)
    path.write_bytes(bytes(size))
    return path


@pytest.mark.parametrize("steps_s", [(0, -DAY_S, -DAY_S + 5), (0, DAY_S, -DAY_S, 0), (0, 0, 0, 0)])
def test_the_oldest_is_what_was_made_first_whatever_the_clock_said(
    tmp_path: Path, clock: Callable[[float], None], steps_s: tuple[float, ...]
) -> None:
    folder = RecordingFolder(tmp_path, "arm", None, 0)
    made = []
    for step_s in steps_s:
        clock(1_700_000_000 + step_s)
        made.append(made_at(folder))
    assert files_in(tmp_path) == made
    for kept in range(len(made) - 1, 0, -1):
        RecordingFolder(tmp_path, "arm", kept * 1000, 0).make_room()
        assert files_in(tmp_path) == made[-kept:]


def test_a_clock_that_is_set_back_while_recording_costs_the_oldest(
    recorders: Callable[..., Recorder], clock: Callable[[float], None]
) -> None:
    recorder = recorders(split_mb=1, budget_mb=2)
    clock(1_700_000_000)
    seen: list[Path] = [recorder.begin().result(WAIT_S)]
    numbers = itertools.count()

    def record_more() -> bool:
        recorder.frame(frame(next(numbers)))
        time.sleep(0.005)  # a camera of 200 frames a second
        now = Path(str(recorder.health.file))
        if now != seen[-1]:
            seen.append(now)
            clock(1_700_000_000 - DAY_S * len(seen))
        return len(seen) > 5

    wait_until(record_more)
    last = recorder.end().result(WAIT_S)
    assert last == seen[-1]
    there = [path for path in seen if path.exists()]
    assert there == seen[-len(there) :]
    assert 0 < len(there) < 4  # the end writes what waits, however much that is
    assert [frame.log_ns for frame in Recording(there).frames()] == sorted(
        frame.log_ns for path in there for frame in Recording([path]).frames()
    )


def test_what_an_end_still_writes_is_within_the_budget(
    recorders: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_S", WAIT_S)
    recorder = recorders(split_mb=1, budget_mb=2)
    ended = []
    for _ in range(2):
        recorder.begin().result(WAIT_S)
        for number in range(15):
            recorder.frame(frame(number))
        ended.append(recorder.end().result(WAIT_S))
    assert files_in(tmp_path) == ended[1:]


def test_versions_before_had_no_number_and_count_as_older(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    old = [f"arm_2027-01-01T00-00-00Z{again}.mcap" for again in ("", "_001", "_002")]
    boxes = [f"arm_2027-01-01T00-00-00Z_black-box_no_camera{again}.mcap" for again in ("", "_001")]
    for name in [*boxes, *old]:
        (tmp_path / name).write_bytes(bytes(1000))
    clock(1_700_000_000)  # years before
    new = made_at(RecordingFolder(tmp_path, "arm", None, 0))
    RecordingFolder(tmp_path, "arm", 4000, 0).make_room()
    assert {path.name for path in files_in(tmp_path)} == {old[2], new.name, *boxes}
    RecordingFolder(tmp_path, "arm", 1000, 0).make_room()
    assert [path.name for path in files_in(tmp_path)] == [boxes[1]]  # black boxes last


def test_what_no_recorder_made_is_left_alone(tmp_path: Path) -> None:
    folder = RecordingFolder(tmp_path / "folder", "arm", None, 0)
    first, second, third = (made_at(folder) for _ in range(3))
    kept = second.rename(second.with_name(f"{second.stem}_keep.mcap"))
    elsewhere = tmp_path / "elsewhere.mcap"
    shutil.copy(third, elsewhere)
    link = first.with_name(first.name.replace("000001", "000101"))
    link.symlink_to(elsewhere)
    a_folder = first.with_name(first.name.replace("000001", "000102"))
    a_folder.mkdir()
    pipe = first.with_name(first.name.replace("000001", "000103"))
    os.mkfifo(pipe)
    odd = Path(os.fsdecode(bytes(first.parent) + b"/arm_\xff\n.mcap"))
    odd.touch()
    RecordingFolder(tmp_path / "folder", "arm", 1, 0).make_room(third)
    assert set(first.parent.iterdir()) == {kept, third, link, a_folder, pipe, odd}
    assert elsewhere.exists()
    assert folder.new_path().name.endswith("_000104.mcap")


def test_a_folder_of_many_files_is_looked_through_in_a_fiftieth_of_the_time(tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / f"arm_2026-01-01T00-00-00Z_{number:06d}.mcap").touch()
    folder = RecordingFolder(tmp_path, "arm", 10_000_000, 0)

    def seconds(looks: int) -> float:
        began = time.thread_time()
        for _ in range(looks):
            folder.make_room_when_due()
        return time.thread_time() - began

    first_s = seconds(1)
    assert seconds(100) < first_s / 2


# Who writes what.


def test_nobody_deletes_what_another_writes(tmp_path: Path) -> None:
    folder = RecordingFolder(tmp_path, "arm", 1, 0)
    mine = RecordingFile(folder.new_path(), {})
    mine.flush()
    closed = made_at(RecordingFolder(tmp_path, "arm", None, 0))
    folder.make_room()
    assert not closed.exists()
    assert mine.is_in_place
    assert folder.problem is not None
    assert "take more than recording.budget_mb = 0" in folder.problem
    assert not delete_unless_written(mine.path)
    mine.close()
    deadline = time.monotonic() + WAIT_S
    while folder.problem is not None:  # looks through the folder are spaced out
        assert time.monotonic() < deadline
        folder.make_room()
        time.sleep(0.01)
    assert not mine.path.exists()


def test_a_node_that_ends_leaves_the_newest_file_of_another_that_ended(tmp_path: Path) -> None:
    files = [tmp_path / f"perception_2026-01-01T00-00-00Z_00000{n}.mcap" for n in (1, 2, 3)]
    for file in files:
        file.write_bytes(bytes(3 * KIB))
    folder = RecordingFolder(tmp_path, "perception", 2 * KIB, 0)  # less than any of them
    folder.keep_budget(files[1], spare_newest=True)
    assert files_in(tmp_path) == files[1:]
    folder.make_room()  # the next recording begins
    assert not files_in(tmp_path)


def _record(folder: Path, frames: int, control: Connection) -> None:
    """A recorder in a process of its own; the file that it ended, and what health said."""
    recorder_module.FLUSH_S = 0.02
    limits = {"folder": str(folder), "keep_free_mb": 0, "split_mb": 1, "budget_mb": 2}
    config = changed(NodeConfig(), {f"recording.{key}": value for key, value in limits.items()})
    recorder = Recorder(config, f"session {os.getpid()}")
    recorder.start()
    recorder.begin().result(WAIT_S)
    control.send(None)
    for number in range(frames):
        recorder.frame(frame(number))
        time.sleep(0.005)  # a camera of 200 frames a second
    ended = recorder.end().result(WAIT_S)
    health = recorder.health
    recorder.close(WAIT_S)
    control.send((ended, health.last_error, health.lost_frames))


def test_two_nodes_of_one_name_share_a_folder_and_its_budget(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pipes, nodes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        node = context.Process(target=_record, args=(tmp_path, 100, theirs))
        node.start()
        pipes.append(ours)
        nodes.append(node)
    most = 0
    results = []
    for pipe in pipes:
        assert pipe.poll(WAIT_S)
        pipe.recv()
    for pipe in pipes:
        while not pipe.poll(0.01):
            most = max(most, sum(_size(path) for path in tmp_path.glob("*.mcap")))
        results.append(pipe.recv())
    for node in nodes:
        node.join(WAIT_S)
        assert node.exitcode == 0
    last = [ended for ended, _, _ in results]
    for _, error, lost in results:
        assert error is None or "take more than recording.budget_mb" in error
        assert lost == 0
    (newest,) = files_in(tmp_path)[-1:]
    assert newest in last  # the other one may have been the oldest in its turn
    assert 99 in [frame.frame_id for frame in Recording([newest]).frames()]
    assert most < 16 * KIB**2  # of 20: the budget, two files, and what comes between two looks
    for left in tmp_path.glob("*.mcap"):
        assert is_whole(left)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_name_that_another_takes_in_the_same_moment_is_not_mine(
    recorders: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice of a name and its use, and between the making and its lock."""
    real_new, real_hold = RecordingFolder.new_path, file_module.hold
    paths: list[Path] = []

    def new_path(self: RecordingFolder, kind: str = "") -> Path:
        path = real_new(self, kind)
        if not paths:
            path.write_bytes(b"of another")
            paths.append(path)
        return path

    def hold(stream: object) -> bool:
        if len(paths) == 1:
            paths.append(Path(stream.name))  # type: ignore[attr-defined]
            paths[1].unlink()
        return real_hold(stream)  # type: ignore[arg-type]

    monkeypatch.setattr(RecordingFolder, "new_path", new_path)
    monkeypatch.setattr(file_module, "hold", hold)
    path = recorders().begin().result(WAIT_S)
    assert len(paths) == 2
    assert paths[0].read_bytes() == b"of another"
    assert is_being_written(path)


def test_where_every_name_is_taken_that_is_said(
    recorders: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "taken.mcap"
    path.write_bytes(b"of another")
    monkeypatch.setattr(RecordingFolder, "new_path", lambda self, kind="": path)
    with pytest.raises(OutputError, match="others take every new name"):
        recorders().begin().result(WAIT_S)
    assert path.read_bytes() == b"of another"


# What is taken away.


def remove(path: Path) -> None:
    path.unlink()


def replace_by_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"of another")
    other.replace(path)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("take_away", [remove, replace_by_another, remove_folder])
def test_a_file_that_is_removed_is_said_and_the_recording_goes_on(
    recorders: Callable[..., Recorder], tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    recorder = recorders(folder=str(tmp_path / "folder"))
    gone = recorder.begin().result(WAIT_S)
    recorder.frame(frame(0))
    wait_until(lambda: recorder.health.bytes > len(JPEG))
    take_away(gone)
    wait_until(lambda: recorder.health.last_error is not None and
               "goes on" in recorder.health.last_error)  # fmt: skip
    health = recorder.health
    assert health.state == "recording"
    assert health.file != str(gone)
    assert f"{gone} was removed while it was written: 0.1 MiB of 0 s are lost" in str(
        health.last_error
    )
    recorder.frame(frame(1))
    ended = recorder.end().result(WAIT_S)
    assert ended is not None
    assert [frame.frame_id for frame in Recording([ended]).frames()] == [1]
    assert recorder.health.state == "off"
    assert "was removed" in str(recorder.health.last_error)
    assert recorder.failure == f"{gone} was removed while it was written: 0.1 MiB of 0 s are lost"
    recorder.begin().result(WAIT_S)
    assert recorder.health.last_error is None


def test_a_file_that_is_moved_is_whole_where_it_is(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = recorders()
    path = recorder.begin().result(WAIT_S)
    recorder.frame(frame(0))
    wait_until(lambda: recorder.health.bytes > len(JPEG))
    moved = path.rename(tmp_path / "moved.mcap")
    wait_until(lambda: recorder.health.file != str(path))
    assert is_whole(moved)
    assert not is_being_written(moved)
    assert [frame.frame_id for frame in Recording([moved]).frames()] == [0]
    wait_until(lambda: "was moved while it was written" in str(recorder.health.last_error))
    recorder.end().result(WAIT_S)
    assert recorder.failure is None


def test_an_end_tells_of_a_file_that_was_removed_just_before(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "FLUSH_S", WAIT_S)
    recorder = recorders()
    recorder.begin().result(WAIT_S).unlink()
    with pytest.raises(OutputError, match="was removed while it was written"):
        recorder.end().result(WAIT_S)
    assert recorder.health.state == "failed"
    assert recorder.begin().result(WAIT_S).exists()
    assert recorder.health.state == "recording"


def test_a_disk_that_fills_up_leaves_whole_files(
    recorders: Callable[..., Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others fill it: what stays free for them is room for the index."""
    recorder = recorders(keep_free_mb=1)
    path = recorder.begin().result(WAIT_S)
    recorder.frame(frame(0))
    wait_until(lambda: recorder.health.bytes > len(JPEG))
    usage = shutil.disk_usage(path)
    monkeypatch.setattr(
        "node.recording.folder.shutil.disk_usage", lambda _: usage._replace(free=1000)
    )
    wait_until(lambda: recorder.health.state == "failed")
    assert "only 0 MiB are free" in str(recorder.health.last_error)
    assert "what was written is whole" in str(recorder.health.last_error)
    assert is_whole(path)


@pytest.mark.parametrize("written", [0, 1000])
def test_a_disk_that_is_full_from_the_start_is_told_and_no_empty_file_is_left(
    recorders: Callable[..., Recorder],
    tmp_path: Path,
    written: int,
) -> None:
    """A real limit of real files, of which nothing or half of the beginning is written."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = recorders(black_box_s=60)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written, before[1]))
    try:
        with pytest.raises(OutputError, match=r"not started: .*_000001\.mcap: File too large"):
            recorder.begin().result(WAIT_S)
        with pytest.raises(OutputError, match=r"black-box_request_000002\.mcap: File too large"):
            recorder.dump("request").result(WAIT_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
    assert recorder.begin().result(WAIT_S).exists()


def test_a_file_that_cannot_be_deleted_ends_no_recording(
    recorders: Callable[..., Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder in which everybody deletes only what is his."""
    (tmp_path / "perception_2026-01-01T00-00-00Z_000001.mcap").write_bytes(bytes(3 * KIB**2))

    def unlink(self: Path, missing_ok: bool = False) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", unlink)
    recorder = recorders(split_mb=1, budget_mb=2)
    recorder.begin().result(WAIT_S)
    wait_until(lambda: recorder.health.last_error is not None)
    assert recorder.health.state == "recording"
    assert "being written or cannot be deleted" in str(recorder.health.last_error)


# Black boxes.


def test_a_cause_that_goes_on_is_written_ever_more_seldom() -> None:
    limit = DumpLimit(60)
    written = [at_s for at_s in range(0, 12 * 3600, 2) if limit.allows("front", at_s)]
    assert written[:4] == [0, 60, 180, 420]
    assert len(written) < 20
    assert max(later - earlier for earlier, later in itertools.pairwise(written)) == MOST_WAIT_S
    assert limit.allows("rear", 1)
    assert not limit.allows("front", written[-1] + 2)
    quiet = 12 * 3600 + MOST_WAIT_S
    assert limit.allows("front", quiet)
    assert not limit.allows("front", quiet + 59)
    assert limit.allows("front", quiet + 61)


@pytest.mark.parametrize("interval_s", [0, 86_400])
def test_an_interval_may_be_none_or_a_day(interval_s: float) -> None:
    limit = DumpLimit(interval_s)
    assert [limit.allows("front", at_s) for at_s in range(3)] == [True, not interval_s] * 1 + [
        not interval_s
    ]
    assert limit.allows("front", 2 * 86_400)


def test_a_camera_that_flaps_writes_one_black_box(
    recorders: Callable[..., Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorders(black_box_s=0.02)
    for seq in range(40):
        state = Status.STALLED if seq % 2 else Status.OK
        recorder.message(status(seq, state))
        time.sleep(0.005)
    wait_until(lambda: recorder.health.skipped_black_boxes == 19)
    assert len(list(tmp_path.glob("*black-box_stalled*"))) == 1
    assert sum("its cause comes again too soon" in record.message for record in caplog.records) == 1
    recorder.message(status(0, Status.OK, "rear"))
    recorder.message(status(1, Status.NO_CAMERA, "rear"))  # another camera is another cause
    wait_until(lambda: len(list(tmp_path.glob("*black-box_no_camera*"))) == 1)
    for reason in ("request", "failure"):  # these are never refused
        for _ in range(2):
            assert is_whole(recorder.dump(reason).result(WAIT_S))
    assert len(list(tmp_path.glob("*black-box*"))) == 6


def test_an_event_of_a_long_name_has_a_file(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    """Names of a model's labels, in any script; a file's name has at most 255 bytes."""
    recorder = recorders(black_box_s=60, black_box_events=[{"kind": "region_entered"}])
    name = "\N{CUNEIFORM SIGN A}" * 100
    recorder.message(
        EventMessage(
            node="perception", camera="front", session="s", seq=0, kind="region_entered", key="k",
            id=1, name=name, score=0.9, since_ns=1, frame_id=0, stamp_ns=1, clock="host",
            published_ns=time.time_ns(), region="dock",
        )
    )  # fmt: skip
    wait_until(lambda: bool(files_in(tmp_path)))
    (file,) = files_in(tmp_path)
    assert f"black-box_region_entered-{name[:10]}_000001" in file.name


def test_black_boxes_have_a_budget_of_their_own(
    recorders: Callable[..., Recorder], tmp_path: Path
) -> None:
    recorder = recorders(black_box_s=60, black_box_budget_mb=1)
    recording = recorder.begin().result(WAIT_S)
    boxes = []
    for number in range(4):
        recorder.frame(frame(number, b"\xff\xd8" + bytes(400 * KIB)))
        boxes.append(recorder.dump("request").result(WAIT_S))
    assert [path.exists() for path in boxes] == [False, False, True, True]
    recorder.frame(frame(9, b"\xff\xd8" + bytes(2000 * KIB)))
    large = recorder.dump("request").result(WAIT_S)
    assert files_in(tmp_path) == [recording, large]  # the newest stays, however large
    assert recorder.health.last_error is None
