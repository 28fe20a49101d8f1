"""Measures how punctually a replay plays at the speed of the recording."""

import threading
import time
from dataclasses import dataclass

import numpy as np

from node.capture.mailbox import LosslessMailbox
from node.capture.rate import MediaClock
from node.errors import SourceError
from node.recording.reader import Recording
from node.replay.feeder import ReplayFeeder
from node.replay.sources import RecordingReplay, Span
from perception_client.recordings.runs import find_recording

MOST_ERROR_MS = 5.0
"""Greatest error of 99 in 100 frames of a replay at speed 1.0."""


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
        for queued in mailbox.take_all(1.0, 1):
            late_ns.append(time.monotonic_ns() - (queued.frame.media_ns or 0))
    player.join(1.0)
    errors_ms = np.abs(np.array(late_ns) - np.median(late_ns)) / 1e6
    p50, p99, most = (float(value) for value in np.percentile(errors_ms, [50, 99, 100]))
    return Timing(len(errors_ms), p50, p99, most)
