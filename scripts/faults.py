"""The fault campaign: brings about what goes wrong on a robot, with real processes and sockets, and
holds that the node lives or ends with its stated code, is back by itself, and sends no message `ok`
that should not be. Prints a table; exit 1 where anything did not hold.

    scripts/faults.py                     every kind once
    scripts/faults.py --stalls 100        that a stalled stream is found in time, each time
    scripts/faults.py --only "frozen" --only "clock"
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgpack
import psutil
import zmq
from fault_rig import (
    ROOT,
    SLACK_S,
    STALL_S,
    Monitor,
    Rig,
    free_port,
    rig,
    run_node,
)
from rich.console import Console
from rich.table import Table

from node.client import Control, Keys, NoAnswerError, NotUsableError, Subscriber

SETTLED_S = 0.3
"""Quiet before a fault, so that none is blamed for the one before it."""
STEADY_GAP_S = 1.5
"""Longest silence of the camera that nothing happens to, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one fault. detected_s: until its status was said; back_s: until the first frame
    after it was labelled; wrong: what did not hold, in words."""

    fault: str
    detected_s: float | None
    back_s: float | None
    wrong: tuple[str, ...]


class Counts:
    """How much of what is done often. The short run of the test suite does less."""

    def __init__(self, joins: int, messages: int) -> None:
        self.joins = joins
        self.messages = messages


Fault = Callable[[Rig, Counts], Outcome]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    """Adds a kind to the campaign."""

    def add(work: Fault) -> Fault:
        FAULTS[name] = work
        return work

    return add


def outage(
    name: str, setup: Rig, begin: Callable[[], object], end: Callable[[], object], lasts_s: float
) -> Outcome:
    """A fault of the stream that lasts for a while: said in time, no `ok` meanwhile, back after it;
    the other camera never notices."""
    wrong: list[str] = []
    setup.monitor.first_ok("stream", time.monotonic() + SETTLED_S)
    began = time.monotonic()
    begin()
    found = setup.monitor.first("stream", began, lambda x: x.message.status != "ok")
    time.sleep(max(0.0, began + lasts_s - time.monotonic()))
    ended = time.monotonic()
    end()
    back = setup.monitor.first_ok("stream", ended)
    detected_s = found.at_s - began
    if detected_s > STALL_S + SLACK_S:
        wrong.append(f"said after {detected_s:.2f} s")
    for seen in setup.monitor.since(began, "stream"):
        stamp_s = (seen.message.stamp_mono_ns or 0) / 1e9
        if seen.message.status == "ok" and began + STALL_S + SLACK_S < stamp_s < ended:
            wrong.append(f"ok {stamp_s - began:.2f} s into the outage")
    wrong += unsteady(setup, began)
    return Outcome(name, detected_s, back.at_s - ended, tuple(wrong))


def disturbance(
    name: str, setup: Rig, work: Callable[[], object], cameras: Sequence[str] = ("stream", "steady")
) -> Outcome:
    """Something that the cameras must not notice at all."""
    for camera in cameras:
        setup.monitor.first_ok(camera, time.monotonic() + SETTLED_S)
    began = time.monotonic()
    work()
    wrong = [problem for camera in cameras for problem in unsteady(setup, began, camera)]
    done = time.monotonic()
    back = setup.monitor.first_ok(cameras[0], done)
    return Outcome(name, None, back.at_s - done, tuple(wrong))


def unsteady(setup: Rig, since_s: float, camera: str = "steady") -> list[str]:
    """What can be said against a camera that nothing happened to."""
    seen = setup.monitor.since(since_s, camera)
    problems = [f"{camera}: {x.message.status}" for x in seen if x.message.status != "ok"][:1]
    times = [since_s, *(x.at_s for x in seen), time.monotonic()]
    longest = max(b - a for a, b in itertools.pairwise(times))
    if longest > STEADY_GAP_S:
        problems.append(f"{camera}: silent for {longest:.1f} s")
    if setup.node.process.poll() is not None:
        problems.append(f"the node ended with {setup.node.process.returncode}")
    return problems


def _mode(name: str, mode: str, lasts_s: float = 2.0) -> None:
    @fault(name)
    def work(setup: Rig, counts: Counts) -> Outcome:
        stream = setup.stream
        return outage(name, setup, lambda: stream.mode(mode), lambda: stream.mode("good"), lasts_s)


for _name, _the_mode in {
    "stream goes silent": "silent",
    "half a frame, then nothing": "half",
    "frozen picture": "frozen",
    "garbage bytes": "garbage",
    "empty frames": "empty",
    "pictures cut in half": "cut",
    "a byte at a time": "drip",
    "connection reset": "reset",
    "server answers 500": "refuse",
}.items():
    _mode(_name, _the_mode)


@fault("frozen picture, long enough to reopen")
def _long_freeze(setup: Rig, counts: Counts) -> Outcome:
    stream = setup.stream
    name = "frozen picture, long enough to reopen"
    return outage(name, setup, lambda: stream.mode("frozen"), lambda: stream.mode("good"), 7.0)


@fault("SIGSTOP of the stream server")
def _stop_server(setup: Rig, counts: Counts) -> Outcome:
    stream = setup.stream
    return outage(
        "SIGSTOP of the stream server", setup, lambda: stream.signal(signal.SIGSTOP),
        lambda: stream.signal(signal.SIGCONT), 2.0,
    )  # fmt: skip


@fault("SIGKILL of the stream server")
def _kill_server(setup: Rig, counts: Counts) -> Outcome:
    return outage("SIGKILL of the stream server", setup, setup.stream.kill, setup.stream.start, 2.0)


def _tolerated(name: str, mode: str) -> None:
    @fault(name)
    def work(setup: Rig, counts: Counts) -> Outcome:
        """Good frames still come among the bad: only the node and the other camera are held."""

        def live_with_it() -> None:
            setup.stream.mode(mode)
            time.sleep(2.0)
            setup.stream.mode("good")

        return disturbance(name, setup, live_with_it, ("steady",))


for _name, _the_mode in {
    "garbage between good frames": "mixed",
    "frames of a wrong length": "lying",
    "one picture in three is cut": "damaged",
    "pictures partly overwritten": "overwritten",
    "size change in flight": "small",
}.items():
    _tolerated(_name, _the_mode)


@fault("a subscriber is stopped")
def _stopped_subscriber(setup: Rig, counts: Counts) -> Outcome:
    def work() -> None:
        watching = run_node("watch", "--endpoint", setup.node.labels, "--json")
        time.sleep(1.0)
        watching.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        watching.kill()
        watching.wait(10)

    return disturbance("a subscriber is stopped", setup, work)


@fault("subscribers come and vanish")
def _joins(setup: Rig, counts: Counts) -> Outcome:
    process = psutil.Process(setup.node.process.pid)
    before = process.memory_info().rss

    def work() -> None:
        context = zmq.Context()
        for _ in range(counts.joins):
            with context.socket(zmq.SUB) as joining:
                joining.linger = 0
                joining.subscribe(b"")
                joining.connect(setup.node.labels)
                joining.poll(3)  # long enough to be let in
        context.term()

    came = disturbance(f"{counts.joins} subscribers come and vanish", setup, work)
    grown_mib = (process.memory_info().rss - before) / 2**20
    wrong = (*came.wrong, f"memory grew by {grown_mib:.0f} MiB") if grown_mib > 50 else came.wrong
    return Outcome(came.fault, None, came.back_s, wrong)


@fault("random bytes to the labels' socket")
def _random_labels(setup: Rig, counts: Counts) -> Outcome:
    return disturbance(
        f"random bytes to the labels' socket, {counts.messages} times",
        setup,
        lambda: _bombard(setup.node.labels, zmq.XSUB, counts.messages),
    )


@fault("random bytes to the control socket")
def _random_control(setup: Rig, counts: Counts) -> Outcome:
    def work() -> None:
        _bombard(setup.node.control, zmq.DEALER, counts.messages)
        with Control(setup.node.control, timeout_s=30) as control:
            control.status()

    return disturbance(f"random bytes to the control socket, {counts.messages} times", setup, work)


def _bombard(endpoint: str, kind: int, messages: int) -> None:
    """Random bytes inside ZeroMQ's framing, then outside of it; one message in ten is a request
    with something wrong in it."""
    context = zmq.Context()
    generator = random.Random(0)
    with context.socket(kind) as sender:
        sender.linger = 0
        sender.sndtimeo = 5000
        sender.rcvhwm = 10
        sender.connect(endpoint)
        for place in range(messages):
            body = generator.randbytes(generator.choice((0, 1, 10, 300)))
            if place % 10 == 0:
                word = generator.choice(("set", "pause", "model", "snapshot", "fly"))
                body = msgpack.packb({"id": place, "command": word, "arguments": {"x": body}})
            parts = 1 if kind == zmq.XSUB else generator.choice((1, 1, 1, 3))
            with contextlib.suppress(zmq.Again):
                sender.send_multipart([body] * parts)
            if place % 100 == 0:
                while sender.poll(0, zmq.POLLIN):
                    sender.recv_multipart()  # labels too, to an XSUB that subscribed by chance
    context.term()
    host, port = endpoint.removeprefix("tcp://").split(":")
    for _ in range(max(1, messages // 100)):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5) as raw:
            raw.sendall(generator.randbytes(1000))


@fault("connections that say nothing")
def _half_open(setup: Rig, counts: Counts) -> Outcome:
    def work() -> None:
        host, port = setup.node.labels.removeprefix("tcp://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((host, int(port)), 5))
            time.sleep(1.0)

    return disturbance("100 connections that say nothing", setup, work)


@fault("pause and resume, often")
def _pauses(setup: Rig, counts: Counts) -> Outcome:
    began = time.monotonic()
    wrong: list[str] = []
    with Control(setup.node.control, timeout_s=30) as control:
        for _ in range(20):
            paused = control.pause("stream").first_seq["stream"]
            resumed = control.resume("stream").first_seq["stream"]
            seen = [x.message for x in setup.monitor.since(began, "stream")]
            wrong += [
                f"ok while paused (seq {x.seq})"
                for x in seen
                if x.status == "ok" and paused <= x.seq < resumed
            ]
    done = time.monotonic()
    back = setup.monitor.first_ok("stream", done)
    return Outcome("pause and resume, 20 times", None, back.at_s - done, tuple(wrong))


@fault("SIGSTOP of the node")
def _stop_node(setup: Rig, counts: Counts) -> Outcome:
    """As a computer that is suspended. What comes after it tells its true age."""
    wrong: list[str] = []
    with Subscriber(setup.node.labels, "steady") as subscriber:
        subscriber.require(1.0, timeout_s=30)
        setup.node.process.send_signal(signal.SIGSTOP)
        time.sleep(0.7)
        with contextlib.suppress(NotUsableError):
            subscriber.require(0.5)
            wrong.append("labels of a node that stands still are not too old")
        time.sleep(2.0)
        alive = subscriber.alive
        if alive:
            wrong.append("a node that stands still is called alive")
        continued = time.monotonic()
        setup.node.process.send_signal(signal.SIGCONT)
        back = setup.monitor.first_ok("steady", continued)
    return Outcome("SIGSTOP of the node", None, back.at_s - continued, tuple(wrong))


@fault("SIGKILL of the node")
def _kill_node(setup: Rig, counts: Counts) -> Outcome:
    """A supervisor starts it again: the same subscribers find it, and can tell."""
    session = setup.monitor.first_ok("steady", 0).message.session
    began = time.monotonic()
    setup.node.process.kill()
    setup.node.process.wait(10)
    setup.node.start()
    back = setup.monitor.first_ok("stream", began)
    setup.monitor.first_ok("steady", began)
    wrong = () if back.message.session != session else ("the session is the same",)
    return Outcome("SIGKILL of the node", None, back.at_s - began, wrong)


@fault("endpoint taken")
def _taken(setup: Rig, counts: Counts) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = run_node("run", "--endpoint", setup.node.labels, log=log).wait(60)
        said = "is in use" in log.read_text()
    wrong = () if (code, said) == (2, True) else (f"exit code {code}",)
    return Outcome("endpoint taken", None, None, wrong)


@fault("disk full while writing")
def _disk_full(setup: Rig, counts: Counts) -> Outcome:
    if not Path("/dev/full").exists():
        return Outcome("disk full while writing (no /dev/full here)", None, None, ())
    picture = Path(setup.folder) / "picture.jpg"
    with Control(setup.node.control, timeout_s=30) as control:
        picture.write_bytes(control.snapshot("steady").jpeg)
    log = Path(setup.folder) / "full.log"
    code = run_node("label", str(picture), "--jsonl", "/dev/full", log=log).wait(60)
    told = log.read_text().strip().splitlines()[-1]
    good = code in (1, 2) and "/dev/full" in told and "Traceback" not in log.read_text()
    return Outcome("disk full while writing", None, None, () if good else (f"{code}: {told}",))


_PATCHED = {
    "inference exception": (
        "real = p.Perceiver.perceive_all\n"
        "def spoiled(self, *arguments):\n"
        "    n[0] += 1\n"
        "    if n[0] % 5 == 0: raise RuntimeError('driver')\n"
        "    return real(self, *arguments)\n"
        "p.Perceiver.perceive_all = spoiled\n"
    ),
    "inference fails for ever": (
        "real = p.Perceiver.perceive_all\n"
        "def spoiled(self, *arguments):\n"
        "    n[0] += 1\n"
        "    if n[0] > 30: raise RuntimeError('driver')\n"
        "    return real(self, *arguments)\n"
        "p.Perceiver.perceive_all = spoiled\n"
    ),
    "inference hangs": (
        "real = p.Perceiver.perceive_all\n"
        "def spoiled(self, *arguments):\n"
        "    n[0] += 1\n"
        "    if n[0] > 30: threading.Event().wait()\n"
        "    return real(self, *arguments)\n"
        "p.Perceiver.perceive_all = spoiled\n"
    ),
    "clock steps": (
        "real = time.time_ns\n"
        "began = time.monotonic()\n"
        "time.time_ns = lambda: real() + (3600 * 10**9) * (int(time.monotonic() - began) % 3 - 1)\n"
    ),
}


def _patched(kind: str) -> tuple["subprocess.Popen[bytes]", str]:
    """A node of its own with a fault built in, on the demo."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    program = (
        "import sys, threading, time\n"
        "from node.perception import perceiver as p\n"
        f"n = [0]\n{_PATCHED[kind]}"
        "from node.__main__ import main\nmain()\n"
    )
    arguments = ["run", "--endpoint", endpoint, "--set", "model.inference_timeout_s=1.0"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    return process, endpoint


@fault("inference exception")
def _exception(setup: Rig, counts: Counts) -> Outcome:
    process, endpoint = _patched("inference exception")
    with Subscriber(endpoint) as subscriber:
        subscriber.require(5.0, timeout_s=60)
        statuses = [subscriber.receive(10)[0].status for _ in range(60)]
    process.terminate()
    code = process.wait(10)
    share = statuses.count("stalled") / len(statuses)  # type: ignore[arg-type]
    good = code == 0 and set(statuses) == {"ok", "stalled"} and 0.1 < share < 0.3
    wrong = () if good else (f"exit code {code}, stalled {share:.0%}",)
    return Outcome("inference exception on one frame in five", None, None, wrong)


def _ends(kind: str) -> Outcome:
    process, endpoint = _patched(kind)
    monitor = Monitor(endpoint)
    code = process.wait(60)
    time.sleep(0.3)
    last = [x.message.status for x in monitor.since(0, "camera")][-1:]
    monitor.close()
    wrong = [] if code == 4 else [f"exit code {code}"]
    wrong += [] if last == ["stalled"] else [f"the last word is {last}"]
    return Outcome(kind, None, None, tuple(wrong))


@fault("inference fails for ever")
def _fails(setup: Rig, counts: Counts) -> Outcome:
    return _ends("inference fails for ever")


@fault("inference hangs")
def _hangs(setup: Rig, counts: Counts) -> Outcome:
    return _ends("inference hangs")


@fault("clock steps")
def _clock(setup: Rig, counts: Counts) -> Outcome:
    """The node's wall clock goes an hour back and forth every second."""
    process, endpoint = _patched("clock steps")
    wrong: list[str] = []
    with Subscriber(endpoint) as subscriber:
        subscriber.require(1.0, timeout_s=60)
        until = time.monotonic() + 4
        while time.monotonic() < until:
            message, gap = subscriber.receive(5)
            if gap.lost or gap.restarted:
                wrong.append(str(gap))
            if not 0 <= message.age_s < 2:
                wrong.append(f"age {message.age_s:.1f} s")
    process.terminate()
    code = process.wait(10)
    wrong += [] if code == 0 else [f"exit code {code}"]
    return Outcome("clock steps of an hour", None, None, tuple(wrong[:3]))


@fault("wrong keys")
def _keys(setup: Rig, counts: Counts) -> Outcome:
    wrong: list[str] = []
    folder = setup.folder / "keys"
    run_node("keys", str(folder), "--client", "mine").wait(60)
    labels, control = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    process = run_node(
        "run", "--endpoint", labels, "--set", f"control.endpoint={control}",
        "--set", f"wire.keys={folder}",
    )  # fmt: skip
    mine = Keys.read(folder / "clients" / "mine")
    stranger = Keys(mine.server, *zmq.curve_keypair())
    with Subscriber(labels, keys=mine) as subscriber:
        subscriber.require(5.0, timeout_s=60)
    for keys in (None, stranger):
        with Subscriber(labels, keys=keys) as subscriber, contextlib.suppress(NotUsableError):
            subscriber.require(60.0, timeout_s=1)
            wrong.append("labels without the right key")
        with (
            Control(control, keys=keys, timeout_s=1) as client,
            contextlib.suppress(NoAnswerError),
        ):
            client.status()
            wrong.append("control without the right key")
    process.terminate()
    wrong += [] if process.wait(10) == 0 else ["exit code"]
    return Outcome("wrong keys", None, None, tuple(wrong))


@fault("SIGTERM in each phase")
def _sigterm(setup: Rig, counts: Counts) -> Outcome:
    wrong: list[str] = []
    for phase, after_s in (("importing", 0.8), ("loading", 1.8), ("loading", 2.8), ("running", 6)):
        process = run_node("run", "--endpoint", f"tcp://127.0.0.1:{free_port()}")
        time.sleep(after_s)
        wrong += _ended_by(signal.SIGTERM, process, phase)
    setup.stream.mode("half")
    outage_node = run_node(
        "run", "--source", setup.stream.url, "--endpoint", f"tcp://127.0.0.1:{free_port()}",
        "--set", "camera.0.at_start=wait",
    )  # fmt: skip
    time.sleep(6)
    wrong += _ended_by(signal.SIGINT, outage_node, "an outage")
    ended = time.monotonic()
    setup.stream.mode("good")
    back = setup.monitor.first_ok("stream", ended)
    return Outcome("SIGTERM in each phase", None, back.at_s - ended, tuple(wrong))


def _ended_by(number: int, process: "subprocess.Popen[bytes]", phase: str) -> list[str]:
    began = time.monotonic()
    process.send_signal(number)
    try:
        code = process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        return [f"{phase}: did not end"]
    took_s = time.monotonic() - began
    if took_s > 2.0:
        return [f"{phase}: took {took_s:.1f} s"]
    return [] if code == 0 else [f"{phase}: exit code {code}"]


def campaign(names: Sequence[str], counts: Counts) -> list[Outcome]:
    """Every fault once, on one node that has to outlive them."""
    console = Console(stderr=True)
    outcomes = []
    with rig() as setup:
        for name in names:
            setup.monitor.forget()
            try:
                outcome = FAULTS[name](setup, counts)
            except (TimeoutError, NotUsableError) as error:
                outcome = Outcome(name, None, None, (str(error),))
            outcomes.append(outcome)
            console.print(f"{outcome.fault}: {'; '.join(outcome.wrong) or 'held'}", highlight=False)
    return outcomes


def stalls(count: int) -> list[float]:
    """Seconds from the moment that a stream goes silent until `stalled` is received, each time."""
    found = []
    with rig() as setup:
        for _ in range(count):
            setup.monitor.forget()
            began = time.monotonic()
            setup.stream.mode("silent")
            seen = setup.monitor.first("stream", began, lambda x: x.message.status == "stalled")
            # Counted from the last frame that came, which is what the timeout counts from.
            last = [
                x.message.stamp_mono_ns or 0
                for x in setup.monitor.since(0, "stream")
                if x.message.status == "ok"
            ]
            found.append(seen.at_s - max(began, max(last, default=0) / 1e9))
            ended = time.monotonic()
            setup.stream.mode("good")
            setup.monitor.first_ok("stream", ended)
            time.sleep(random.uniform(0.0, 0.2))
    return found


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="kinds that contain this")
    parser.add_argument("--joins", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=100_000, help="random ones a socket")
    parser.add_argument("--stalls", type=int, default=0, help="only stalls, so many")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    if arguments.stalls:
        found = stalls(arguments.stalls)
        in_time = sum(x <= STALL_S + SLACK_S for x in found)
        print(
            json.dumps({"stalls": len(found), "in_time": in_time, "longest_s": max(found)})
            if arguments.json
            else f"{in_time} of {len(found)} in time; longest {max(found):.3f} s"
        )
        sys.exit(in_time != len(found))
    wanted = arguments.only or [""]
    names = [name for name in FAULTS if any(part in name for part in wanted)]
    outcomes = campaign(names, Counts(arguments.joins, arguments.messages))
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        _print(outcomes)
    sys.exit(any(outcome.wrong for outcome in outcomes))


def _print(outcomes: Sequence[Outcome]) -> None:
    table = Table("fault", "said after", "back after", "verdict", box=None, pad_edge=False)
    for outcome in outcomes:
        times = [
            f"{x:.2f} s" if x is not None else "" for x in (outcome.detected_s, outcome.back_s)
        ]
        table.add_row(outcome.fault, *times, "; ".join(outcome.wrong) or "held")
    Console(width=120, highlight=False).print(table)


if __name__ == "__main__":
    main()
