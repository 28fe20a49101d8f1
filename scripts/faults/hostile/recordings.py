"""Attacks on recordings: nodes that share a folder, files that are taken away while they are
written, a clock that is set, cameras that flap, and facts that cannot be.

    python scripts/faults/hostile/recordings.py FOLDER    records there until its input ends
"""

import contextlib
import itertools
import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
from attack import Attack, Budget, Outcome

from node.config.load import changed
from node.config.schema import NodeConfig
from node.errors import PerceptionError
from node.image.frame import Frame, Stamp
from node.image.jpeg import encode_jpeg
from node.recording import recorder as recorder_module
from node.recording.encode import frame_entries, message_entries
from node.recording.folder import MIB
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.recording.recorder import Recorder
from node.recording.records import as_json
from node.recording.recover import is_whole, recover
from node.recording.report import report
from perception_client.messages.kinds import ImageSize, Label, LabelsMessage, Status
from perception_client.recordings.names import in_order
from perception_client.recordings.records import Entry
from perception_client.testing.recorded import RecordedLabels

WAIT_S = 20.0
MOST_NOTICED_S = 1.0
"""Until a file that is taken away is noticed."""
BUDGET_MIB = 2
DAY_S = 86_400
FILES_A_RUN = 10
JPEG = b"\xff\xd8" + bytes(100_000)
NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@contextlib.contextmanager
def recording_into(folder: Path, **settings: object) -> Iterator[Recorder]:
    """A recorder that looks after its files fifty times a second."""
    keys = {"folder": str(folder), "keep_free_mb": 0, "split_mb": 1, **settings}
    config = changed(NodeConfig(), {f"recording.{key}": value for key, value in keys.items()})
    with mock.patch.object(recorder_module, "FLUSH_S", 0.02):
        recorder = Recorder(config, f"session {os.getpid()}")
        recorder.start()
        try:
            yield recorder
        finally:
            recorder.close(WAIT_S)


def frame(number: int) -> Frame:
    """100 kB that are not decoded here."""
    return Frame(NO_PIXELS, "front", number, Stamp.now(), None, 0, jpeg=JPEG)


def wait_until(condition: Callable[[], bool]) -> float:
    """Seconds until then; raises TimeoutError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > WAIT_S:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.005)
    return time.monotonic() - began


# Two nodes of one name, and one that is killed.


@dataclass(frozen=True, slots=True)
class Told:
    """What one of them says at its end. errors: of its health, each once."""

    ended: str
    frames: int
    errors: tuple[str, ...]


def record(folder: Path) -> Told:
    """A camera of 200 frames a second, until the input ends."""
    errors: dict[str, None] = {}
    with recording_into(folder, budget_mb=BUDGET_MIB) as recorder:
        print(recorder.begin().result(WAIT_S), flush=True)
        for number in itertools.count():
            recorder.frame(frame(number))
            if recorder.health.last_error is not None:
                errors[recorder.health.last_error] = None
            if select.select([sys.stdin], [], [], 0.005)[0]:
                ended = recorder.end().result(WAIT_S)
                return Told(str(ended), number + 1, tuple(errors))
    raise AssertionError


def _start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _next_line(node: "subprocess.Popen[str]") -> str:
    assert node.stdout is not None
    line = node.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"a recorder ended with exit code {node.wait(WAIT_S)}")
    return line


def shared_folder(budget: Budget) -> Outcome:
    """Three recorders of one name with a tiny budget; one is killed half-way."""
    nodes = [_start(budget.folder) for _ in range(3)]
    try:
        for node in nodes:
            _next_line(node)
        until = time.monotonic() + min(budget.seconds, 30.0) / 2
        most = 0
        while time.monotonic() < until:
            most = max(most, sum(_size(path) for path in budget.folder.iterdir()))
            time.sleep(0.01)
        nodes[2].kill()
        nodes[2].wait(WAIT_S)
        summaries = []
        for node in nodes[:2]:
            assert node.stdin is not None
            node.stdin.close()
            content = json.loads(_next_line(node))
            summaries.append(Told(content["ended"], content["frames"], tuple(content["errors"])))
            node.wait(WAIT_S)
    finally:
        for node in nodes:
            node.kill()
    return _judge_shared(budget.folder, summaries, most)


def _judge_shared(folder: Path, summaries: list[Told], most: int) -> Outcome:
    wrong = [
        f"a node: {error}"
        for summary in summaries
        for error in summary.errors
        if "more than recording.budget_mb" not in error
    ]
    harmed = sum("removed" in problem for problem in wrong)
    broken = [path for path in folder.glob("*.mcap") if not _is_whole(path)]
    for path in broken:  # of the one that was killed
        recover(path, path.with_suffix(".saved"))
    if len(broken) > 1:
        harmed += len(broken) - 1
        wrong.append(f"{len(broken)} files without an index, and one node was killed")
    for summary in summaries:
        path, is_last = Path(summary.ended), summary is summaries[-1]
        if not path.exists() and not is_last:
            continue  # ended before the other one, so it was the oldest in its turn
        if not path.exists() or summary.frames - 1 not in _frame_ids(path):
            harmed += 1
            wrong.append(f"{summary.ended}: its last frame is not there")
    if len({summary.ended for summary in summaries}) < len(summaries):
        wrong.append("two nodes wrote one file")
    figures = {
        "files_harmed": harmed,
        "frames": sum(summary.frames for summary in summaries),
        "most_mib": most / MIB,
    }
    return Outcome("3 recorders of one name, a budget of 2 MiB, 1 killed", tuple(wrong), figures)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_whole(path: Path) -> bool:
    try:
        return is_whole(path)
    except PerceptionError:
        return False


def _frame_ids(path: Path) -> list[int]:
    return [frame.frame_id for frame in Recording([path]).frames()]


# Files that are taken away.


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"of another")
    other.replace(path)


TAKEN_AWAY: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "replaced": _replace,
    "moved": lambda path: path.rename(path.with_suffix(".moved")),
    "gone with its folder": lambda path: shutil.rmtree(path.parent),
}


def taken_away(budget: Budget) -> Outcome:
    """A file of a running recording is removed, replaced, moved, and its folder removed."""
    wrong: list[str] = []
    longest_s = 0.0
    for how, take_away in TAKEN_AWAY.items():
        folder = budget.folder / how
        with recording_into(folder) as recorder:
            path = recorder.begin().result(WAIT_S)
            recorder.frame(frame(0))
            wait_until(lambda recorder=recorder: recorder.health.bytes > len(JPEG))
            take_away(path)
            noticed_s = wait_until(
                lambda recorder=recorder: "goes on in" in str(recorder.health.last_error)
            )
            longest_s = max(longest_s, noticed_s)
            if recorder.health.state != "recording":
                wrong.append(f"{how}: health says {recorder.health.state}")
            recorder.frame(frame(1))
            ended = recorder.end().result(WAIT_S)
            if ended is None or _frame_ids(ended) != [1]:
                wrong.append(f"{how}: what came after it is not recorded")
        wrong += [
            f"{moved} is not whole" for moved in folder.glob("*.moved") if not is_whole(moved)
        ]
    if longest_s > MOST_NOTICED_S:
        wrong.append(f"noticed after {longest_s:.1f} s")
    tried = ", ".join(TAKEN_AWAY)
    return Outcome(f"an open file {tried}", tuple(wrong), {"noticed_s": longest_s})


# A clock that is set.


def set_clock(budget: Budget) -> Outcome:
    """The wall clock jumps back and forth before each file, under a budget, through two runs."""
    real, jumps = time.gmtime, random.Random(0)
    made: list[Path] = []
    wrong: list[str] = []

    def jumped(_: float | None = None) -> time.struct_time:
        return real(1_700_000_000 + jumps.randint(-400, 400) * DAY_S)

    with mock.patch("node.recording.folder.time.gmtime", jumped):
        for _ in range(2):
            with recording_into(budget.folder, budget_mb=BUDGET_MIB) as recorder:
                for number in range(FILES_A_RUN):
                    made.append(recorder.begin().result(WAIT_S))
                    for part in range(4):
                        recorder.frame(frame(4 * number + part))
                    recorder.end().result(WAIT_S)
    there = [path for path in made if path.exists()]
    if there != made[-len(there) :]:
        wrong.append("what was deleted are not the oldest")
    if in_order(budget.folder.glob("*.mcap")) != there:
        wrong.append("the order of the folder is not that of the making")
    harmed = sum(not is_whole(path) for path in there)
    figures = {"files_harmed": harmed, "made": len(made), "kept": len(there)}
    tried = f"{len(made)} files at moments up to 400 days apart, in any order"
    return Outcome(tried, tuple(wrong) + (("a file is broken",) if harmed else ()), figures)


# A camera that flaps.


def flapping(budget: Budget) -> Outcome:
    """A camera goes on and off as fast as messages come, for as long as is asked for."""
    wrong: list[str] = []
    seconds = min(budget.seconds, 60.0)
    with recording_into(budget.folder, black_box_s=0.1, black_box_budget_mb=1) as recorder:
        until = time.monotonic() + seconds
        changes = 0
        for seq in itertools.count():
            if time.monotonic() >= until:
                break
            status = Status.STALLED if seq % 2 else Status.OK
            recorder.message(replace(MESSAGE, seq=seq, status=status))
            recorder.frame(frame(seq))
            changes += 1
            time.sleep(0.005)
        by_itself = len(list(budget.folder.glob("*black-box_stalled*")))
        paths = [recorder.dump("request").result(WAIT_S) for _ in range(3)]
        skipped = recorder.health.skipped_black_boxes
    if by_itself != 1:
        wrong.append(f"{by_itself} black boxes of one camera within a minute")
    if not all(is_whole(path) for path in paths if path.exists()):
        wrong.append("a black box that was asked for is not whole")
    if skipped == 0:
        wrong.append("health does not say that black boxes were left out")
    left = sum(path.stat().st_size for path in budget.folder.glob("*black-box*"))
    if left > 2 * MIB:
        wrong.append(f"black boxes take {left / MIB:.1f} MiB of a budget of 1")
    figures = {"black_boxes": by_itself, "skipped": skipped, "mib": left / MIB}
    return Outcome(f"{changes} changes between ok and stalled", tuple(wrong), figures)


# Facts that cannot be.

MESSAGE = LabelsMessage(
    node="perception", camera="front", session="s", seq=0, status=Status.OK, published_ns=10,
    frame_id=0, stamp_ns=5, image=ImageSize(8, 8), labels=(Label(1, "cup", 0.5),),
)  # fmt: skip
ABSURD = (
    None, True, -1, 2**31, 2**63, 10**400, 1e300, float("nan"), "", "x", "7", "a\0b", "\ud800",
    "\x1b[31m", [], {}, [1],
)  # fmt: skip


def absurd_facts(budget: Budget) -> Outcome:
    """Recordings in which one fact is not what it should be, through what reads them."""
    facts = itertools.chain(FIRST_FACTS, _any_facts(random.Random(0)))
    wrong: dict[str, None] = {}
    files = errors = 0
    until = time.monotonic() + min(budget.seconds, 60.0)
    while time.monotonic() < until:
        path = budget.folder / "absurd.mcap"
        path.unlink(missing_ok=True)
        file = RecordingFile(path, {})
        file.write(_with_fact(*next(facts)))
        file.close()
        files += 1
        for read in (_frames_of, _report_of, _labels_of):
            try:
                read(path)
            except PerceptionError:
                errors += 1
            except Exception as error:  # what a command would show as a stack trace
                wrong[f"{read.__name__}: {type(error).__name__}: {error}"[:200]] = None
    figures = {"files": files, "errors_of_ours": errors, "stack_traces": len(wrong)}
    return Outcome(f"{files} recordings with a fact that cannot be", tuple(wrong), figures)


FIRST_FACTS = (
    ("perception.frame", "frame_id", "x"),
    ("perception.frame", "lost_before", {}),
    ("perception.labels", "frame_id", None),
    ("perception.labels", "node", "\ud800"),
)
"""Kind of record, fact, and what stands there instead."""


def _any_facts(choose: random.Random) -> Iterator[tuple[str, str, object]]:
    while True:
        kind = choose.choice(("perception.frame", "perception.labels"))
        known = next(json.loads(entry.data) for entry in _entries() if entry.channel.name == kind)
        yield kind, choose.choice(sorted(known)), choose.choice(ABSURD)


def _with_fact(kind: str, fact: str, value: object) -> list[Entry]:
    entries = _entries()
    index = next(n for n, entry in enumerate(entries) if entry.channel.name == kind)
    content = {**json.loads(entries[index].data), fact: value}
    entries[index] = replace(entries[index], data=json.dumps(content).encode())
    return entries


def _entries() -> list[Entry]:
    jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
    entries = []
    for number in range(3):
        frame = Frame(NO_PIXELS, "front", number, Stamp(number, 1, "host"), None, 0, jpeg=jpeg)
        entries += frame_entries(frame, number + 1, quality=90, lost_before=0)
        entries += message_entries(replace(MESSAGE, seq=number, frame_id=number), number + 1)
    return entries


def _frames_of(path: Path) -> None:
    for recorded, _ in Recording([path]).labelled_frames():
        recorded.frame()


def _report_of(path: Path) -> None:
    report.render(Recording([path])).encode()


def _labels_of(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"), RecordedLabels(path) as labels:
        for message, _ in labels:
            as_json(message.age_s)


ATTACKS = (
    Attack("nodes of one name share a recording folder", shared_folder),
    Attack("a recording is taken away while it is written", taken_away),
    Attack("the clock jumps between recordings", set_clock),
    Attack("a camera flaps beside a black box", flapping),
    Attack("facts in a recording that cannot be", absurd_facts),
)

if __name__ == "__main__":
    print(json.dumps(asdict(record(Path(sys.argv[1])))))
