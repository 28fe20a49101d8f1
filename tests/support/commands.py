"""Runs a command to its end."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(
    words: Sequence[object], timeout_s: float, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` in a folder, with the project's modules and with the output as text."""
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=timeout_s,
        cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
