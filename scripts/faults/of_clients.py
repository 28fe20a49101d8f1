"""Faults of clients: subscribers that stop, connect and disconnect, random bytes, wrong keys."""

import contextlib
import random
import signal
import socket
import subprocess
import sys
import time

import msgpack
import psutil
import zmq

from faults.kinds import Counts, Fault, Outcome, disturbance
from faults.rig import ROOT, Rig, free_port, run_node
from perception_client.subscriber import Control, Keys, NoAnswerError, NotUsableError, Subscriber

_STOPPED_S = 2.0
_IDLE_S = 1.0


def _stopped_subscriber(setup: Rig, counts: Counts) -> Outcome:
    def work() -> None:
        command = [sys.executable, "-m", "node", "watch", "--endpoint", setup.node.labels, "--json"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as watching:
            assert watching.stdout is not None
            watching.stdout.readline()  # it is there, and reads
            watching.send_signal(signal.SIGSTOP)
            time.sleep(_STOPPED_S)
            watching.kill()

    return disturbance("a subscriber is stopped", setup, work)


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


def _random_labels(setup: Rig, counts: Counts) -> Outcome:
    return disturbance(
        f"random bytes to the labels' socket, {counts.messages} times",
        setup,
        lambda: _bombard(setup.node.labels, zmq.XSUB, counts.messages),
    )


def _random_control(setup: Rig, counts: Counts) -> Outcome:
    def work() -> None:
        _bombard(setup.node.control, zmq.DEALER, counts.messages)
        with Control(setup.node.control, timeout_s=30) as control:
            control.status()

    return disturbance(f"random bytes to the control socket, {counts.messages} times", setup, work)


def _bombard(endpoint: str, kind: int, messages: int) -> None:
    """Sends random bytes inside ZeroMQ's framing, then without it; one message in ten is an invalid
    request."""
    context = zmq.Context()
    generator = random.Random(0)
    with context.socket(kind) as sender:
        sender.linger = 0
        sender.sndtimeo = 5000
        sender.rcvhwm = 10
        sender.connect(endpoint)
        for number in range(messages):
            body = generator.randbytes(generator.choice((0, 1, 10, 300)))
            if number % 10 == 0:
                word = generator.choice(("set", "pause", "model", "snapshot", "fly"))
                body = msgpack.packb({"id": number, "command": word, "arguments": {"x": body}})
            parts = 1 if kind == zmq.XSUB else generator.choice((1, 1, 1, 3))
            with contextlib.suppress(zmq.Again):
                sender.send_multipart([body] * parts)
            if number % 100 == 0:
                while sender.poll(0, zmq.POLLIN):
                    sender.recv_multipart()  # labels too, to an XSUB that subscribed by chance
    context.term()
    host, port = endpoint.removeprefix("tcp://").split(":")
    for _ in range(max(1, messages // 100)):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5) as raw:
            raw.sendall(generator.randbytes(1000))


def _half_open(setup: Rig, counts: Counts) -> Outcome:
    def work() -> None:
        host, port = setup.node.labels.removeprefix("tcp://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(socket.create_connection((host, int(port)), 5))
            time.sleep(_IDLE_S)

    return disturbance("100 connections that say nothing", setup, work)


def _pauses(setup: Rig, counts: Counts) -> Outcome:
    began = time.monotonic()
    wrong: list[str] = []
    with Control(setup.node.control, timeout_s=30) as control:
        for _ in range(20):
            paused = control.pause("stream").first_seq["stream"]
            resumed = control.resume("stream").first_seq["stream"]
            seen = [sighting.message for sighting in setup.monitor.since(began, "stream")]
            wrong += [
                f"ok while paused (seq {message.seq})"
                for message in seen
                if message.status == "ok" and paused <= message.seq < resumed
            ]
    done = time.monotonic()
    back = setup.monitor.first_ok("stream", done)
    return Outcome("pause and resume, 20 times", None, back.at_s - done, tuple(wrong))


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


KINDS: dict[str, Fault] = {
    "a subscriber is stopped": _stopped_subscriber,
    "subscribers come and vanish": _joins,
    "random bytes to the labels' socket": _random_labels,
    "random bytes to the control socket": _random_control,
    "connections that say nothing": _half_open,
    "pause and resume, often": _pauses,
    "wrong keys": _keys,
}
"""Each kind by its name, in the order of the campaign."""
