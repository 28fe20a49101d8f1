"""Measures the cost of the live page and the metrics: one node on 720p frames at 30 a second,
alternately with and without a viewer; and the time to count one message for the metrics."""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from bench.node_process import node_on
from node.web.live_state import LiveState
from node.web.metrics import Metrics
from perception_client.subscriber import LabelsMessage, Subscriber

_SETTLE_S = 1.0


async def _look(url: str, until: float, cameras: list[str]) -> tuple[int, int]:
    """A viewer; returns the number of received pictures and their bytes."""
    pictures = size = 0
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/live") as page:
        await page.send_str(json.dumps({"pictures": cameras}))
        while time.monotonic() < until:
            message = await page.receive(timeout=5)
            if message.type is aiohttp.WSMsgType.BINARY:
                pictures, size = pictures + 1, size + len(message.data)
    return pictures, size


def _window(
    subscriber: Subscriber, seconds: float, process: psutil.Process
) -> tuple[list[float], float, list[LabelsMessage]]:
    """Measures one window: ms of work of each frame, CPU in percent of a core, and the messages."""
    settled = time.monotonic() + _SETTLE_S
    while time.monotonic() < settled:
        subscriber.receive(5)
    started, cpu = time.monotonic(), sum(process.cpu_times()[:2])
    work, messages = [], []
    while time.monotonic() - started < seconds:
        message, _ = subscriber.receive(5)
        if message.timing_ns is not None:
            timing = message.timing_ns
            work.append((timing.preprocess + timing.infer + timing.postprocess) / 1e6)
            messages.append(message)
    spent = sum(process.cpu_times()[:2]) - cpu
    return work, 100 * spent / (time.monotonic() - started), messages


def page_cost(video: Path, windows: int, seconds: float) -> dict[str, object]:
    """Measures windows with and without a viewer alternately. rate_cost_percent: additional time of
    a frame; metrics_percent: time to count a message for the metrics, as a share of a frame's."""
    work: dict[bool, list[float]] = {True: [], False: []}
    cpu: dict[bool, list[float]] = {True: [], False: []}
    messages: list[LabelsMessage] = []
    pictures = size = 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as folder,
        node_on(video, f"ipc://{folder}/labels", f'monitor.web="127.0.0.1:{port}"') as running,
    ):
        subscriber, process = running
        for window in range(2 * windows):
            looking = window % 2 == 1
            viewer = _viewer(port, seconds) if looking else None
            took, share, seen = _window(subscriber, seconds, process)
            work[looking] += took
            cpu[looking].append(share)
            messages = seen
            if viewer is not None:
                got = json.loads(viewer.communicate(timeout=30)[0])
                pictures, size = pictures + got[0], size + got[1]
    mean = {looking: float(np.mean(work[looking])) for looking in work}
    return {
        "rate_cost_percent": 100 * (mean[True] / mean[False] - 1),
        "work_ms_without": mean[False], "work_ms_with": mean[True],
        "cpu_percent_without": float(np.mean(cpu[False])),
        "cpu_percent_with": float(np.mean(cpu[True])),
        "pictures_per_s": pictures / (windows * (seconds + _SETTLE_S)),
        "kib_a_picture": size / max(pictures, 1) / 1024,
        "metrics_percent": 100 * _metrics_ms(messages) / mean[False],
    }  # fmt: skip


def _viewer(port: int, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.page", "--look", f"http://127.0.0.1:{port}", "--seconds",
         str(seconds + _SETTLE_S)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip


def _metrics_ms(messages: list[LabelsMessage]) -> float:
    """Time to count one message, in ms."""
    live = LiveState(["camera"])
    metrics = Metrics(live)
    rounds = 20
    started = time.perf_counter()
    for _ in range(rounds):
        for message in messages:
            live.message(message)
            metrics.message(message)
    return (time.perf_counter() - started) / (rounds * len(messages)) * 1000


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, nargs="?", help="a 720p video")
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--look", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        until = time.monotonic() + arguments.seconds
        print(json.dumps(asyncio.run(_look(arguments.look, until, ["camera"]))))
        return
    print(json.dumps(page_cost(arguments.video, arguments.windows, arguments.seconds)))


if __name__ == "__main__":
    main()
