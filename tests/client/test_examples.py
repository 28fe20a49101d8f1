"""The examples of control code, as a robot would run them: real processes, a real node."""

import contextlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Start
from support import commands

EXAMPLES = ROOT / "scripts" / "examples"
WAIT_S = 60.0


class Example:
    """A running example and what it said."""

    def __init__(self, name: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, EXAMPLES / name, *map(str, arguments)], cwd=ROOT,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said: list[str] = []
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def says(self, prefix: str) -> str:
        """The next line that begins so."""
        deadline = time.monotonic() + WAIT_S
        while (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self.said.append(self._lines.get(timeout=left_s))
                if self.said[-1].startswith(prefix):
                    return self.said[-1]
        raise AssertionError(f"it never said {prefix!r} but {self.said[-10:]}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()


@pytest.fixture
def persons(
    passer_by: Path, shared_data: Path, start_node: Start, ipc: str
) -> subprocess.Popen[str]:
    """A node that plays a person who walks past, again and again."""
    return start_node(
        "run", "--source", passer_by,
        "--model", shared_data / "models" / "yolox_nano.onnx", "--endpoint", ipc,
        "--set", "track.enabled=true", "--set", "camera.0.loop=true",
    )  # fmt: skip


@pytest.fixture
def examples() -> Iterator[list[Example]]:
    started: list[Example] = []
    yield started
    for example in started:
        example.kill()


def test_each_is_read_in_a_minute() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text().splitlines()) < 40, file.name


def test_they_stop_for_a_person_and_when_the_node_is_gone(
    persons: subprocess.Popen[str], examples: list[Example], ipc: str
) -> None:
    stopper, follower = Example("stop_for_person.py", ipc), Example("follow_target.py", ipc)
    waits = Example("wait_for_label.py", ipc, "person", 60)
    examples += [stopper, follower, waits]
    stopper.says("stop: ")
    stopper.says("drive 0.5 m/s")
    unseen = commands.run(
        [sys.executable, EXAMPLES / "wait_for_label.py", ipc, "zebra", "1"], timeout_s=30
    )
    assert unseen.returncode == 1
    assert "zebra was not seen in 1 s" in unseen.stderr
    assert "ms ago" in waits.says("person seen by camera")
    assert waits.process.wait(10) == 0
    stopper.says("stop: a person is near")
    stopper.says("drive 0.5 m/s")  # they walk past
    followed = follower.says("follow #")
    assert "rad/s" in followed
    persons.kill()
    assert "person" not in stopper.says("stop: ")
    follower.says("stop: ")
