"""Attacks by streams: pictures that are older than they seem. Each picture carries its number, a
model reads it, and the subscriber compares when it was filmed with what the message claims."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attack import ROOT, Attack, Budget, Outcome
from numbered import CODECS, FPS, PERIOD_S, Codec, clip, filmed_s, newest_of, pictures_of
from numbered import write_model as write_numbers
from rtsp import MOST_JPEG_PX

from perception_client.subscriber import (
    HealthMessage,
    LabelsMessage,
    NoMessageError,
    Status,
    Subscriber,
)

BOUND_S = 0.1 + PERIOD_S
"""Hidden age that is allowed: what the message claims, uncertainty counted in, and the truth."""
_START_S = 90.0
_SHORT_S = 20.0
"""Below this an attack tries two small streams in the place of all."""
_SLACK_S = 0.005
"""Of the camera's own clock: a server's thread is woken up late, and the bound is not its."""


@dataclass(slots=True)
class Sighting:
    """What a subscriber learnt of one stream."""

    hidden_s: list[float] = field(default_factory=list)
    claimed_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    degraded: set[str] = field(default_factory=set)
    dropped: int = 0
    health: HealthMessage | None = None

    @property
    def hidden_most_s(self) -> float:
        """The largest hidden age of an `ok` message."""
        return max(self.hidden_s, default=0.0)

    def take(self, message: LabelsMessage, pictures: int) -> None:
        """One message; what `ok` ones hide."""
        self.statuses[message.status] += 1
        self.degraded.update(message.degraded)
        self.dropped += message.dropped
        stamp_ns, best = message.stamp_mono_ns, message.best
        if message.status is not Status.OK or stamp_ns is None or best is None:
            return
        stamp_s, uncertain_s = stamp_ns / 1e9, (message.stamp_uncertainty_ns or 0) / 1e9
        filmed = filmed_s(newest_of(best.id, pictures, stamp_s + _SLACK_S))
        self.hidden_s.append(stamp_s - uncertain_s - filmed)
        assert message.published_mono_ns is not None
        self.claimed_s.append(message.published_mono_ns / 1e9 - stamp_s + uncertain_s)

    @property
    def admits(self) -> bool:
        """Whether the node said that it is not all well."""
        return bool(self.degraded or self.statuses[Status.STALLED])


@contextlib.contextmanager
def _process(*command: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment, cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[int, int]]:
    """Its ports for HTTP and RTSP."""
    here = Path(__file__).parent
    with _process(str(here / "numbered_server.py"), *options) as process:
        assert process.stdout is not None
        http, rtsp = process.stdout.readline().split()
        yield int(http), int(rtsp)


@contextlib.contextmanager
def node(url: str, folder: Path) -> Iterator[Subscriber]:
    """A node on one stream, that reads the numbers."""
    model = write_numbers(folder)
    endpoint = f"ipc://{folder}/node"
    command = ["-m", "node", "run", "--source", url, "--model", str(model),
               "--runtime", "openvino", "--endpoint", endpoint]  # fmt: skip
    control = f"control.endpoint='ipc://{folder}/control'"
    for setting in ("model.top_k=1", "model.precision=fp32", control):
        command += ["--set", setting]
    with _process(*command), Subscriber(endpoint) as subscriber:
        yield subscriber


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that want a core each, all the time."""
    with contextlib.ExitStack() as stack:
        for _ in range(processes):
            stack.enter_context(_process("-c", "while True: pass"))
        yield


def watch(subscriber: Subscriber, seconds: float, pictures: int) -> Sighting:
    """What comes in so many seconds, from the first message on that tells of a stream."""
    seen, first = Sighting(), True
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            message, _ = subscriber.receive(0.5)
        except NoMessageError:
            continue
        if first and message.status in (Status.OK, Status.STALLED):
            first, deadline = False, time.monotonic() + seconds
        if not first:
            seen.take(message, pictures)
    seen.health = subscriber.newest_health
    return seen


# Hidden age, whatever the stream, its size and the load.


@dataclass(frozen=True, slots=True)
class Cell:
    """One stream under one load."""

    codec: Codec
    transport: str
    size: str
    busy: int

    def __str__(self) -> str:
        return f"{self.codec} by {self.transport}, {self.size}, {self.busy} busy"


_SMALL = (Cell("mjpeg", "http", "360p", 0), Cell("h264", "rtsp", "360p", 1))


def _cells(seconds: float) -> tuple[Cell, ...]:
    if seconds < _SHORT_S:
        return _SMALL
    return tuple(
        Cell(codec, transport, size, load)
        for size in ("720p", "1080p", "4K")
        for codec in CODECS
        for transport in ("http", "rtsp")
        for load in (0, 1, 3)
        if not (codec == "mjpeg" and transport == "rtsp" and size == "4K")  # over MOST_JPEG_PX
    )


def hidden_age(budget: Budget) -> Outcome:
    """Every codec, transport, size and load."""
    cells, wrong, figures = _cells(budget.seconds), [], {}
    each_s = budget.seconds / len(cells) if cells == _SMALL else budget.seconds
    for cell in cells:
        clip(cell.codec, cell.size)
    with server() as (http, rtsp):
        for number, cell in enumerate(cells):
            folder = budget.folder / str(number)
            folder.mkdir()
            port = http if cell.transport == "http" else rtsp
            url = f"{cell.transport}://127.0.0.1:{port}/{cell.codec}/{cell.size}"
            with busy(cell.busy), node(url, folder) as subscriber:
                seen = watch(subscriber, each_s, pictures_of(cell.size))
            print(f"  {cell}: {_told(seen)}", file=sys.stderr, flush=True)
            figures[f"{cell}: hidden_s"] = seen.hidden_most_s
            wrong += [f"{cell}: {problem}" for problem in _wrongs(seen)]
    return Outcome(
        f"{len(cells)} streams, {each_s:g} s each (motion JPEG over RTSP ends at "
        f"{MOST_JPEG_PX} pixels)",
        tuple(wrong),
        figures,
    )


def _told(seen: Sighting) -> str:
    claimed = sorted(seen.claimed_s) or [0.0]
    return (
        f"{len(seen.hidden_s)} ok, hidden at most {seen.hidden_most_s:.3f} s, said age at most "
        f"{claimed[-1]:.3f} s, half of them below {claimed[len(claimed) // 2]:.3f} s; "
        f"{seen.dropped} dropped, {seen.statuses[Status.STALLED]} stalled; "
        f"{'; '.join(sorted(seen.degraded)) or 'not degraded'}"
    )


def _wrongs(seen: Sighting, bound_s: float = BOUND_S) -> list[str]:
    wrong = []
    if seen.hidden_most_s > bound_s:
        wrong.append(f"an ok message hides {seen.hidden_most_s:.3f} s, allowed are {bound_s:.3f}")
    if not seen.hidden_s and not seen.admits:
        wrong.append("no ok message, and neither stalled nor degraded was said")
    return wrong


# Networks and servers that are not as they should be.


class Relay:
    """Passes TCP on, and can stand still, or carry only so many bytes a second."""

    def __init__(self, port: int, bytes_per_s: float | None = None) -> None:
        self._port = port
        self._bytes_per_s = bytes_per_s
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def stand_still(self, seconds: float) -> None:
        """Nothing passes meanwhile."""
        self._goes_on.clear()
        time.sleep(seconds)  # the standstill
        self._goes_on.set()

    def close(self) -> None:
        self._goes_on.set()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._port))
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(4096 if self._bytes_per_s else 65536):
                self._goes_on.wait()
                if self._bytes_per_s:
                    time.sleep(len(data) / self._bytes_per_s)  # the link's rate
                sink.sendall(data)


def standstill(budget: Budget) -> Outcome:
    """A network that stands still now and then for 0.1 to 0.6 s."""
    size = "360p"
    clip("h264", size)
    budget_s = max(budget.seconds, 3.0)
    with server() as (http, _):
        relay = Relay(http)
        with node(f"http://127.0.0.1:{relay.port}/h264/{size}", budget.folder) as subscriber:
            _await_sight(subscriber)
            stop = threading.Event()
            thread = threading.Thread(target=_stumble, args=(relay, stop), daemon=True)
            thread.start()
            seen = watch(subscriber, budget_s, pictures_of(size))
            stop.set()
            thread.join(2.0)
        relay.close()
    wrong = _wrongs(seen)
    if not seen.hidden_s:
        wrong.append("nothing was seen between the standstills")
    return Outcome(
        f"standstills of 0.1 to 0.6 s, one a second; {_told(seen)}",
        tuple(wrong),
        {"hidden_s": seen.hidden_most_s, "ok": len(seen.hidden_s)},
    )


def _await_sight(subscriber: Subscriber) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(NoMessageError):
            if subscriber.receive(0.5)[0].status is Status.OK:
                return


def _stumble(relay: Relay, stop: threading.Event) -> None:
    lengths_s = (0.1, 0.6, 0.2, 0.45, 0.3, 0.15, 0.5)
    for number in range(10_000):
        if stop.wait(1.0):
            return
        relay.stand_still(lengths_s[number % len(lengths_s)])


def never_waits(budget: Budget) -> Outcome:
    """A server that sends faster than anything is filmed: nobody can tell how old a picture is."""
    clip("h264", "360p")
    with (
        server("--rush") as (http, _),
        node(f"http://127.0.0.1:{http}/h264/360p", budget.folder) as subscriber,
    ):
        seen = watch(subscriber, max(budget.seconds, 4.0), pictures_of("360p"))
    wrong = [f"{len(seen.hidden_s)} ok messages"] if seen.hidden_s else []
    errors = (
        [camera.last_error for camera in seen.health.cameras] if seen.health is not None else []
    )
    if not any(error and "discard_backlog" in error for error in errors):
        wrong.append(f"health does not say why: {errors}")
    if not seen.statuses[Status.STALLED]:
        wrong.append("stalled was not said")
    return Outcome(
        f"a server without pause; {_told(seen)}", tuple(wrong), {"ok": len(seen.hidden_s)}
    )


def slow_link(budget: Budget) -> Outcome:
    """A link that carries four fifths of the stream, for good. What it holds back cannot be told
    from arrival times alone, so this is measured, not judged."""
    shown = clip("h264", "360p")
    rate = 0.8 * FPS * sum(map(len, shown.packets)) / len(shown.packets)
    with server() as (http, _):
        relay = Relay(http, rate)
        with node(f"http://127.0.0.1:{relay.port}/h264/360p", budget.folder) as subscriber:
            seen = watch(subscriber, budget.seconds, pictures_of("360p"))
        relay.close()
    return Outcome(
        f"a link of 0.8 times the stream, measured only; {_told(seen)}",
        figures={"hidden_s": seen.hidden_most_s, "ok": len(seen.hidden_s)},
    )


ATTACKS = (
    Attack("hidden age of streams", hidden_age),
    Attack("a network that stands still for less than a second", standstill),
    Attack("a stream that never has to be waited for", never_waits),
    Attack("a link slower than its stream", slow_link),
)
