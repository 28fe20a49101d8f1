"""Measures the effect of a busy neighbour on labelling: one node on 720p frames at 30 a second,
alternately alone and beside a process that keeps a core busy."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.node_process import node_on
from node.diagnostics.latency_profile import Spread
from perception_client.subscriber import Subscriber

_BUSY = [sys.executable, "-c", "while True: pass"]
_SETTLE_S = 0.5


@dataclass(slots=True)
class Side:
    """Results of all windows of one kind. age_ns: from the frame's stamp to its message."""

    seconds: float = 0.0
    dropped: int = 0
    age_ns: list[int] = field(default_factory=list)

    def told(self) -> dict[str, float]:
        """The results as plain values."""
        spread = Spread.of(self.age_ns)
        return {
            "labelled_per_s": len(self.age_ns) / self.seconds, "dropped": self.dropped,
            "age_ms_p50": spread.p50, "age_ms_p99": spread.p99, "age_ms_max": spread.max,
        }  # fmt: skip


def neighbour_cost(video: Path, windows: int, seconds: float) -> dict[str, object]:
    """Measures windows of both kinds alternately, on a 720p video of 30 frames a second."""
    alone, beside = Side(), Side()
    with (
        tempfile.TemporaryDirectory() as folder,
        node_on(video, f"ipc://{folder}/labels") as (subscriber, _),
    ):
        for _ in range(windows):
            _window(subscriber, alone, seconds)
            neighbour = subprocess.Popen(_BUSY)
            try:
                _window(subscriber, beside, seconds)
            finally:
                neighbour.kill()
                neighbour.wait()
    return {"alone": alone.told(), "beside": beside.told(), "windows": windows, "seconds": seconds}


def _window(subscriber: Subscriber, side: Side, seconds: float) -> None:
    settled = time.monotonic() + _SETTLE_S
    while time.monotonic() < settled:
        subscriber.receive(5)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        message, gap = subscriber.receive(5)
        if message.stamp_mono_ns is None or message.published_mono_ns is None:
            continue
        side.dropped += gap.dropped
        side.age_ns.append(message.published_mono_ns - message.stamp_mono_ns)
    side.seconds += time.monotonic() - started


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, help="720p, 30 frames a second")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    print(json.dumps(neighbour_cost(arguments.video, arguments.windows, arguments.seconds)))


if __name__ == "__main__":
    main()
