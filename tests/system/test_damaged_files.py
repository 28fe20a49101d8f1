"""A short run of the campaign with damaged files."""

import json
import sys

from conftest import ROOT
from support import commands

CAMPAIGN = ROOT / "scripts" / "faults" / "files"
FILES = 34
"""Each kind by its share once."""
TIMEOUT_S = 300


def test_no_damaged_file_costs_more_than_itself() -> None:
    words = ("--json", "--jobs", "1", "--count", FILES, "--seed", "3")
    done = commands.run([sys.executable, CAMPAIGN, *words], TIMEOUT_S)
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    assert result["files"] >= FILES
    assert len(result["kinds"]) == 8
