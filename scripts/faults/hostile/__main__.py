"""The hostile campaign: attacks a real node as a stranger on its network, a local user, and the
author of a file or stream could, and prints what was tried, what held, and the figures. Exit code 1
when anything did not hold.

    python scripts/faults/hostile                        every attack
    python scripts/faults/hostile --only "idle" --only "hidden age" --seconds 60
    python scripts/faults/hostile --list
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from attack import ROOT, Attack, Budget, Outcome
from rich.console import Console
from rich.table import Table

THEMES: tuple[str, ...] = (
    "streams",
    "pace",
    "sockets",
    "habits",
    "files",
    "access",
    "recordings",
)
"""Modules of this folder; each has a tuple `ATTACKS`."""


def attacks(themes: Sequence[str]) -> list[Attack]:
    """Every attack of some themes, in order."""
    return [attack for name in themes for attack in importlib.import_module(name).ATTACKS]


def run(attack: Attack, seconds: float) -> Outcome:
    """Runs one attack in an empty folder; an attack that fails itself did not hold."""
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
        try:
            return attack.run(Budget(seconds, Path(folder)))
        except Exception as error:
            return Outcome("", (f"the attack itself failed: {type(error).__name__}: {error}",))


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--theme", action="append", choices=THEMES, help="only this one")
    parser.add_argument("--only", action="append", metavar="TEXT", help="attacks named like this")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack without end")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--list", action="store_true", help="print the names of the attacks")
    arguments = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    candidates = attacks(arguments.theme or THEMES)
    chosen = [
        attack
        for attack in candidates
        if any(part in attack.name for part in arguments.only or [""])
    ]
    if arguments.list:
        print("\n".join(attack.name for attack in chosen))
        return
    if not chosen:
        sys.exit(f"no attack is named like {arguments.only}; --list prints the names")
    console = Console(stderr=True)
    outcomes = []
    for attack in chosen:
        outcome = run(attack, arguments.seconds)
        outcomes.append((attack, outcome))
        if arguments.json:
            print(json.dumps({"attack": attack.name, **asdict(outcome)}), flush=True)
        console.print(f"{attack.name}: {_verdict(outcome)}", highlight=False)
    if not arguments.json:
        _print(outcomes)
    sys.exit(any(outcome.wrong for _, outcome in outcomes))


def _verdict(outcome: Outcome) -> str:
    return "; ".join(outcome.wrong) or "held"


def _print(outcomes: Sequence[tuple[Attack, Outcome]]) -> None:
    table = Table("attack", "tried", "figures", "verdict", box=None, pad_edge=False)
    for attack, outcome in outcomes:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in outcome.figures.items())
        table.add_row(attack.name, outcome.tried, figures, _verdict(outcome))
    Console(width=160, highlight=False).print(table)


if __name__ == "__main__":
    main()
