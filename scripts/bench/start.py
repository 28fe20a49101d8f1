"""Measures the start and the memory of a node: from the start of its process to its first label at
a subscriber, with everything exported and with an empty cache, and the memory at that moment."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from perception_client.subscriber import Status, Subscriber

STARTS = 5


def start_cost(video: Path) -> dict[str, object]:
    """Seconds to the first label and memory in MiB at it, of starts one after the other; and the
    seconds of `--help` and of the client's import. cold: with an empty cache. rss counts shared
    libraries whole, pss their share."""
    with tempfile.TemporaryDirectory() as cache:
        cold = _first_label(video, cache)
        warm = [_first_label(video, cache) for _ in range(STARTS)]
    first = sorted(run["first_label_s"] for run in warm)
    return {
        "cold_s": cold["first_label_s"],
        "warm_s": statistics.median(first),
        "warm_least_s": first[0],
        "rss_mib": statistics.median(run["rss_mib"] for run in warm),
        "pss_mib": statistics.median(run["pss_mib"] for run in warm),
        "help_s": _seconds(["-m", "node", "--help"]),
        "client_import_s": _seconds(["-c", "import perception_client"]) - _seconds(["-c", ""]),
    }


def _first_label(video: Path, cache: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels.ipc"
        with Subscriber(endpoint, timeout_s=60) as subscriber:
            began = time.monotonic()
            node = subprocess.Popen(
                [sys.executable, "-m", "node", "run", "--source", str(video), "--endpoint",
                 endpoint, "--set", "camera.0.loop=true"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env=os.environ | {"XDG_CACHE_HOME": cache},
            )  # fmt: skip
            try:
                while subscriber.receive(60)[0].status is not Status.OK:
                    pass
                took_s = time.monotonic() - began
                memory = psutil.Process(node.pid).memory_full_info()
            finally:
                node.terminate()
                node.wait(10)
    return {
        "first_label_s": took_s,
        "rss_mib": memory.rss / 2**20,
        "pss_mib": memory.pss / 2**20,
    }


def _seconds(arguments: list[str]) -> float:
    """The median time of a Python command."""
    times = []
    for _ in range(STARTS):
        began = time.monotonic()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        times.append(time.monotonic() - began)
    return statistics.median(times)
