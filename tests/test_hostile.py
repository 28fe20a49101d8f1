"""A short run of every attack of the hostile campaign."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

CAMPAIGN = [sys.executable, "scripts/faults/hostile"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def _names() -> list[str]:
    done = subprocess.run(
        [*CAMPAIGN, "--list"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", _names())
def test_a_short_attack_is_held_off(name: str) -> None:
    done = subprocess.run(
        [*CAMPAIGN, "--json", "--only", name, "--seconds", "2"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert name in [outcome["attack"] for outcome in outcomes]
    assert all(not outcome["wrong"] for outcome in outcomes)
