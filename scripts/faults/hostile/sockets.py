"""A stranger on the network: many connections, floods of subscriptions, requests without end."""

import contextlib
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import zmtp
from attack import ROOT, Attack, Budget, Outcome

from node.errors import PerceptionError
from perception_client import (
    Control,
    Keys,
    LabelsMessage,
    NoAnswerError,
    NoMessageError,
    Subscriber,
)

SILENCE_S = 0.2
BUSY_S = 2.0
"""Of both where other work keeps the processors busy, and every process waits for its turn."""
GROWN_MIB = 50.0
PAUSE_S = 1.0
"""A pause waits for the frame that is being looked at, and for one request of each other client."""
LOG_BYTES = 10_000
"""Of any number of requests that cannot be understood."""
CONNECTIONS = 1000
FLOODERS = 4
ASKERS = 50
SNAPSHOTS = 32
_PATIENCE_S = 90.0
_ANSWER_S, _ATTEMPTS = 2.0, 2
_CAMERA = "front"


class Target:
    """A node with labels, control and a page, and what another subscriber sees of it."""

    def __init__(self, folder: Path, keys: Path | None = None) -> None:
        self.ports = {name: _free_port() for name in ("labels", "control", "page")}
        self.keys = None if keys is None else Keys.read(keys / "clients" / "mine")
        self.log = folder / "node.log"
        self._settings = [
            f"camera.0.name={_CAMERA}", "camera.0.max_fps=20",
            f"control.endpoint={self.endpoint('control')}",
            f"monitor.web=127.0.0.1:{self.ports['page']}", "monitor.allow_control=true",
        ] + ([] if keys is None else [f"wire.keys={keys}"])  # fmt: skip
        command = [sys.executable, "-m", "node", "run", "--source", "demo",
                   "--endpoint", self.endpoint("labels")]  # fmt: skip
        for setting in self._settings:
            command += ["--set", setting]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        _limit_files(self.process.pid)
        self.usage = psutil.Process(self.process.pid)
        self.listener = Listener(self.endpoint("labels"), self.keys)

    def wait(self) -> None:
        """Until it labels."""
        _wait_until(self._labels, "the first label")

    def _labels(self) -> bool:
        if self.process.poll() is not None:
            raise ChildProcessError(f"the node did not start:\n{self.log.read_text()}")
        return self.listener.hears

    def endpoint(self, name: str) -> str:
        """The address of one of its sockets."""
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def control(self, timeout_s: float = _ANSWER_S) -> Control:
        """One more client."""
        return Control(self.endpoint("control"), keys=self.keys, timeout_s=timeout_s)

    def rss_mib(self) -> float:
        """Its resident memory."""
        return float(self.usage.memory_info().rss) / 2**20

    def close(self) -> None:
        """Ends it."""
        self.listener.close()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()


class Listener:
    """Another subscriber: the longest time between two labels, and from the end of the work on a
    frame to the arrival of its labels, which no busy model takes part in."""

    def __init__(self, endpoint: str, keys: Keys | None) -> None:
        self._subscriber_of = (endpoint, keys)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._heard_at: float | None = None
        self._silence_s = self._delay_s = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        endpoint, keys = self._subscriber_of
        with Subscriber(endpoint, _CAMERA, keys=keys) as subscriber:
            while not self._stop.is_set():
                with contextlib.suppress(NoMessageError):
                    self._note(subscriber.receive(0.1)[0])

    def _note(self, message: LabelsMessage) -> None:
        now = time.monotonic()
        if message.retained or message.status != "ok":
            return
        with self._lock:
            if self._heard_at is not None:
                self._silence_s = max(self._silence_s, now - self._heard_at)
            self._heard_at = now
            if message.timing_ns is not None:
                delay_s = message.age_s - message.timing_ns.total / 1e9
                self._delay_s = max(self._delay_s, delay_s)

    def worst(self) -> tuple[float, float]:
        """The longest silence and delay since this was asked before, in seconds."""
        with self._lock:
            now, heard_at = time.monotonic(), self._heard_at
            silence_s = max(self._silence_s, 0.0 if heard_at is None else now - heard_at)
            worst = silence_s, self._delay_s
            self._silence_s = self._delay_s = 0.0
            if heard_at is not None:
                self._heard_at = now
        return worst

    @property
    def hears(self) -> bool:
        """Whether something came."""
        return self._heard_at is not None

    def close(self) -> None:
        """Listens no more."""
        self._stop.set()
        self._thread.join(5)


class Report:
    """What an attack found."""

    def __init__(self, target: Target, budget: Budget) -> None:
        seconds = budget.seconds
        self.target = target
        self._patience = budget.patience
        self.wrong: list[str] = []
        self.figures: dict[str, float] = {}
        with target.control(_PATIENCE_S) as control:
            control.resume(_CAMERA)  # once, so that what it needs is loaded
        target.listener.worst()
        time.sleep(max(0.5, seconds / 4))  # what the node and this computer do by themselves
        self._alone_s = target.listener.worst()
        self.figures["alone_silence_s"], self.figures["alone_delay_s"] = self._alone_s
        self._rss_mib = target.rss_mib()

    def phase(self, name: str, work: Callable[[], None]) -> None:
        """One part of the attack, and how the node was meanwhile."""
        self.target.listener.worst()
        work()
        silence_s, delay_s = self.target.listener.worst()
        grown_mib = self.target.rss_mib() - self._rss_mib
        self._worse("silence_s", silence_s)
        self._worse("delay_s", delay_s)
        self._worse("grown_mib", grown_mib)
        busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
        bound_s = BUSY_S if busy else SILENCE_S * self._patience
        if silence_s > max(bound_s, 2 * self._alone_s[0]):
            self.wrong.append(f"{name}: another subscriber heard nothing for {silence_s:.2f} s")
        if delay_s > max(bound_s, 2 * self._alone_s[1]):
            self.wrong.append(f"{name}: labels came {delay_s:.2f} s after they were made")
        if grown_mib > GROWN_MIB:
            self.wrong.append(f"{name}: memory grew by {grown_mib:.0f} MiB")
        if self.target.process.poll() is not None:
            self.wrong.append(f"{name}: the node ended with {self.target.process.returncode}")

    def asked(self, name: str) -> None:
        """A resume of another client, now. A connection that is closed among a thousand others
        loses its request: the client asks again, as its users do."""
        began = time.monotonic()
        for _ in range(_ATTEMPTS):
            with self.target.control() as control:
                try:
                    control.resume(_CAMERA)
                    break
                except NoAnswerError:
                    self.figures["unanswered"] = self.figures.get("unanswered", 0) + 1
                except PerceptionError as error:
                    self.wrong.append(f"{name}: a pause was refused: {error}")
                    break
        else:
            self.wrong.append(f"{name}: no answer to {_ATTEMPTS} requests")
        self._worse("pause_s", time.monotonic() - began)
        if self.figures["pause_s"] > PAUSE_S * self._patience:
            self.wrong.append(f"{name}: a pause took {self.figures['pause_s']:.2f} s")

    def _worse(self, name: str, value: float) -> None:
        self.figures[name] = max(self.figures.get(name, 0.0), value)


def _connections(report: Report, seconds: float) -> None:
    """Idle connections to every port, half of which say that they speak ZeroMQ."""
    before = report.target.usage.num_fds()
    for name, port in report.target.ports.items():
        with contextlib.ExitStack() as stack:
            for connection in _connect(port, CONNECTIONS):
                stack.enter_context(connection)
                with contextlib.suppress(OSError):
                    if connection.fileno() % 2:
                        connection.send(zmtp.greeting())
            time.sleep(seconds / 10)
            most = report.target.usage.num_fds()
            report.figures[f"{name}_descriptors"] = most - before
            report.asked(f"{CONNECTIONS} connections to {name}")
    patience = time.monotonic() + 15
    while report.target.usage.num_fds() > before + 20 and time.monotonic() < patience:
        time.sleep(0.05)
    left = report.target.usage.num_fds() - before
    if left > 20:
        report.wrong.append(f"{left} descriptors stay open after the connections have gone")


def _floods(report: Report, seconds: float) -> None:
    """Every flood in turn, from a few peers at once."""
    command = [sys.executable, str(Path(zmtp.__file__)), str(report.target.ports["labels"]),
               str(seconds / 2)]  # fmt: skip
    flooders = [subprocess.Popen(command, preexec_fn=_elsewhere) for _ in range(FLOODERS)]
    report.asked("among floods")
    for flooder in flooders:
        flooder.wait(_PATIENCE_S)
    report.asked("after the floods")


def _requests(report: Report, seconds: float) -> None:
    """One client with many snapshots, many clients with many pauses."""
    ask = {
        name: zmtp.frame(
            b"\x82\xa2id\x01\xa7command" + bytes([0xA0 + len(name)]) + name.encode()
        )
        for name in ("snapshot", "status", "resume")
    }  # fmt: skip
    port = report.target.ports["control"]
    with contextlib.ExitStack() as stack:
        if report.target.keys is None:
            greedy = zmtp.connected(port, ask["snapshot"] * SNAPSHOTS, b"DEALER")
            stack.enter_context(greedy)
            for _ in range(ASKERS):
                asker = zmtp.connected(port, (ask["resume"] + ask["status"]) * 20, b"DEALER")
                stack.enter_context(asker)
        until = time.monotonic() + seconds / 10
        while True:
            report.asked("among many requests")
            if time.monotonic() > until:
                return


_HEAD = b"POST /control HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
_BAD = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    _HEAD + b"\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
    _HEAD + b"; charset=none\r\nContent-Length: 2\r\n\r\n{}",
    _HEAD + b"\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    _HEAD + b"\r\nContent-Length: many\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"\x16\x03\x01" + bytes(300) + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n",
)


def _bad_requests(report: Report, seconds: float) -> None:
    """Requests to the page that cannot be understood, one after the other."""
    before, until, count = report.target.log.stat().st_size, time.monotonic() + seconds / 4, 0
    while time.monotonic() < until and count < 10_000:
        with contextlib.suppress(OSError), zmtp.silent(report.target.ports["page"]) as bad:
            bad.sendall(_BAD[count % len(_BAD)])
            bad.recv(4096)
        count += 1
    grown = report.target.log.stat().st_size - before
    report.figures["bad_requests"] = count
    report.figures["log_bytes"] = grown
    if grown > LOG_BYTES:
        report.wrong.append(f"{count} bad requests wrote {grown} bytes of log")
    with zmtp.silent(report.target.ports["page"]) as good:
        good.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        if not good.recv(4096).startswith(b"HTTP/1.1 200"):
            report.wrong.append("the page does not answer any more")


def _attack(budget: Budget, keys: Path | None) -> Outcome:
    _many_files()
    target = Target(budget.folder, keys)
    try:
        target.wait()
        report = Report(target, budget)
        seconds = budget.seconds
        report.phase("connections", lambda: _connections(report, seconds))
        report.phase("floods", lambda: _floods(report, seconds))
        report.phase("requests", lambda: _requests(report, seconds))
        report.phase("bad requests", lambda: _bad_requests(report, seconds))
    finally:
        target.close()
    if target.process.returncode != 0:
        report.wrong.append(f"the node ended with {target.process.returncode}")
    tried = (
        f"{CONNECTIONS} connections to each of three ports, {len(zmtp.FLOODS)} floods from "
        f"{FLOODERS} peers, {SNAPSHOTS} snapshots of one client, {ASKERS} clients that ask without "
        "end, requests that cannot be understood"
    )
    return Outcome(tried, tuple(report.wrong), report.figures)


def _open(budget: Budget) -> Outcome:
    return _attack(budget, None)


def _with_keys(budget: Budget) -> Outcome:
    keys = budget.folder / "keys"
    made = [sys.executable, "-m", "node", "keys", str(keys), "--client", "mine",
            "--allow", "labels", "--allow", "control"]  # fmt: skip
    subprocess.run(made, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=_PATIENCE_S)
    return _attack(budget, keys)


def _connect(port: int, count: int) -> Iterator[socket.socket]:
    """Many connections at once, without a word. Those that are refused are left out."""
    with selectors.DefaultSelector() as waiting:
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            waiting.register(connection, selectors.EVENT_WRITE)
        until = time.monotonic() + 5
        while waiting.get_map() and time.monotonic() < until:
            for key, _ in waiting.select(0.1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                waiting.unregister(connection)
                yield connection
        for key in tuple(waiting.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()


def _many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _elsewhere() -> None:
    """A stranger has a computer of its own: from its start on it takes no time from the node."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _limit_files(process: int) -> None:
    """As many systems have it, before the process has opened its sockets: what the node raises by
    itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.prlimit(process, resource.RLIMIT_NOFILE, (1024, hard))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(condition: Callable[[], bool], description: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{description}: not within {_PATIENCE_S:g} s")
        time.sleep(0.005)


ATTACKS = (
    Attack("strangers at open sockets", _open),
    Attack("strangers at sockets with keys", _with_keys),
)
