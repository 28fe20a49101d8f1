"""Habits: what users and their shells do to commands and to the client, meaning no harm: readers
that rest, callbacks that end, closed and full streams, signals of a terminal, edited recordings."""

import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from attack import ROOT, Attack, Budget, Outcome

from node.errors import PerceptionError
from node.transport.publisher import Publisher
from node.transport.sequencing import Header, Outgoing
from perception_client.messages.codec import to_map
from perception_client.messages.kinds import Box, Detection, Status, boot_id, topic
from perception_client.subscriber import (
    LabelsMessage,
    NodeGoneError,
    NotUsableError,
    StaleGuard,
    Subscriber,
)
from perception_client.testing.recorded import RecordedLabels

COMMAND = [sys.executable, "-m", "node"]
WAIT_S = 10.0
AGAIN_S = 0.5
"""How soon a subscriber that rested must read what is new."""
SILENCE_S = 0.2
"""Longest silence of another subscriber."""
LONGEST_REST_S = 60.0
NEIGHBOURS = 9
RATE = 60.0


def _outgoing(things: tuple[Detection, ...]) -> Outgoing:
    """A labelled frame of now."""

    def finalise(envelope: Header) -> LabelsMessage:
        return LabelsMessage(
            node="robot", camera="front", session="habits", seq=envelope.seq, status=Status.OK,
            frame_id=envelope.seq, stamp_ns=envelope.published_ns, clock="host",
            stamp_mono_ns=envelope.published_mono_ns, boot_id=boot_id(),
            published_ns=envelope.published_ns, published_mono_ns=envelope.published_mono_ns,
            detections=things,
        )  # fmt: skip

    return Outgoing(topic("labels", "front"), finalise)


@contextmanager
def _feed(endpoint: str, size: int) -> Iterator[Publisher]:
    """Messages of about so many bytes, at RATE."""
    publisher = Publisher(endpoint)
    done = threading.Event()
    things = tuple(Detection(n, "x" * (size // 5), 0.5, Box(1.0, 2.0, 3.0, 4.0)) for n in range(5))

    def send() -> None:
        while not done.wait(1 / RATE):
            publisher.send(_outgoing(things))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield publisher
    finally:
        done.set()
        thread.join(WAIT_S)
        publisher.close()


class _Neighbours:
    """Subscribers that read all the time, and the longest silence of any. They decode nothing:
    what is measured is when it arrives."""

    def __init__(self, endpoint: str, count: int) -> None:
        self.longest_s = 0.0
        self._endpoint = endpoint
        self._count = count
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        context: zmq.Context[Any] = zmq.Context()
        poller = zmq.Poller()
        heard_s: dict[Any, float] = {}
        for _ in range(self._count):
            subscriber = context.socket(zmq.SUB)
            subscriber.setsockopt(zmq.SUBSCRIBE, b"labels/")
            subscriber.connect(self._endpoint)
            poller.register(subscriber, zmq.POLLIN)
            heard_s[subscriber] = math.inf
        while not self._done.is_set():
            for subscriber, _ in poller.poll(100):
                subscriber.recv_multipart()
                now_s = time.monotonic()
                self.longest_s = max(self.longest_s, now_s - heard_s[subscriber])
                heard_s[subscriber] = now_s
        for subscriber in heard_s:
            subscriber.close(linger=0)
        context.term()

    def close(self) -> None:
        self._done.set()
        self._thread.join(WAIT_S)


def _rest(budget: Budget) -> Outcome:
    """One subscriber of ten rests, for a second at first and twice the budget at last."""
    rests = sorted({1.0, min(2 * budget.seconds, LONGEST_REST_S)} - {0.0})
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    blind_s, gone = 0.0, 0
    with _feed(endpoint, 20_000) as publisher:
        neighbours = _Neighbours(endpoint, NEIGHBOURS)
        with Subscriber(endpoint) as subscriber:
            subscriber.latest(1.0, timeout_s=WAIT_S)
            for rest_s in rests:
                time.sleep(rest_s / 2)
                for _ in range(400):  # more than any buffer on the way holds
                    publisher.send(_outgoing((Detection(0, "x" * 20_000, 0.5, Box(1, 1, 1, 1)),)))
                    time.sleep(0.002)
                time.sleep(rest_s / 2)
                blind, times_gone = _until_fresh(subscriber)
                blind_s, gone = max(blind_s, blind), gone + times_gone
        neighbours.close()
    silence_s = neighbours.longest_s
    wrong = []
    if blind_s > AGAIN_S * budget.patience:
        wrong.append(f"it was blind for {blind_s:.2f} s more")
    if gone:
        wrong.append("it was told that the node is gone, while that sent")
    if silence_s > SILENCE_S * budget.patience:
        wrong.append(f"another subscriber heard nothing for {silence_s:.2f} s")
    figures = {"blind_s": blind_s, "silence_s": silence_s}
    told_rests = " and ".join(f"{rest_s:g} s" for rest_s in rests)
    return Outcome(f"one of 10 subscribers over TCP rests for {told_rests}", tuple(wrong), figures)


def _until_fresh(subscriber: Subscriber) -> tuple[float, int]:
    """How long a control loop has no labels, and how often it is told that the node is gone."""
    started = time.monotonic()
    gone = 0
    while time.monotonic() - started < WAIT_S:
        try:
            subscriber.require(0.2)
            break
        except NodeGoneError:
            gone += 1
        except NotUsableError:
            pass
        time.sleep(0.02)
    return time.monotonic() - started, gone


def _callbacks(budget: Budget) -> Outcome:
    """Callbacks that end the program, as far as they can, and waits that have no end."""
    endpoint = f"ipc://{budget.folder}/nobody"
    wrong = []
    raised = (SystemExit(1), KeyboardInterrupt(), GeneratorExit(), RuntimeError("the user's own"))
    for error in raised:
        calls: queue.Queue[object] = queue.Queue()

        def stop(reason: object, error: BaseException = error, calls: queue.Queue = calls) -> None:
            calls.put(reason)
            raise error

        with StaleGuard(endpoint, 0.05, stop) as guard:
            calls.get(timeout=WAIT_S)
            time.sleep(0.05)
            if not guard.watching:
                wrong.append(f"a callback that raised {error!r} ended the guard")
    done = threading.Event()
    threading.Timer(0.3, done.set).start()
    with (
        _feed(f"ipc://{budget.folder}/late", 100),
        Subscriber(f"ipc://{budget.folder}/late") as subscriber,
    ):
        if subscriber.latest(WAIT_S, timeout_s=math.inf) is None:
            wrong.append("a wait without end ended with nothing")
    return Outcome(f"{len(raised)} callbacks that end, a wait without end", tuple(wrong))


def _streams(budget: Budget) -> Outcome:
    """Commands with streams that are closed, full, and not read to their end."""
    keys = budget.folder / "keys"
    clients = [f"c{n}" for n in range(20)]
    options = " ".join(f"--client {name}" for name in clients)
    node = " ".join(COMMAND)
    printed = f"{node} completion bash"
    lines = {
        f"{printed} <&- >&- 2>&-": 0,
        f"{printed} >/dev/full": 1,
        f"set -o pipefail; PYTHONUNBUFFERED=1 {node} keys {keys} {options} | head -1": 0,
    }
    wrong = []
    running = {
        line: subprocess.Popen(
            ["bash", "-c", line],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in lines
    }
    for line, process in running.items():
        _, stderr = process.communicate(timeout=WAIT_S * 6)
        if process.returncode != lines[line] or "Traceback" in stderr:
            wrong.append(f"{line}: exit code {process.returncode}, {stderr[-200:]!r}")
    made = [name for name in clients if (keys / "clients" / name / f"{name}.key_secret").is_file()]
    if made != clients:
        wrong.append(f"{len(clients) - len(made)} clients have no keys, since nobody read of them")
    return Outcome(f"{len(lines)} commands with streams closed, full and half read", tuple(wrong))


def _hangup(budget: Budget) -> Outcome:
    """The terminal of a command is closed."""
    process = subprocess.Popen(
        [*COMMAND, "watch", "--endpoint", f"ipc://{budget.folder}/nobody"],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + WAIT_S * 3
    while not _catches(process.pid, signal.SIGHUP) and time.monotonic() < deadline:
        time.sleep(0.01)
    started = time.monotonic()
    os.kill(process.pid, signal.SIGHUP)
    code = process.wait(WAIT_S)
    took_s = time.monotonic() - started
    process.communicate()
    wrong = () if code == 0 else (f"it ended with exit code {code}",)
    return Outcome("a command whose terminal is closed", wrong, {"stop_s": took_s})


def _catches(pid: int, number: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught & 1 << (number - 1))


def _edited(budget: Budget) -> Outcome:
    """A replay's messages, each with a value of the wrong type, played as a recording."""
    finalise = _outgoing(()).finalise
    good = to_map(finalise(Header(0, time.time_ns(), time.monotonic_ns())))
    values: tuple[object, ...] = ("x", None, [], {}, -1, 1.5, True, 10**400, [[None]])
    wrong = []
    tried = 0
    for name in good:
        for value in values:
            file = budget.folder / "edited.jsonl"
            file.write_text(json.dumps(good | {name: value}))
            tried += 1
            try:
                with RecordedLabels(file) as played:
                    played.latest(1.0, timeout_s=1.0)
            except PerceptionError:
                continue
            except Exception as error:
                wrong.append(f"{name} = {str(value)[:20]}: {type(error).__name__}: {error}")
    return Outcome(f"{tried} messages with a value of the wrong type", tuple(wrong[:5]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


ATTACKS = (
    Attack("a subscriber that rests", _rest),
    Attack("callbacks that end", _callbacks),
    Attack("closed and full streams", _streams),
    Attack("a terminal that is closed", _hangup),
    Attack("messages edited by hand", _edited),
)
