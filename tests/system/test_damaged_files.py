"""A short run of the campaign with damaged files."""

import json
import os
import subprocess
import sys

from conftest import ROOT

CAMPAIGN = ROOT / "scripts" / "faults" / "files"
FILES = 60
TIMEOUT_S = 300


def test_no_damaged_file_costs_more_than_itself() -> None:
    done = subprocess.run(
        [sys.executable, CAMPAIGN, "--json", "--jobs", "1", "--count", str(FILES), "--seed", "3"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    result = json.loads(done.stdout)
    assert result["files"] >= FILES
    assert len(result["kinds"]) == 8
