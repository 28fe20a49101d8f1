"""Starts a real node on a video, for scripts that measure a node from outside."""

import contextlib
import subprocess
import sys
import tempfile
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


@contextlib.contextmanager
def node_with(
    video: Path, names: tuple[str, ...], *, of_cameras: str = "", of_node: str = ""
) -> Iterator[tuple[Subscriber, psutil.Process]]:
    """Starts a node with cameras of these names that loop a video, and a subscriber; yields after
    the first labels of each camera.

    of_cameras, of_node: further lines of the configuration, in TOML.
    """
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels"
        config = Path(folder) / "node.toml"
        config.write_text(
            f'wire.endpoint = "{endpoint}"\n{of_node}\n'
            + "".join(
                f'[[camera]]\nname = "{name}"\nsource = "{video}"\nloop = true\n{of_cameras}\n'
                for name in names
            )
        )
        node = subprocess.Popen(
            [sys.executable, "-m", "node", "run", "--config", str(config)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with Subscriber(endpoint, timeout_s=60) as subscriber:
                seeing: set[str] = set()
                while seeing < set(names):
                    message, _ = subscriber.receive(60)
                    if message.status is Status.OK:
                        seeing.add(message.camera)
                yield subscriber, psutil.Process(node.pid)
        finally:
            node.terminate()
            node.wait(10)
