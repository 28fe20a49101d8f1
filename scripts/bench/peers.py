"""Compares the node with the loops of `peer_loops.py` by turns, each a process on the same two
cores and the same motion JPEG stream of 720p at 30 pictures a second: age of a picture at the
subscriber, CPU time, memory, start, and a camera that is away for 4 s."""

import argparse
import bisect
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import msgpack
import numpy as np
import psutil
import skimage
import torch
import zmq
from rich.console import Console
from rich.table import Table

from bench.peer_loops import MARK_BITS, Image, marked
from node.capture.sources.image_files import read_image
from node.diagnostics.latency_profile import Spread
from node.perception.models.registry import load_model
from perception_client.errors import NoMessageError
from perception_client.subscriber import Status, Subscriber

PEERS = ("plain", "careful-onnxruntime", "careful-openvino")
NODES = ("node-onnxruntime", "node-openvino")
FPS = 30
OUTAGE_S = 4.0
_UNDER_WAY_S = 0.5
"""Time after the beginning of an outage in which pictures from before it are still labelled."""
_SETTLE_S = 2.0
_PICTURES = 150
"""Different pictures, of 5 s: an older one counts as younger."""
_START_S = 120.0
_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one peer.

    Attributes:
        name: of the peer.
        start_s: from the start of the process to its first label.
        age_p50_ms: from the camera's picture to its labels at the subscriber, median.
        age_p99_ms: the same, 99th percentile.
        cpu_ms: CPU time of the process for one label.
        labelled_per_s: labels a second.
        rss_mib: resident memory.
        pss_mib: the same, with shared pages counted in proportion.
        back_s: from the return of the camera to the labels of a new picture.
        old_labels: labels during the outage, of pictures from before it.
    """

    name: str
    start_s: float
    age_p50_ms: float
    age_p99_ms: float
    cpu_ms: float
    labelled_per_s: float
    rss_mib: float
    pss_mib: float
    back_s: float
    old_labels: float


class Camera:
    """Serves numbered pictures, and knows when it took each."""

    def __init__(self) -> None:
        self._jpegs = [_part(marked(picture, number)) for number, picture in _pictures()]
        self._changed = threading.Condition()
        self._on = True
        self.taken_ns: list[int] = []
        """When each picture was taken, by its number, CLOCK_MONOTONIC."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._address = listener.getsockname()
        self.url = f"http://127.0.0.1:{self._address[1]}/stream"
        threading.Thread(target=self._take_pictures, daemon=True).start()
        self.return_()

    def leave(self) -> None:
        """Ends all connections and refuses new ones."""
        with self._changed:
            self._on = False
            self._changed.notify_all()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def return_(self) -> None:
        """Accepts connections again."""
        self._listener = socket.create_server(self._address)
        self._on = True
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def number_at(self, time_ns: int) -> int:
        """The newest picture that was taken before a time."""
        return bisect.bisect_right(self.taken_ns, time_ns) - 1

    def newest_with(self, mark: int) -> int:
        """The newest picture that shows this number."""
        newest = len(self.taken_ns) - 1
        return max(0, newest - (newest - mark) % _PICTURES)

    def _take_pictures(self) -> None:
        due_s = time.monotonic()
        while True:
            due_s = max(due_s, time.monotonic() - 1 / FPS) + 1 / FPS  # a delay makes no burst
            time.sleep(max(0.0, due_s - time.monotonic()))
            with self._changed:
                self.taken_ns.append(time.monotonic_ns())
                self._changed.notify_all()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(1 << 16)
            connection.sendall(_HEAD)
            while True:
                with self._changed:
                    self._changed.wait()
                    if not self._on:
                        return
                    number = len(self.taken_ns) - 1
                connection.sendall(self._jpegs[number % _PICTURES])


Receive = Callable[[float], int | None]
"""Returns when the picture of the next labels was taken, CLOCK_MONOTONIC in ns; None where no
labels came within so many seconds."""


@contextlib.contextmanager
def _receiver(name: str, endpoint: str, camera: Camera) -> Iterator[Receive]:
    if name in NODES:
        with Subscriber(endpoint) as subscriber:

            def receive_node(timeout_s: float) -> int | None:
                with contextlib.suppress(NoMessageError):
                    message, _ = subscriber.receive(timeout_s)
                    if message.status is Status.OK and message.stamp_mono_ns is not None:
                        return camera.taken_ns[camera.number_at(message.stamp_mono_ns)]
                return None

            yield receive_node
        return
    with zmq.Context() as context, context.socket(zmq.SUB) as subscription:
        subscription.subscribe(b"labels/")
        subscription.connect(endpoint)

        def receive_peer(timeout_s: float) -> int | None:
            if not subscription.poll(int(timeout_s * 1000)):
                return None
            body = msgpack.unpackb(subscription.recv_multipart()[1])
            return camera.taken_ns[camera.newest_with(body["number"])]

        yield receive_peer


def measure(name: str, camera: Camera, graph: Path, seconds: float, outage_s: float) -> Result:
    """Starts a peer, measures it for some seconds, takes its camera away, and ends it."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels"
        started_s = time.monotonic()
        process = _started(_command(name, camera.url, endpoint, graph))
        try:
            with _receiver(name, endpoint, camera) as receive:
                _first(receive, process, started_s + _START_S)
                start_s = time.monotonic() - started_s
                _ages(receive, _SETTLE_S)
                watched = psutil.Process(process.pid)
                cpu_s = sum(watched.cpu_times()[:2])
                ages_ns = _ages(receive, seconds)
                cpu_s = sum(watched.cpu_times()[:2]) - cpu_s
                memory = watched.memory_full_info()
                back_s, old_labels = _outage(receive, camera, outage_s)
        finally:
            process.kill()
            process.wait(10)
    ages = Spread.of(ages_ns)
    return Result(
        name, start_s, ages.p50, ages.p99, 1000 * cpu_s / len(ages_ns), len(ages_ns) / seconds,
        memory.rss / 2**20, memory.pss / 2**20, back_s, old_labels,
    )  # fmt: skip


def _first(receive: Receive, process: "subprocess.Popen[bytes]", until_s: float) -> None:
    while receive(0.2) is None:
        if process.poll() is not None or time.monotonic() > until_s:
            raise SystemExit(f"no labels: {process.args!r}")


def _ages(receive: Receive, seconds: float) -> list[int]:
    """Receives for some seconds; returns the age of each picture at the receipt of its labels."""
    ages_ns: list[int] = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        taken_ns = receive(1.0)
        if taken_ns is not None:
            ages_ns.append(time.monotonic_ns() - taken_ns)
    if not ages_ns:
        raise SystemExit("no labels in the measured time")
    return ages_ns


def _outage(receive: Receive, camera: Camera, outage_s: float) -> tuple[float, int]:
    camera.leave()
    left_s, old_labels = time.monotonic(), 0
    while (away_s := time.monotonic() - left_s) < outage_s:
        labelled = receive(0.05) is not None
        old_labels += labelled and away_s > _UNDER_WAY_S
    camera.return_()
    returned_ns = time.monotonic_ns()
    while (taken_ns := receive(0.2)) is None or taken_ns < returned_ns:
        if time.monotonic_ns() - returned_ns > _START_S * 1e9:
            raise SystemExit("no labels after the outage")
    return (time.monotonic_ns() - returned_ns) / 1e9, old_labels


def _command(name: str, url: str, endpoint: str, graph: Path) -> list[str]:
    if name not in NODES:
        return [sys.executable, "-m", "bench.peer_loops", name, url, endpoint, str(graph)]
    settings = (
        "camera.0.at_start=wait",
        "model.threads=2",
        f"model.runtime={name.removeprefix('node-')}",
    )
    options = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "node", "run", "--source", url, "--endpoint", endpoint, *options]


def _started(command: list[str]) -> "subprocess.Popen[bytes]":
    """Starts a process on two cores. It inherits them, so that each library counts two."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    try:
        paths = [str(Path(__file__).parents[level]) for level in (1, 2)]
        inherited = os.environ.get("PYTHONPATH")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, inherited or ""])}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment)
    finally:
        os.sched_setaffinity(0, cores)


def compared(
    names: tuple[str, ...], rounds: int, seconds: float, outage_s: float = OUTAGE_S
) -> list[Result]:
    """The medians of several rounds, in each of which every peer has its turn. With one round, the
    node's start may include the export of its graph."""
    camera = Camera()
    results: dict[str, list[Result]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        graph = careful_graph(Path(folder))
        for name in names:
            if name in NODES and rounds > 1:  # exports its graph, which is no part of a start
                measure(name, camera, graph, 0.5, 0.0)
        for _ in range(rounds):
            for name in names:
                results[name].append(measure(name, camera, graph, seconds, outage_s))
    return [_median(name, runs) for name, runs in results.items()]


def _median(name: str, runs: list[Result]) -> Result:
    rows = [asdict(run) for run in runs]
    keys = [key for key in rows[0] if key != "name"]
    return Result(name, **{key: statistics.median(row[key] for row in rows) for key in keys})


def careful_graph(folder: Path) -> Path:
    """Exports the default model as an engineer does: float pixels in planes, one picture; the ONNX
    file."""
    model = load_model("efficientnet_lite0")
    spec, file = model.preprocess, folder / "model.onnx"
    facts = {name: getattr(spec, name) for name in ("mean", "std", "crop_px", "resize_short_px")}
    file.with_suffix(".json").write_text(json.dumps(facts))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        pixels = torch.zeros(1, 3, *spec.crop_px)
        torch.onnx.export(model.network.eval(), (pixels,), str(file), dynamo=False)
    return file


def _pictures() -> Iterator[tuple[int, Image]]:
    assert _PICTURES < 1 << MARK_BITS
    data = Path(skimage.__file__).parent / "data"
    photos = [read_image(data / name) for name in ("coffee.png", "chelsea.png")]
    scenes = [cv2.resize(photo, (1280, 720)) for photo in photos]
    for number in range(_PICTURES):
        scene = np.roll(scenes[number * len(scenes) // _PICTURES], 4 * number, axis=1)
        yield number, np.asarray(scene, np.uint8)


def _part(picture: Image) -> bytes:
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def main() -> None:
    """Runs and prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="measured time of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--outage", type=float, default=OUTAGE_S, help="seconds without a camera")
    parser.add_argument("--only", nargs="+", choices=(*PEERS, *NODES), default=(*PEERS, *NODES))
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    names = tuple(arguments.only)
    results = compared(names, arguments.rounds, arguments.seconds, arguments.outage)
    if arguments.json:
        print(json.dumps({"peers": [asdict(result) for result in results]}))
        return
    table = Table(*Result.__dataclass_fields__)
    for result in results:
        values = asdict(result).values()
        table.add_row(*(value if isinstance(value, str) else f"{value:.4g}" for value in values))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
