"""A short run of every attack of the hostile campaign."""

import json
import sys

import pytest
from conftest import ROOT
from support import commands

CAMPAIGN = ROOT / "scripts" / "faults" / "hostile"
THEMES = sorted(file.stem for file in CAMPAIGN.glob("*.py") if "\nATTACKS" in file.read_text())
TIMEOUT_S = 300
"""Of a theme, on a computer that does something else as well."""


@pytest.mark.parametrize("theme", THEMES)
def test_a_short_run_of_each_attack_is_held_off(theme: str) -> None:
    words = ("--json", "--theme", theme, "--seconds", "1")
    done = commands.run([sys.executable, CAMPAIGN, *words], TIMEOUT_S)
    assert done.returncode == 0, (done.stdout, done.stderr)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert outcomes
    assert all(not outcome["wrong"] for outcome in outcomes)
