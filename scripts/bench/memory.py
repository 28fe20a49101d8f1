"""Measures the memory of a node: with one camera, with four, and with page, recording, control."""

import socket
import tempfile
import time
from pathlib import Path

import psutil

from bench.node_process import node_with

CAMERAS = 4


def memory_cost(video: Path, seconds: float) -> dict[str, object]:
    """Memory in MiB: `first`, at the first label of one camera; `later`, after so many seconds;
    `cameras`, with four cameras; `all`, with page, recording and control. Each is a pair of `rss`,
    which counts shared libraries whole, and `pss`, their share."""
    first, later = _run(video, 1, seconds)
    _, cameras = _run(video, CAMERAS, seconds)
    with tempfile.TemporaryDirectory() as folder:
        everything = (
            f'recording = {{enabled = true, folder = "{folder}", black_box_s = 10}}\n'
            f'control.endpoint = "ipc://{folder}/control"\n'
            f'monitor.web = "127.0.0.1:{_free_port()}"'
        )
        _, all_parts = _run(video, 1, seconds, everything)
    return {"first": first, "later": later, "cameras": cameras, "all": all_parts}


def _run(
    video: Path, cameras: int, seconds: float, of_node: str = ""
) -> tuple[dict[str, float], dict[str, float]]:
    """The memory at the first labels of all cameras, and after some seconds."""
    names = tuple(f"camera{index}" for index in range(cameras))
    with node_with(video, names, of_node=of_node) as (subscriber, process):
        first = _memory(process)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            subscriber.receive(60)
        return first, _memory(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _memory(process: psutil.Process) -> dict[str, float]:
    full = process.memory_full_info()
    return {"rss_mib": full.rss / 2**20, "pss_mib": full.pss / 2**20}
