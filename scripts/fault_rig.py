"""What the fault campaign and the soak run share: a stream that can be made to fail, a node in a
process of its own, and a monitor that holds every message it sends against what it could see."""

import argparse
import contextlib
import itertools
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage

from node.client import LabelsMessage, NoMessageError, Subscriber
from node.opencv import cv2

FPS = 30
STALL_S = 0.5
SLACK_S = 0.2
"""What detection may take beyond the stall timeout."""
PATIENCE_S = 30.0
ROOT = Path(__file__).parents[1]


class Stream:
    """A camera that speaks motion JPEG over HTTP: a process of its own, so that it can be stopped
    and killed."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://user:secret@127.0.0.1:{self.port}/stream.mjpg"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts the server, on the same port every time."""
        command = [sys.executable, __file__, "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        wait_until(lambda: _connects(self.port), "the stream's server starts")

    def mode(self, name: str) -> None:
        """What it sends from now on; see `_frames`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n".encode())
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """To the server's process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a power cut does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)


@dataclass(frozen=True, slots=True)
class Seen:
    """A message, and when it came on CLOCK_MONOTONIC."""

    at_s: float
    message: LabelsMessage


class Monitor:
    """Receives everything that a node publishes, on a thread of its own."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def since(self, at_s: float, camera: str) -> list[Seen]:
        """Messages of a camera received after a moment."""
        with self._lock:
            return [x for x in self._seen if x.at_s > at_s and x.message.camera == camera]

    def first(self, camera: str, after_s: float, condition: Callable[[Seen], bool]) -> Seen:
        """Waits for the first message after a moment for which the condition holds."""
        found: list[Seen] = []

        def look() -> bool:
            found[:] = [x for x in self.since(after_s, camera) if condition(x)][:1]
            return bool(found)

        wait_until(look, f"a message of camera {camera}")
        return found[0]

    def first_ok(self, camera: str, after_s: float) -> Seen:
        """Waits for a frame that was captured after a moment, and labelled."""
        return self.first(
            camera,
            after_s,
            lambda x: x.message.status == "ok" and (x.message.stamp_mono_ns or 0) / 1e9 > after_s,
        )

    def forget(self) -> None:
        """Lets go of what was received so far."""
        with self._lock:
            self._seen.clear()

    def close(self) -> None:
        """Receives no more."""
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
                        self._seen.append(Seen(time.monotonic(), message))


class Node:
    """`perception-node run` in a process of its own, with a camera `stream` on the failing one and
    a camera `steady` that nothing ever happens to."""

    def __init__(self, folder: Path, stream: Stream) -> None:
        self.labels = f"tcp://127.0.0.1:{free_port()}"
        self.control = f"tcp://127.0.0.1:{free_port()}"
        self.log = folder / "node.log"
        self._config = folder / "node.toml"
        self._config.write_text(
            f'[wire]\nendpoint = "{self.labels}"\n[control]\nendpoint = "{self.control}"\n'
            f'[[camera]]\nname = "stream"\nsource = "{stream.url}"\nat_start = "wait"\n'
            f"stall_timeout_s = {STALL_S}\n"
            '[[camera]]\nname = "steady"\nsource = "demo"\nmax_fps = 20.0\n'
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
    """A command in a process of its own; what it says goes to a file."""
    target = log.open("ab") if log is not None else subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "node", *arguments], cwd=ROOT, stderr=target,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


class Rig:
    """All of it together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stream = Stream()
        self.node = Node(folder, self.stream)
        self.monitor = Monitor(self.node.labels)
        self.monitor.first_ok("stream", 0)
        self.monitor.first_ok("steady", 0)

    def close(self) -> None:
        """Ends all processes."""
        self.monitor.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.node.stop()
        self.node.process.kill()
        self.stream.kill()


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """A rig in a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Rig(Path(folder))
        try:
            yield made
        finally:
            made.close()


def wait_until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError naming what did not happen in time."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience_s:g} s")
        time.sleep(0.005)


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


# The stream's own process.


def _pictures() -> list[bytes]:
    """A view that moves, as JPEG."""
    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / "coffee.png"))
    assert picture is not None
    shifted = (np.roll(picture, 3 * step, axis=1) for step in range(10))
    return [cv2.imencode(".jpg", x)[1].tobytes() for x in shifted]


def _part(jpeg: bytes, claimed: int | None = None) -> bytes:
    length = len(jpeg) if claimed is None else claimed
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


class _Server:
    """mode: what connections send now.

    good: moving pictures; frozen: one picture; silent: nothing; half: half a picture, then nothing;
    garbage: random bytes; mixed: random bytes between good pictures; empty: pictures of no bytes;
    lying: lengths that are wrong; drip: a byte at a time; small: pictures of another size;
    cut: half of each picture; overwritten: zeros in the middle of each; damaged: one picture in
    three is cut; reset: connections are reset; refuse: HTTP 500; blank: one grey picture.
    """

    def __init__(self, port: int) -> None:
        self.mode = "good"
        self._pictures = _pictures()
        small = cv2.resize(cv2.imdecode(np.frombuffer(self._pictures[0], np.uint8), 1), (320, 200))
        self._small = [
            cv2.imencode(".jpg", np.roll(small, step, axis=1))[1].tobytes() for step in range(10)
        ]
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)

    def serve(self) -> None:
        """For ever."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(4096)
            if self.mode == "refuse":
                connection.sendall(b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")
                return
            connection.sendall(
                b"HTTP/1.1 200 OK\r\n"
                b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
            )
            for place in itertools.count():
                self._send(connection, place)
                time.sleep(1 / FPS)

    def _send(self, connection: socket.socket, place: int) -> None:
        good = self._pictures[place % len(self._pictures)]
        mode = self.mode
        if mode == "reset":
            linger = b"\1\0\0\0\0\0\0\0"  # on, for no time: close sends a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise OSError("reset")
        if mode == "refuse":
            raise OSError("closed")
        if mode == "half":
            connection.sendall(_part(good)[: len(good) // 2])
            while self.mode == "half":
                time.sleep(0.01)
            raise OSError("closed")
        if mode == "drip":
            for byte in _part(good):
                if self.mode != "drip":
                    break
                connection.sendall(bytes([byte]))
                time.sleep(0.01)
            return
        if mode == "garbage":
            connection.sendall(random.randbytes(2000))
        elif mode == "mixed":
            connection.sendall(random.randbytes(200) + _part(good))
        elif mode == "cut":
            connection.sendall(_part(good[: len(good) // 2]))
        elif mode == "overwritten":
            middle = len(good) // 2
            connection.sendall(_part(good[:middle] + bytes(400) + good[middle + 400 :]))
        elif mode == "damaged":
            connection.sendall(_part(good[: len(good) // 2] if place % 3 == 0 else good))
        elif mode == "empty":
            connection.sendall(_part(b""))
        elif mode == "lying":
            connection.sendall(_part(good, claimed=random.choice([0, 7, 10**9])))
        elif mode == "small":
            connection.sendall(_part(self._small[place % len(self._small)]))
        elif mode in ("frozen", "blank"):
            connection.sendall(_part(self._pictures[0]))
        elif mode == "good":
            connection.sendall(_part(good))


def _serve() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    server = _Server(parser.parse_args().port)
    threading.Thread(target=server.serve, daemon=True).start()
    for line in sys.stdin:
        server.mode = line.strip()


if __name__ == "__main__":
    _serve()
