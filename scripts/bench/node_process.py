"""Starts a real node on a video, for scripts that measure a node from outside."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from perception_client.subscriber import Status, Subscriber


@contextlib.contextmanager
def node_on(
    video: Path, endpoint: str, *settings: str
) -> Iterator[tuple[Subscriber, psutil.Process]]:
    """Starts a node that loops a video, and a subscriber; yields after the first labels.

    settings: further configuration keys, each as `key=value`.
    """
    more = [part for setting in ("camera.0.loop=true", *settings) for part in ("--set", setting)]
    node = subprocess.Popen(
        [sys.executable, "-m", "node", "run", "--source", str(video), "--endpoint", endpoint,
         *more],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with Subscriber(endpoint, timeout_s=60) as subscriber:
            while subscriber.receive(60)[0].status is not Status.OK:
                pass
            yield subscriber, psutil.Process(node.pid)
    finally:
        node.terminate()
        node.wait(10)
