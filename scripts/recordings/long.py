"""Writes a long recording, seeks in it, reads it and replays it; memory has to stay flat."""

import itertools
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from node.config.schema import NodeConfig
from node.image.frame import Frame, Stamp
from node.image.jpeg import encode_jpeg
from node.recording.encode import frame_entries
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.replay.sources import RecordingReplay, Span

FPS = 30
MOST_SEEK_S = 1.0
MOST_GROWN_MIB = 20.0


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
