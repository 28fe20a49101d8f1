"""Measures the cost of several cameras: one node on one, two and four cameras, 720p at 10 frames a
second each, and without a rate limit."""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import psutil

from bench.node_process import node_with
from perception_client.subscriber import Status, Subscriber

CAMERAS = (1, 2, 4)
STEADY_FPS = 10
_SETTLE_S = 2.0


def camera_cost(video: Path, windows: int, seconds: float) -> dict[str, object]:
    """steady: CPU in percent of a core by number of cameras, in all and by camera. busy: no limit;
    labelled frames a second in all, of the slowest and of the fastest camera.

    cost_per_camera: CPU by camera with the most cameras, divided by that with one; above 1 it grows
    faster than their number.
    """
    steady = [_run(video, count, STEADY_FPS, seconds) for count in CAMERAS]
    busy = [_run(video, count, None, seconds) for count in CAMERAS]
    per_camera = [float(str(row["cpu_percent"])) / int(str(row["cameras"])) for row in steady]
    return {"steady": steady, "busy": busy, "cost_per_camera": per_camera[-1] / per_camera[0]}


def _run(video: Path, count: int, max_fps: int | None, seconds: float) -> dict[str, object]:
    names = tuple(f"camera{index}" for index in range(count))
    limit = "" if max_fps is None else f"max_fps = {max_fps}"
    with node_with(video, names, of_cameras=limit) as (subscriber, process):
        return _measured(subscriber, process, names, seconds)


def _measured(
    subscriber: Subscriber, process: psutil.Process, names: tuple[str, ...], seconds: float
) -> dict[str, object]:
    settled = time.monotonic() + _SETTLE_S
    while time.monotonic() < settled:
        subscriber.receive(5)
    labelled: Counter[str] = Counter()
    started, cpu = time.monotonic(), sum(process.cpu_times()[:2])
    while time.monotonic() - started < seconds:
        message, _ = subscriber.receive(5)
        labelled[message.camera] += message.status is Status.OK
    took_s = time.monotonic() - started
    spent_s = sum(process.cpu_times()[:2]) - cpu
    return {
        "cameras": len(names),
        "cpu_percent": 100 * spent_s / took_s,
        "cpu_ms_per_frame": 1000 * spent_s / max(labelled.total(), 1),
        "labelled_per_s": labelled.total() / took_s,
        "slowest_per_s": min(labelled[name] for name in names) / took_s,
        "fastest_per_s": max(labelled[name] for name in names) / took_s,
    }


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, help="720p, 30 frames a second")
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    print(json.dumps(camera_cost(arguments.video, 1, arguments.seconds)))


if __name__ == "__main__":
    main()
