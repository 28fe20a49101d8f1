"""Shared by the fault campaign and the soak run: a stream that fails on demand, a node in its own
process that records its frames, and a monitor that keeps every message of the node.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perception_client.subscriber import LabelsMessage, NoMessageError, Subscriber

RECORDED_QUALITY = 85
"""Of what the node records; the bytes of motion JPEG are kept as they came."""
STALL_S = 0.5
SLACK_S = 0.2
"""What detection may take beyond the stall timeout."""
PATIENCE_S = 30.0
ROOT = Path(__file__).parents[2]


class Stream:
    """Cameras that speak motion JPEG and H.264 over HTTP (`faults/stream.py`)."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://user:secret@127.0.0.1:{self.port}/stream.mjpg"
        self.url_h264 = f"http://user:secret@127.0.0.1:{self.port}/stream.h264"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts the server, on the same port every time."""
        command = [sys.executable, "-m", "faults.stream", "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, cwd=ROOT / "scripts"
        )
        wait_until(lambda: _connects(self.port), "the stream's server starts")

    def mode(self, name: str) -> None:
        """Sets the mode from now on, one of `faults/stream.py`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n".encode())
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """Sends a signal to the server's process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kills the server, as a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A message, and its arrival on CLOCK_MONOTONIC."""

    at_s: float
    message: LabelsMessage


class Monitor:
    """Receives everything that a node publishes, on a thread of its own."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._seen: list[Sighting] = []
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def since(self, at_s: float, camera: str) -> list[Sighting]:
        """Messages of a camera received after a moment."""
        with self._lock:
            return [
                sighting
                for sighting in self._seen
                if sighting.at_s > at_s and sighting.message.camera == camera
            ]

    def first(self, camera: str, after_s: float, condition: Callable[[Sighting], bool]) -> Sighting:
        """Waits for the first message after a moment for which the condition holds."""
        sightings: list[Sighting] = []

        def look() -> bool:
            sightings[:] = [
                sighting for sighting in self.since(after_s, camera) if condition(sighting)
            ][:1]
            return bool(sightings)

        wait_until(look, f"a message of camera {camera}")
        return sightings[0]

    def first_ok(self, camera: str, after_s: float) -> Sighting:
        """Waits for a frame that was captured after a moment, and labelled."""
        return self.first(
            camera,
            after_s,
            lambda sighting: (
                sighting.message.status == "ok"
                and (sighting.message.stamp_mono_ns or 0) / 1e9 > after_s
            ),
        )

    def forget(self) -> None:
        """Discards the messages received so far."""
        with self._lock:
            self._seen.clear()

    def close(self) -> None:
        """Stops receiving."""
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        with Subscriber(self._endpoint) as subscriber:
            while not self._stop.is_set():
                try:
                    message, _ = subscriber.receive(0.2)
                except NoMessageError:
                    continue
                if not message.retained:
                    with self._lock:
                        self._seen.append(Sighting(time.monotonic(), message))


class Node:
    """`perception-node run` in its own process, with a camera `stream` on the failing server, a
    camera `steady` without faults, and optionally a camera `coded` on H.264."""

    def __init__(self, folder: Path, stream: Stream, *, h264: bool) -> None:
        self.labels = f"tcp://127.0.0.1:{free_port()}"
        self.control = f"tcp://127.0.0.1:{free_port()}"
        self.log = folder / "node.log"
        self.recordings = folder / "recordings"
        failing = {"stream": stream.url} | ({"coded": stream.url_h264} if h264 else {})
        self._config = folder / "node.toml"
        self._config.write_text(
            f'[wire]\nendpoint = "{self.labels}"\n[control]\nendpoint = "{self.control}"\n'
            f'[recording]\nenabled = true\nfolder = "{self.recordings}"\n'
            # One file for each time that it runs.
            f"quality = {RECORDED_QUALITY}\nsplit_s = 86400\nsplit_mb = 100000\n"
            + "".join(
                f'[[camera]]\nname = "{name}"\nsource = "{url}"\nat_start = "wait"\n'
                f"stall_timeout_s = {STALL_S}\n"
                for name, url in failing.items()
            )
            + '[[camera]]\nname = "steady"\nsource = "demo"\nmax_fps = 20.0\n'
        )
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Starts it, or starts it again."""
        self.process = run_node("run", "--config", str(self._config), log=self.log)
        return self.process

    def stop(self) -> int:
        """SIGTERM; its exit code. Raises TimeoutExpired where it takes over 5 seconds."""
        self.process.terminate()
        return self.process.wait(5)


def run_node(*arguments: str, log: Path | None = None) -> "subprocess.Popen[bytes]":
    """Starts a command in its own process, with its output in a file."""
    target = log.open("ab") if log is not None else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "node", *arguments], cwd=ROOT, stderr=target,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


class Rig:
    """Stream, node and monitor together."""

    def __init__(self, folder: Path, *, h264: bool) -> None:
        self.folder = folder
        self.stream = Stream()
        self.node = Node(folder, self.stream, h264=h264)
        self.monitor = Monitor(self.node.labels)
        for camera in ("stream", "steady", *(["coded"] if h264 else [])):
            self.monitor.first_ok(camera, 0)

    def close(self) -> None:
        """Ends all processes."""
        self.monitor.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.node.stop()
        self.node.process.kill()
        self.stream.kill()


@contextlib.contextmanager
def rig(*, h264: bool = False) -> Iterator[Rig]:
    """A rig in a temporary folder; optionally with a third camera on H.264."""
    with tempfile.TemporaryDirectory() as folder:
        made = Rig(Path(folder), h264=h264)
        try:
            yield made
        finally:
            made.close()


def wait_until(
    condition: Callable[[], bool], description: str, patience_s: float = PATIENCE_S
) -> None:
    """Waits for a condition. Raises TimeoutError, which names it."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{description}: not within {patience_s:g} s")
        time.sleep(0.005)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False
