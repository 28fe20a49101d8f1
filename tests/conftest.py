"""Fixtures that start the real commands in real processes."""

import contextlib
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage
from support import commands

from node.cli import command_line
from node.perception.openvino_import import ov

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: two processes share the cores

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
COMMAND = [sys.executable, "-m", "node"]

_FIRST = (
    "test_hostile.py",
    "test_checks.py",
    "test_tune.py",
    "test_faults.py",
    "test_web.py",
    "test_offline.py",
    "test_replay.py",
    "test_runtimes.py",
    "test_model_files.py",
    "test_run.py",
    "test_models.py",
    "test_bench.py",
    "test_damaged_files.py",
    "test_clients.py",
    "test_recording.py",
    "test_segment.py",
)
"""Files with the longest tests: what runs last runs on one core."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which files are begun, for `--dist loadfile`."""
    order = {name: index for index, name in enumerate(_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and videos with true labels."""
    if not SHARED.is_dir():
        pytest.skip(
            f"the photographs and videos with true labels are not beside the project: {SHARED}"
        )
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of exported models for all tests, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def _log_as_a_process_begins() -> None:
    """Each test logs warnings, whatever a library or a command in this process has set before."""
    logging.disable(logging.NOTSET)
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def perception_node() -> Run:
    """Runs a command to its end."""

    def run(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return commands.run([*COMMAND, *arguments], timeout_s)

    return run


def run_in_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command as `perception_node` does, without a process and its imports: for what a
    process of its own adds nothing to."""
    stdout, stderr = io.StringIO(), io.StringIO()
    log = logging.getLogger()
    level, handlers = log.level, log.handlers[:]
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = command_line([str(argument) for argument in arguments])
    finally:  # a command logs to its own stderr, at its own level
        log.setLevel(level)
        log.handlers[:] = handlers
    return subprocess.CompletedProcess([], code, stdout.getvalue(), stderr.getvalue())


NOBODY = 65534
"""A user id that is not the tests' own."""


def run_as(uid: int | None, imports: str, code: str, timeout_s: float = 30.0) -> str:
    """What Python code prints on stdout in a process that, after its imports, becomes another
    user's (None: stays this one's). Only root may try that: others skip."""
    if uid is not None and os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    change = f"import os\nos.setgroups([])\nos.setgid({uid})\nos.setuid({uid})" if uid else ""
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{change}\n{code}"],
        capture_output=True, text=True, timeout=timeout_s, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def in_process() -> Run:
    """`run_in_process`."""
    return run_in_process


@pytest.fixture(scope="session")
def resnet18_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18 with seeded weights."""
    import torch
    import torchvision

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of forty frames, 20 a second: a cup of espresso, then a cat."""
    file = tmp_path_factory.mktemp("clip") / "clip.avi"
    pictures = Path(skimage.__file__).parent / "data"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (320, 240))
    for name in ("coffee.png", "chelsea.png"):
        photo = cv2.resize(cv2.imread(str(pictures / name)), (320, 240))
        for shift in range(20):
            writer.write(np.roll(photo, shift, axis=1))
    writer.release()
    return file


@pytest.fixture(scope="session")
def passer_by(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """A video of 5.5 s: for 1.5 s nobody, then a person who is near, for 2 s, and nobody again."""
    file = tmp_path_factory.mktemp("passer-by") / "passer-by.avi"
    video = cv2.VideoCapture(str(shared_data / "video" / "one-by-one-person-detection.mp4"))
    fps, size = 10, (768, 432)
    assert round(video.get(cv2.CAP_PROP_FPS)) == fps
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for number in range(210):
        _, image = video.read()
        if 50 <= number < 80 or number >= 185:  # the person comes, and goes
            writer.write(image)
    writer.release()
    return file


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that is loaded in no time, for tests in which the labels say nothing."""
    file = tmp_path_factory.mktemp("tiny") / "tiny.xml"
    pixels = ov.opset13.parameter([-1, 3, 32, 32], ov.Type.f32, name="pixels")
    means = ov.opset13.reduce_mean(pixels, np.array([2, 3]), keep_dims=False)
    ov.save_model(ov.Model([means], [pixels], "tiny"), file, compress_to_fp16=False)
    file.with_suffix(".toml").write_text(
        'name = "tiny"\ntask = "classify"\nlabels = ["blue", "green", "red"]\n'
        "[input]\nsize = [32, 32]\n"
    )
    return file


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Path:
    """Three seconds of a real node with two cameras, recorded."""
    folder = tmp_path_factory.mktemp("recording")
    config = folder / "two.toml"
    config.write_text(
        f"""
        [[camera]]
        name = "front"
        source = "demo"
        [[camera]]
        name = "rear"
        source = "{clip}"
        loop = true
        [smooth]
        time_constant_s = 0.1
        [wire]
        endpoint = "ipc://{folder}/labels"
        """
    )
    done = run_in_process(
        "record", "--config", config, "--output", folder, "--duration", 3, "--set", "log.level=info"
    )
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.mcap")
    return file


@pytest.fixture
def start_node() -> Iterator[Start]:
    """Starts a command in the background; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=ROOT, **options,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def ipc(tmp_path: Path) -> str:
    """An endpoint nobody else uses."""
    return f"ipc://{tmp_path}/labels.ipc"


@pytest.fixture
def tcp() -> str:
    """A loopback endpoint that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def stop(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, float]:
    """Sends a signal and waits; the exit code, and how long the end took in seconds."""
    started = time.monotonic()
    os.kill(process.pid, number)
    code = process.wait(timeout=10)
    return code, time.monotonic() - started
