"""The linter, the type checker, and the wheels that users install."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from support.recordings import labels, write

UV = Path(sys.executable).parent / "uv"
PROGRAM = """
from perception_client import LabelsMessage, NotUsableError, Status, Subscriber


def sees_a_person(labels: LabelsMessage) -> bool:
    return labels.status is Status.OK and labels.shows("person", 0.5)


def turn(subscriber: Subscriber) -> bool:
    try:
        return sees_a_person(subscriber.require(0.2))
    except NotUsableError as error:
        return error.message is None
"""
CONTROL_TEST = """
def test_it_brakes(recorded_labels):
    labels = recorded_labels("drive.mcap", camera="front")
    assert labels.require(0.2, timeout_s=1.0).status == "ok"
    assert len(list(labels)) == 3
"""
MOST_MIB = 40
"""Of the client and what it needs, on a control computer."""


def run(*command: object, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_linter_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", ROOT)
    run(sys.executable, "-m", "ruff", "format", "--check", ROOT)


def test_the_type_checker_finds_nothing() -> None:
    run(sys.executable, "-m", "mypy")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not UV.exists():
        pytest.skip("uv, which makes wheels, is not beside this Python; scripts/test installs it")
    folder = tmp_path_factory.mktemp("wheels")
    for package in ("perception-client", "perception-node"):
        run(UV, "build", "--wheel", "--package", package, "--out-dir", folder)
    return {file.name.partition("-")[0]: file for file in folder.glob("*.whl")}


def test_the_client_is_installed_alone(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "venv", "--python", sys.executable, tmp_path / "venv")
    run(UV, "pip", "install", "--python", python, wheels["perception_client"])
    installed = [file for file in (tmp_path / "venv" / "lib").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in installed) < MOST_MIB * 2**20
    (tmp_path / "program.py").write_text(PROGRAM)
    run(python, "program.py", cwd=tmp_path)
    run(
        sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "program.py",
        cwd=tmp_path,
    )  # fmt: skip


def test_control_code_is_tested_against_a_recording_with_the_client_alone(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "venv", "--python", sys.executable, tmp_path / "venv")
    client = f"{wheels['perception_client']}[recordings]"
    run(UV, "pip", "install", "--python", python, client, "pytest")
    write(tmp_path / "drive.mcap", [labels(seq / 10, seq) for seq in range(4)])
    (tmp_path / "test_control.py").write_text(CONTROL_TEST)
    run(python, "-m", "pytest", "-q", "-W", "error", "test_control.py", cwd=tmp_path)


def test_the_nodes_wheel_holds_all_that_it_reads(wheels: dict[str, Path], tmp_path: Path) -> None:
    with zipfile.ZipFile(wheels["perception_node"]) as wheel:
        wheel.extractall(tmp_path)
    for name in ("default.toml", "py.typed", "web/static/index.html", "web/static/page.js",
                 "web/static/page.css", "recording/report/report.html"):  # fmt: skip
        assert (tmp_path / "node" / name).is_file(), name
    code = (
        "import sys; sys.path.insert(0, '.'); from node.cli import command_line; command_line(%r)"
    )
    run(sys.executable, "-c", code % ["config", "init", "robot.toml"], cwd=tmp_path)
    assert "[[camera]]" in (tmp_path / "robot.toml").read_text()
