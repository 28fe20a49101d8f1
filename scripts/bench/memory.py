"""Measures the memory of a node: with one camera, with four, and with page, recording, control."""

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from perception_client.subscriber import Status, Subscriber

CAMERAS = 4


def memory_cost(video: Path, seconds: float) -> dict[str, object]:
    """Memory in MiB: `first`, at the first label of one camera; `later`, after so many seconds;
    `cameras`, with four cameras; `all`, with page, recording and control. Each is a pair of `rss`,
    which counts shared libraries whole, and `pss`, their share."""
    first, later = _run(video, 1, seconds)
    _, cameras = _run(video, CAMERAS, seconds)
    _, everything = _run(video, 1, seconds, everything=True)
    return {"first": first, "later": later, "cameras": cameras, "all": everything}


def _run(
    video: Path, cameras: int, seconds: float, *, everything: bool = False
) -> tuple[dict[str, float], dict[str, float]]:
    """The memory at the first labels of all cameras, and after some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels"
        config = Path(folder) / "node.toml"
        config.write_text(_config(video, endpoint, cameras, Path(folder) if everything else None))
        node = subprocess.Popen(
            [sys.executable, "-m", "node", "run", "--config", str(config)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with Subscriber(endpoint, timeout_s=60) as subscriber:
                seen: set[str] = set()
                while len(seen) < cameras:
                    message, _ = subscriber.receive(60)
                    if message.status is Status.OK:
                        seen.add(message.camera)
                first = _memory(node.pid)
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    subscriber.receive(60)
                return first, _memory(node.pid)
        finally:
            node.terminate()
            node.wait(10)


def _config(video: Path, endpoint: str, cameras: int, folder: Path | None) -> str:
    """folder: of the recording; None for a node without page, recording and control."""
    more = "" if folder is None else (
        f'recording = {{enabled = true, folder = "{folder}", black_box_s = 10}}\n'
        f'control.endpoint = "ipc://{folder}/control"\nmonitor.web = "127.0.0.1:{_free_port()}"\n'
    )  # fmt: skip
    return f'wire.endpoint = "{endpoint}"\n{more}' + "".join(
        f'[[camera]]\nname = "camera{index}"\nsource = "{video}"\nloop = true\n'
        for index in range(cameras)
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _memory(pid: int) -> dict[str, float]:
    full = psutil.Process(pid).memory_full_info()
    return {"rss_mib": full.rss / 2**20, "pss_mib": full.pss / 2**20}
