"""A signal at any moment ends a command at once, without a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from node.cli import command_line

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def ended(code: str, *folders: Path) -> "subprocess.CompletedProcess[str]":
    paths = [*map(str, folders), str(ROOT), str(ROOT / "client")]
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_ends_the_command(tmp_path: Path, number: int) -> None:
    (tmp_path / "click.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(9)\n"
    )
    # A job in the background of a shell inherits an ignored SIGINT.
    usual = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = ended(f"{usual}from node.__main__ import main; main()", tmp_path)
    assert (done.returncode, done.stderr) == (-number, "")


@pytest.mark.parametrize(("arguments", "code"), [((), 0), (("--expect", "a"), 1)])
def test_a_signal_before_a_comparison_begins_is_no_success(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    def stopped(name: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("node.cli.importlib.import_module", stopped)
    assert command_line(["replay", "video.mp4", *arguments]) == code


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_a_callback_ends_the_command(number: int) -> None:
    """Python ignores what a destructor or the callback of an import raises."""
    code = f"""
import os, time
from node.cli.stopping import stop_on_signals

class Item:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})

with stop_on_signals():
    Item()
    time.sleep(9)
    print("went on")
"""
    done = ended(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
