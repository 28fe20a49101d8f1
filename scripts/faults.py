"""The fault campaign: injects typical failures of a robot, with real processes and sockets; checks
that the node lives or ends with its documented code, recovers by itself, and sends no false `ok`
message: each `ok` message of the failing cameras is compared with the sent pictures.
Prints a table; exit 1 if any check failed.

    scripts/faults.py                     every kind once
    scripts/faults.py --stalls 100        the detection of a stalled stream in time, 100 times
    scripts/faults.py --only "frozen" --only "clock"
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.table import Table

from faults import of_cameras, of_clients, of_the_node
from faults.kinds import Counts, Fault, Outcome
from faults.rig import ROOT, SLACK_S, STALL_S, Rig, rig
from faults.truth import Truth
from perception_client.subscriber import NotUsableError

FAULTS: dict[str, Fault] = {**of_cameras.KINDS, **of_clients.KINDS, **of_the_node.KINDS}
_FAILING = ("stream", "coded")


@dataclass(frozen=True, slots=True)
class _Happened:
    """An outcome, and its start and end on CLOCK_MONOTONIC."""

    outcome: Outcome
    began_s: float
    ended_s: float


def campaign(names: Sequence[str], counts: Counts) -> list[Outcome]:
    """Injects every fault once, on one node that must outlive them; then checks the truth."""
    console = Console(stderr=True)
    happened = []
    with rig(h264=any("H.264" in name for name in names)) as setup:
        for name in names:
            setup.monitor.forget()
            began_s = time.monotonic()
            try:
                outcome = FAULTS[name](setup, counts)
            except (TimeoutError, NotUsableError) as error:
                outcome = Outcome(name, None, None, (str(error),))
            happened.append(_Happened(outcome, began_s, time.monotonic()))
            console.print(f"{outcome.fault}: {'; '.join(outcome.wrong) or 'held'}", highlight=False)
        setup.node.stop()
        return _held_against_the_truth(happened, setup)


def _held_against_the_truth(happened: Sequence[_Happened], setup: Rig) -> list[Outcome]:
    """The outcomes, each with the `ok` messages of its time."""
    truth = Truth(setup.folder / "truth")
    checked = list(truth.check(setup.node.recordings, _FAILING))
    outcomes = []
    for fault in happened:
        of_its_time = [
            message for message in checked if fault.began_s <= message.stamp_s < fault.ended_s
        ]
        wrong = [message.wrong for message in of_its_time if message.wrong is not None]
        problems = [f"{len(wrong)} wrongly ok: {wrong[0]}"] if wrong else []
        outcomes.append(
            replace(
                fault.outcome, wrong=(*fault.outcome.wrong, *problems), checked=len(of_its_time)
            )
        )
    return outcomes


def stalls(count: int) -> list[float]:
    """Seconds from the silence of a stream to the receipt of `stalled`, each time."""
    delays_s = []
    with rig() as setup:
        for _ in range(count):
            setup.monitor.forget()
            began = time.monotonic()
            setup.stream.mode("silent")
            seen = setup.monitor.first(
                "stream", began, lambda sighting: sighting.message.status == "stalled"
            )
            # Counted from the last frame that came, which is what the timeout counts from.
            last = [
                sighting.message.stamp_mono_ns or 0
                for sighting in setup.monitor.since(0, "stream")
                if sighting.message.status == "ok"
            ]
            delays_s.append(seen.at_s - max(began, max(last, default=0) / 1e9))
            ended = time.monotonic()
            setup.stream.mode("good")
            setup.monitor.first_ok("stream", ended)
            time.sleep(random.uniform(0.0, 0.2))
    return delays_s


def main() -> None:
    """Runs the requested campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="kinds that contain this")
    parser.add_argument("--joins", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=100_000, help="random ones a socket")
    parser.add_argument("--stalls", type=int, default=0, help="only stalls, so many")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    if arguments.stalls:
        delays_s = stalls(arguments.stalls)
        in_time = sum(delay_s <= STALL_S + SLACK_S for delay_s in delays_s)
        print(
            json.dumps({"stalls": len(delays_s), "in_time": in_time, "longest_s": max(delays_s)})
            if arguments.json
            else f"{in_time} of {len(delays_s)} in time; longest {max(delays_s):.3f} s"
        )
        sys.exit(in_time != len(delays_s))
    parts = arguments.only or [""]
    names = [name for name in FAULTS if any(part in name for part in parts)]
    outcomes = campaign(names, Counts(arguments.joins, arguments.messages))
    if arguments.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes]))
    else:
        _print(outcomes)
    sys.exit(any(outcome.wrong for outcome in outcomes))


def _print(outcomes: Sequence[Outcome]) -> None:
    table = Table(
        "fault", "said after", "back after", "ok, checked", "verdict", box=None, pad_edge=False
    )
    for outcome in outcomes:
        times = [
            f"{seconds:.2f} s" if seconds is not None else ""
            for seconds in (outcome.detected_s, outcome.back_s)
        ]
        verdict = "; ".join(outcome.wrong) or "held"
        table.add_row(outcome.fault, *times, str(outcome.checked), verdict)
    Console(width=120, highlight=False).print(table)


if __name__ == "__main__":
    main()
