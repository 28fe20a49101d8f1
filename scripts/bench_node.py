"""A real node on a video, for what measures it from outside."""

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
    """Starts one that plays the video again and again, and a subscriber to it; begins with its
    first labels. settings: more of its keys, each as `key=value`."""
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
