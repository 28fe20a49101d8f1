"""Measures the cost of recording for labelling: one node on 720p frames at 30 a second, alternately
with and without recording."""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from bench.node_process import node_on
from perception_client.subscriber import Control, Subscriber

FPS = 30
_SETTLE_S = 1.0


@dataclass(slots=True)
class Side:
    """Results of all windows with, or without recording. work_ms: preprocess, infer and postprocess
    of each frame, whose sum bounds the highest rate."""

    seconds: float = 0.0
    labelled: int = 0
    dropped: int = 0
    lost_frames: int = 0
    cpu_seconds: float = 0.0
    work_ms: list[float] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)

    def told(self) -> dict[str, float]:
        """The results as plain values."""
        return {
            "labelled_per_s": self.labelled / self.seconds,
            "dropped": self.dropped,
            "not_recorded": self.lost_frames,
            "cpu_percent": 100 * self.cpu_seconds / self.seconds,
            "work_ms_p50": float(np.median(self.work_ms)),
            "age_ms_p99": float(np.percentile(self.age_ms, 99)),
        }


def recording_cost(video: Path, windows: int, seconds: float) -> dict[str, object]:
    """Measures windows of both kinds alternately, on a 720p video. rate_cost_percent: additional
    work of a frame while the node records, by which the highest rate falls."""
    sides = {True: Side(), False: Side()}
    with tempfile.TemporaryDirectory() as folder:
        control = f"ipc://{folder}/control"
        settings = f"control.endpoint={control}", f"recording.folder={folder}"
        with (
            node_on(video, f"ipc://{folder}/labels", *settings) as (subscriber, process),
            Control(control) as ctl,
        ):
            for window in range(2 * windows):
                recording = window % 2 == 1
                ctl.record("start" if recording else "stop")
                _window(subscriber, sides[recording], process, seconds)
    off, on = sides[False], sides[True]
    cost = float(np.mean(on.work_ms) / np.mean(off.work_ms) - 1)
    return {
        "rate_cost_percent": 100 * cost, "without": off.told(), "with": on.told(),
        "windows": windows, "seconds": seconds,
    }  # fmt: skip


def _window(subscriber: Subscriber, side: Side, process: psutil.Process, seconds: float) -> None:
    settled = time.monotonic() + _SETTLE_S
    while time.monotonic() < settled:
        subscriber.receive(5)
    lost = _lost(subscriber)
    started, cpu = time.monotonic(), sum(process.cpu_times()[:2])
    while time.monotonic() - started < seconds:
        message, gap = subscriber.receive(5)
        if message.timing_ns is None:
            continue
        timing = message.timing_ns
        side.labelled += 1
        side.dropped += gap.dropped
        side.work_ms.append((timing.preprocess + timing.infer + timing.postprocess) / 1e6)
        assert message.published_mono_ns is not None
        assert message.stamp_mono_ns is not None
        side.age_ms.append((message.published_mono_ns - message.stamp_mono_ns) / 1e6)
    side.seconds += time.monotonic() - started
    side.cpu_seconds += sum(process.cpu_times()[:2]) - cpu
    side.lost_frames += _lost(subscriber) - lost


def _lost(subscriber: Subscriber) -> int:
    recording = subscriber.health(5).recording
    return 0 if recording is None else recording.lost_frames


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, help="a 720p video")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    print(json.dumps(recording_cost(arguments.video, arguments.windows, arguments.seconds)))


if __name__ == "__main__":
    main()
