"""A short run of every attack of the hostile campaign."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

CAMPAIGN = ROOT / "scripts" / "faults" / "hostile"
THEMES = sorted(file.stem for file in CAMPAIGN.glob("*.py") if "\nATTACKS" in file.read_text())
TIMEOUT_S = 300
"""Of a theme, on a computer that does something else as well."""


@pytest.mark.parametrize("theme", THEMES)
def test_a_short_run_of_each_attack_is_held_off(theme: str) -> None:
    done = subprocess.run(
        [sys.executable, CAMPAIGN, "--json", "--theme", theme, "--seconds", "2"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert outcomes
    assert all(not outcome["wrong"] for outcome in outcomes)
