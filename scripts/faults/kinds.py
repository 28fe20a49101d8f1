"""Shared by all kinds of fault: their list, the outcome of one, and the checks of a camera that
fails for a while, or must stay unaffected."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from faults.rig import SLACK_S, STALL_S, Rig

SETTLED_S = 0.3
"""Quiet before a fault, so that none is blamed for the one before it."""
IMPAIRED_S = 3.0
"""How long a camera sends good and bad pictures."""
STEADY_GAP_S = 1.5
"""Longest silence of the camera that nothing happens to, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one fault. detected_s: until its status was published; back_s: until the first
    frame after it was labelled; wrong: failed checks, in words; checked: `ok` messages of its time
    that were compared with the sent pictures."""

    fault: str
    detected_s: float | None
    back_s: float | None
    wrong: tuple[str, ...]
    checked: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of repetitions. The short run of the test suite has fewer."""

    joins: int
    messages: int


Fault = Callable[[Rig, Counts], Outcome]
"""Injects one kind of fault, and checks what the node did."""


def outage(
    name: str,
    setup: Rig,
    begin: Callable[[], object],
    end: Callable[[], object],
    lasts_s: float,
    camera: str = "stream",
) -> Outcome:
    """Checks an outage of a camera: published in time, no `ok` meanwhile, recovery after it; the
    steady camera stays unaffected."""
    wrong: list[str] = []
    setup.monitor.first_ok(camera, time.monotonic() + SETTLED_S)
    began = time.monotonic()
    begin()
    sighting = setup.monitor.first(camera, began, lambda sighting: sighting.message.status != "ok")
    time.sleep(max(0.0, began + lasts_s - time.monotonic()))
    ended = time.monotonic()
    end()
    back = setup.monitor.first_ok(camera, ended)
    detected_s = sighting.at_s - began
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
    """Checks an impairment, in which some pictures may stay good: the campaign's end compares all
    `ok` messages with the truth. The steady camera stays unaffected."""
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
    """Checks a disturbance that must not affect any camera."""
    for camera in cameras:
        setup.monitor.first_ok(camera, time.monotonic() + SETTLED_S)
    began = time.monotonic()
    work()
    wrong = [problem for camera in cameras for problem in unsteady(setup, began, camera)]
    done = time.monotonic()
    back = setup.monitor.first_ok(cameras[0], done)
    return Outcome(name, None, back.at_s - done, tuple(wrong))


def unsteady(setup: Rig, since_s: float, camera: str = "steady") -> list[str]:
    """Failed checks of a camera without a fault, in words."""
    seen = setup.monitor.since(since_s, camera)
    problems = [
        f"{camera}: {sighting.message.status}"
        for sighting in seen
        if sighting.message.status != "ok"
    ][:1]
    times = [since_s, *(sighting.at_s for sighting in seen), time.monotonic()]
    longest = max(later - earlier for earlier, later in itertools.pairwise(times))
    if longest > STEADY_GAP_S:
        problems.append(f"{camera}: silent for {longest:.1f} s")
    if setup.node.process.poll() is not None:
        problems.append(f"the node ended with {setup.node.process.returncode}")
    return problems
