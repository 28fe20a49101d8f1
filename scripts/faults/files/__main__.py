"""Damaged files: runs the node's commands on mutated pictures, videos, recordings, models, cards,
weights, configurations and key files. No command may leave a stack trace, crash, hang, take much
memory, or end with exit code 0 and less than was there. Exit code 1 when one did.

    python scripts/faults/files --count 3000             about an hour on two cores
    python scripts/faults/files --count 50 --only videos --seed 7
    python scripts/faults/files --trial 123 --keep FOLDER     one trial again, and its files
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from trials import KINDS, PICTURES_A_TRIAL, Run, Seeds, Trial

from node.cli import command_line

PATIENCE_S = 90.0
"""Of one command, on a busy computer."""
_LONGEST_OUTPUT = 100_000
_POLL_S = 0.005


@dataclass(slots=True)
class _Child:
    number: int
    trial: Trial
    folder: Path
    process: int
    began_at: float


def _start(number: int, trial: Trial, folder: Path) -> _Child:
    """Runs a command in a fork of this process, which has imported what all commands need."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setsid()
            for descriptor, name in (
                (0, os.devnull),
                (1, folder / "stdout"),
                (2, folder / "stderr"),
            ):
                flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT
                os.dup2(os.open(name, flags, 0o600), descriptor)
            code = command_line(trial.arguments)
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return _Child(number, trial, folder, process, time.monotonic())


def _ended(child: _Child) -> Run | None:
    """What a command did; None while it runs."""
    process, status, usage = os.wait4(child.process, os.WNOHANG)
    code: int | None = os.waitstatus_to_exitcode(status) if process else None
    if not process:
        if time.monotonic() - child.began_at < PATIENCE_S:
            return None
        os.killpg(child.process, signal.SIGKILL)
        _, _, usage = os.wait4(child.process, 0)
    output, errors = (
        (child.folder / name).read_text(errors="replace")[-_LONGEST_OUTPUT:]
        for name in ("stdout", "stderr")
    )
    return Run(code, output, errors, usage.ru_maxrss / 1024)


def _trials(count: int, seed: int, only: Sequence[str]) -> list[tuple[int, str]]:
    """The kind of each trial by its number, in turn and by the shares of the kinds."""
    kinds = [name for name, (_, share) in KINDS.items() if name in only for _ in range(share)]
    random.Random(seed).shuffle(kinds)
    trials: list[tuple[int, str]] = []
    while count > 0:
        kind = kinds[len(trials) % len(kinds)]
        trials.append((len(trials), kind))
        count -= PICTURES_A_TRIAL if kind == "pictures" else 1
    return trials


def _make(number: int, kind: str, seed: int, folder: Path, seeds: Seeds) -> tuple[Trial, Path]:
    inside = folder / f"{number}" / "files"
    inside.mkdir(parents=True)
    make, _ = KINDS[kind]
    return make(random.Random(f"{seed} {number} {kind}"), inside, seeds), inside.parent


def campaign(
    trials: Sequence[tuple[int, str]], seed: int, jobs: int, folder: Path
) -> list[dict[str, object]]:
    """Runs all trials, some at once. Returns one row for each that was wrong."""
    seeds_folder = folder / "seeds"
    seeds_folder.mkdir()
    seeds = Seeds(seeds_folder)
    waiting, running, wrong = list(reversed(trials)), list[_Child](), list[dict[str, object]]()
    while waiting or running:
        if waiting and len(running) < jobs:
            number, kind = waiting.pop()
            trial, own = _make(number, kind, seed, folder, seeds)
            running.append(_start(number, trial, own))
            continue
        for child in list(running):
            run = _ended(child)
            if run is None:
                continue
            running.remove(child)
            problem = child.trial.wrong(run)
            if problem is not None:
                wrong.append(_row(child, run, problem))
                print(json.dumps(wrong[-1]), file=sys.stderr, flush=True)
            else:
                shutil.rmtree(child.folder, ignore_errors=True)
        time.sleep(_POLL_S)
    return wrong


def _row(child: _Child, run: Run, problem: str) -> dict[str, object]:
    return {
        "trial": child.number, "kind": child.trial.kind, "file": child.trial.file,
        "wrong": problem, "code": run.code, "command": " ".join(child.trial.arguments),
        "last_lines": run.errors.strip().splitlines()[-3:],
    }  # fmt: skip


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=3000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=KINDS, help="only this kind of file")
    parser.add_argument("--trial", type=int, action="append", help="only the trial of this number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="commands at once")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="an empty folder for the files")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a pool of threads would not survive the forks
    with tempfile.TemporaryDirectory(prefix="files-", ignore_cleanup_errors=True) as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        trials = _trials(arguments.count, arguments.seed, arguments.only or tuple(KINDS))
        if arguments.trial:
            trials = [trial for trial in trials if trial[0] in arguments.trial]
        began = time.monotonic()
        wrong = campaign(trials, arguments.seed, arguments.jobs, folder)
    kinds = Counter(kind for _, kind in trials)
    kinds["pictures"] *= PICTURES_A_TRIAL
    if arguments.json:
        print(json.dumps({"files": sum(kinds.values()), "kinds": +kinds, "wrong": wrong}))
    else:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        print(f"{sum(kinds.values())} damaged files in {time.monotonic() - began:.0f} s: {counts}")
        print(f"{len(wrong)} were wrong" if wrong else "all held")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
