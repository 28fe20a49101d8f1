"""Campaigns on recordings: nodes that are killed while they record, a recording of an hour, and the
punctuality of a replay. Exit 1 if a check fails."""

import argparse
import itertools
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from fault_rig import ROOT

from node.capture.mailbox import LosslessMailbox
from node.capture.rate import MediaClock
from node.config.schema import NodeConfig
from node.errors import SourceError
from node.image.frame import Frame, Stamp
from node.image.jpeg import encode_jpeg
from node.recording.encode import frame_entries
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording, find_recording
from node.recording.recover import is_whole, recover
from node.replay.feeder import ReplayFeeder
from node.replay.sources import RecordingReplay, Span
from perception_client.subscriber import Status, Subscriber

FPS = 30
KEPT_BEFORE_S = 1.0
"""Messages older than this at the kill of a node must be in the file."""
MOST_SEEK_S = 1.0
MOST_GROWN_MIB = 20.0
MOST_ERROR_MS = 5.0
"""Greatest error of 99 in 100 frames of a replay at speed 1.0."""
_SECONDS_A_FLUSH = 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """One node that was killed. missing: messages older than a second that are not in the file."""

    after_s: float
    received: int
    kept: int
    missing: int
    lost_s: float
    whole: bool


def kill_while_recording(kills: int, seed: int) -> Iterator[Cut]:
    """Kills nodes, each at a random moment of its first four seconds."""
    moments = random.Random(seed)
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            yield _killed(Path(folder), moments.uniform(0.05, 4.0))


def _killed(folder: Path, after_s: float) -> Cut:
    endpoint = f"ipc://{folder}/labels"
    node = subprocess.Popen(
        [sys.executable, "-m", "node", "record", "--source", "demo", "--endpoint", endpoint,
         "--output", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    received: dict[int, int] = {}
    with Subscriber(endpoint, timeout_s=60) as subscriber:
        message, _ = subscriber.receive(60)
        while message.status is not Status.OK:
            message, _ = subscriber.receive(60)
        until = time.monotonic() + after_s
        while (left_s := until - time.monotonic()) > 0:
            received[message.seq] = message.published_ns
            if subscriber.wait(left_s):
                message, _ = subscriber.receive(1)
    node.kill()
    node.wait()
    killed_ns = time.time_ns()
    (cut,) = folder.glob("*.mcap")
    repaired = folder / "repaired.mcap"
    try:
        recover(cut, repaired)
        kept = {x.seq: x.published_ns for _, x in Recording([repaired]).messages("labels")}
        whole = is_whole(repaired)
    except SourceError:  # killed before its first half second
        kept, whole = {}, after_s < _SECONDS_A_FLUSH
    due = [n for n, at_ns in received.items() if killed_ns - at_ns > KEPT_BEFORE_S * 1e9]
    missing = sum(n not in kept for n in due)
    lost_s = (killed_ns - max(kept.values(), default=killed_ns - int(after_s * 1e9))) / 1e9
    return Cut(after_s, len(received), len(kept), missing, lost_s, whole)


@dataclass(frozen=True, slots=True)
class Hour:
    """Results of a long recording. seek_s: seeks to the first frame at ten positions; memory_mib:
    at ten points while all its frames are read and decoded."""

    minutes: float
    frames: int
    gib: float
    open_s: float
    seek_s: list[float]
    memory_mib: list[float]
    frames_per_s: float

    @property
    def holds(self) -> bool:
        """Whether seeking is quick and memory flat."""
        grown = self.memory_mib[-1] - self.memory_mib[0]
        return max(self.seek_s) < MOST_SEEK_S and grown <= MOST_GROWN_MIB


def long_recording(minutes: float, folder: Path) -> Hour:
    """Writes a recording of 320x240 noise and pictures of the given length, and reads it."""
    file = folder / "long.mcap"
    frames = int(minutes * 60 * FPS)
    _write_long(file, frames)
    started = time.monotonic()
    recording = Recording([file])
    opened_s = time.monotonic() - started
    length_s = (recording.end_ns - recording.start_ns) / 1e9
    seeks = []
    for share in np.linspace(0, 0.99, 10):
        started = time.monotonic()
        span = Span(float(share) * length_s)
        shown = next(RecordingReplay(Recording([file]), span, as_recorded=False).frames())
        seeks.append(time.monotonic() - started)
        assert (shown.frame.media_ns or 0) >= span.start_ns
    process, memory = psutil.Process(), []
    started = time.monotonic()
    replay_source = RecordingReplay(recording, Span(), as_recorded=False)
    count = 0
    for count, _ in enumerate(replay_source.frames(), start=1):
        if count % max(frames // 10, 1) == 0:
            memory.append(process.memory_info().rss / 2**20)
    took_s = time.monotonic() - started
    size = file.stat().st_size / 2**30
    return Hour(minutes, count, size, opened_s, seeks, memory, count / took_s)


def _write_long(file: Path, frames: int) -> None:
    random_ = np.random.default_rng(0)
    picture = np.kron(random_.integers(0, 255, (30, 40, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    jpegs = [encode_jpeg(np.roll(picture, shift, axis=1), 90) for shift in range(16)]
    output = RecordingFile(file, {})
    base_ns = time.time_ns()
    for number, jpeg in zip(range(frames), itertools.cycle(jpegs), strict=False):
        at_ns = base_ns + number * 1_000_000_000 // FPS
        frame = Frame(picture, "front", number, Stamp(at_ns, at_ns, "host"), None, 0, jpeg=jpeg)
        output.write(frame_entries(frame, at_ns, quality=90, lost_before=0))
        if number % (FPS // 2) == 0:
            output.flush()
    output.close()


def replay_memory(file: Path) -> list[float]:
    """Memory in MiB at ten points of a complete replay with the model, at full speed."""
    from node.cli.options import load_perceiver
    from node.pipeline.message_builder import MessageBuilder
    from node.replay.run import run_replay
    from node.transport.sequencing import LocalSink
    from perception_client.messages.kinds import Message

    recording = Recording([file])
    total = sum(1 for _ in recording.frames())
    process, memory = psutil.Process(), []
    count = itertools.count(1)

    def observe(message: Message) -> None:
        number = next(count)
        if number % max(total // 10, 1) == 0:
            memory.append(process.memory_info().rss / 2**20)

    config = NodeConfig.model_validate({"camera": [{"name": "front"}]})
    replay_source = RecordingReplay(recording, Span(), as_recorded=False)
    run_replay(
        config, load_perceiver, MessageBuilder("long"), LocalSink(observe), threading.Event(),
        replay_source, speed=None,
    )  # fmt: skip
    return memory


@dataclass(frozen=True, slots=True)
class Timing:
    """Difference of each frame's time at speed 1.0 from its recorded time, in milliseconds."""

    frames: int
    error_ms_p50: float
    error_ms_p99: float
    error_ms_max: float


def replay_timing(source: str) -> Timing:
    """Plays a recording at its own speed to a consumer that takes each frame at once. Times are
    relative to their median, since the first frame, from which they count, may itself be late."""
    files = find_recording(source)
    if files is None:
        raise SourceError(f"{source} names no recording")
    replay_source = RecordingReplay(Recording(files), Span(), as_recorded=False)
    stop = threading.Event()
    mailbox = LosslessMailbox(stop)
    player = ReplayFeeder(replay_source.frames(), mailbox, stop, MediaClock(1.0, stop))
    player.start()
    late_ns: list[int] = []
    while not mailbox.finished:
        for taken in mailbox.take_all(1.0, 1):
            late_ns.append(time.monotonic_ns() - (taken.frame.media_ns or 0))
    player.join(1.0)
    errors_ms = np.abs(np.array(late_ns) - np.median(late_ns)) / 1e6
    p50, p99, most = (float(x) for x in np.percentile(errors_ms, [50, 99, 100]))
    return Timing(len(errors_ms), p50, p99, most)


def main() -> int:
    """Runs the requested campaigns; prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="nodes to kill while they record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="length of a recording to write and read")
    parser.add_argument("--replay", action="store_true", help="also replay it with the model")
    parser.add_argument("--timing", metavar="RECORDING", help="play it, and say how punctually")
    arguments = parser.parse_args()
    held = True
    if arguments.timing:
        timing = replay_timing(arguments.timing)
        held = timing.error_ms_p99 < MOST_ERROR_MS
        print(json.dumps(asdict(timing)), flush=True)
    cuts = []
    for cut in kill_while_recording(arguments.kills, arguments.seed):
        cuts.append(cut)
        held = held and cut.whole and not cut.missing
        print(json.dumps(asdict(cut)), flush=True)
    if cuts:
        worst = max(cut.lost_s for cut in cuts)
        told = {
            "kills": len(cuts),
            "longest_lost_s": worst,
            "missing": sum(c.missing for c in cuts),
        }
        print(json.dumps(told), flush=True)
    if arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            hour = long_recording(arguments.minutes, Path(folder))
            held = held and hour.holds
            print(json.dumps(asdict(hour)), flush=True)
            if arguments.replay:
                memory = replay_memory(Path(folder) / "long.mcap")
                held = held and memory[-1] - memory[0] <= MOST_GROWN_MIB
                print(json.dumps({"replay_memory_mib": memory}), flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
