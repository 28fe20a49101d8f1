"""What every kind of fault shares: the campaign's list of them, what comes of one, and how a camera
is held that fails for a while, or that must not notice."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fault_rig import SLACK_S, STALL_S, Rig

SETTLED_S = 0.3
"""Quiet before a fault, so that none is blamed for the one before it."""
IMPAIRED_S = 3.0
"""How long a camera sends good and bad pictures."""
STEADY_GAP_S = 1.5
"""Longest silence of the camera that nothing happens to, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one fault. detected_s: until its status was said; back_s: until the first frame
    after it was labelled; wrong: what did not hold, in words; checked: messages `ok` of its time
    that were held against what was sent."""

    fault: str
    detected_s: float | None
    back_s: float | None
    wrong: tuple[str, ...]
    checked: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of what is done often. The short run of the test suite does less."""

    joins: int
    messages: int


Fault = Callable[[Rig, Counts], Outcome]
FAULTS: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Fault], Fault]:
    """Adds a kind to the campaign."""

    def add(work: Fault) -> Fault:
        FAULTS[name] = work
        return work

    return add


def outage(
    name: str,
    setup: Rig,
    begin: Callable[[], object],
    end: Callable[[], object],
    lasts_s: float,
    camera: str = "stream",
) -> Outcome:
    """A fault of a camera that lasts for a while: said in time, no `ok` meanwhile, back after it;
    the steady camera never notices."""
    wrong: list[str] = []
    setup.monitor.first_ok(camera, time.monotonic() + SETTLED_S)
    began = time.monotonic()
    begin()
    found = setup.monitor.first(camera, began, lambda x: x.message.status != "ok")
    time.sleep(max(0.0, began + lasts_s - time.monotonic()))
    ended = time.monotonic()
    end()
    back = setup.monitor.first_ok(camera, ended)
    detected_s = found.at_s - began
    if detected_s > STALL_S + SLACK_S:
        wrong.append(f"said after {detected_s:.2f} s")
    for seen in setup.monitor.since(began, camera):
        stamp_s = (seen.message.stamp_mono_ns or 0) / 1e9
        if seen.message.status == "ok" and began + STALL_S + SLACK_S < stamp_s < ended:
            wrong.append(f"ok {stamp_s - began:.2f} s into the outage")
    wrong += unsteady(setup, began)
    return Outcome(name, detected_s, back.at_s - ended, tuple(wrong))


def impairment(
    name: str, setup: Rig, begin: Callable[[], object], end: Callable[[], object], camera: str
) -> Outcome:
    """A camera of which some pictures stay good, or may: whatever is `ok` meanwhile is held against
    the truth at the campaign's end. The steady camera never notices."""
    setup.monitor.first_ok(camera, time.monotonic() + SETTLED_S)
    began = time.monotonic()
    begin()
    time.sleep(IMPAIRED_S)
    ended = time.monotonic()
    end()
    back = setup.monitor.first_ok(camera, ended)
    return Outcome(name, None, back.at_s - ended, tuple(unsteady(setup, began)))


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
