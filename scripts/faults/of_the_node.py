"""Faults of the node itself and of its computer: signals, clocks, disks, ports, and a model that
fails or hangs."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults.kinds import Counts, Fault, Outcome
from faults.rig import ROOT, Monitor, Rig, free_port, run_node, wait_until
from perception_client.subscriber import Control, NotUsableError, Subscriber


def _stop_node(setup: Rig, counts: Counts) -> Outcome:
    """Stops the node, as a suspended computer does. Messages after it carry their true age."""
    wrong: list[str] = []
    with Subscriber(setup.node.labels, "steady") as subscriber:
        subscriber.require(1.0, timeout_s=30)
        setup.node.process.send_signal(signal.SIGSTOP)
        time.sleep(0.7)  # what came before is older than 0.5 s then
        with contextlib.suppress(NotUsableError):
            subscriber.require(0.5)
            wrong.append("labels of a node that stands still are not too old")
        wait_until(lambda: not subscriber.alive, "a node that stands still is not alive", 2.5)
        continued = time.monotonic()
        setup.node.process.send_signal(signal.SIGCONT)
        back = setup.monitor.first_ok("steady", continued)
    setup.monitor.first_ok("stream", continued)  # what waited for it meanwhile is old
    return Outcome("SIGSTOP of the node", None, back.at_s - continued, tuple(wrong))


def _kill_node(setup: Rig, counts: Counts) -> Outcome:
    """Kills the node, and restarts it as a supervisor does: the same subscribers find it, and
    notice the restart."""
    session = setup.monitor.first_ok("steady", 0).message.session
    began = time.monotonic()
    setup.node.process.kill()
    setup.node.process.wait(10)
    setup.node.start()
    back = setup.monitor.first_ok("stream", began)
    setup.monitor.first_ok("steady", began)
    wrong = () if back.message.session != session else ("the session is the same",)
    return Outcome("SIGKILL of the node", None, back.at_s - began, wrong)


def _taken(setup: Rig, counts: Counts) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        code = run_node("run", "--endpoint", setup.node.labels, log=log).wait(60)
        refused = "is in use" in log.read_text()
    wrong = () if (code, refused) == (2, True) else (f"exit code {code}",)
    return Outcome("endpoint taken", None, None, wrong)


def _disk_full(setup: Rig, counts: Counts) -> Outcome:
    if not Path("/dev/full").exists():
        return Outcome("disk full while writing (no /dev/full here)", None, None, ())
    picture = Path(setup.folder) / "picture.jpg"
    with Control(setup.node.control, timeout_s=30) as control:
        picture.write_bytes(control.snapshot("steady").jpeg)
    log = Path(setup.folder) / "full.log"
    code = run_node("label", str(picture), "--jsonl", "/dev/full", log=log).wait(60)
    last_line = log.read_text().strip().splitlines()[-1]
    good = code in (1, 2) and "/dev/full" in last_line and "Traceback" not in log.read_text()
    return Outcome("disk full while writing", None, None, () if good else (f"{code}: {last_line}",))


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
    """Runs a separate node with a built-in fault, on the demo."""
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

    def last() -> str | None:
        return next(
            (sighting.message.status for sighting in reversed(monitor.since(0, "camera"))), None
        )

    with contextlib.suppress(TimeoutError):
        wait_until(lambda: last() == "stalled", "the last word", 2.0)
    monitor.close()
    wrong = [] if code == 4 else [f"exit code {code}"]
    wrong += [] if last() == "stalled" else [f"the last word is {last()}"]
    return Outcome(kind, None, None, tuple(wrong))


def _fails(setup: Rig, counts: Counts) -> Outcome:
    return _ends("inference fails for ever")


def _hangs(setup: Rig, counts: Counts) -> Outcome:
    return _ends("inference hangs")


def _clock(setup: Rig, counts: Counts) -> Outcome:
    """Sets the node's wall clock an hour back and forth every second."""
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


def _sigterm(setup: Rig, counts: Counts) -> Outcome:
    wrong: list[str] = []
    for phase, after_s in (("importing", 0.8), ("loading", 1.8), ("loading", 2.8)):
        process = run_node("run", "--endpoint", f"tcp://127.0.0.1:{free_port()}")
        time.sleep(after_s)  # nothing tells from outside where it is
        wrong += _ended_by(signal.SIGTERM, process, phase)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    running = run_node("run", "--endpoint", endpoint)
    with Subscriber(endpoint) as subscriber:
        subscriber.require(1.0, timeout_s=60)
    wrong += _ended_by(signal.SIGTERM, running, "running")
    setup.stream.mode("half")
    outage_node = run_node(
        "run", "--source", setup.stream.url, "--endpoint", endpoint,
        "--set", "camera.0.at_start=wait",
    )  # fmt: skip
    with Subscriber(endpoint) as subscriber:
        while subscriber.receive(60)[0].status == "ok":
            pass
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


KINDS: dict[str, Fault] = {
    "SIGSTOP of the node": _stop_node,
    "SIGKILL of the node": _kill_node,
    "endpoint taken": _taken,
    "disk full while writing": _disk_full,
    "inference exception": _exception,
    "inference fails for ever": _fails,
    "inference hangs": _hangs,
    "clock steps": _clock,
    "SIGTERM in each phase": _sigterm,
}
"""Each kind by its name, in the order of the campaign."""
