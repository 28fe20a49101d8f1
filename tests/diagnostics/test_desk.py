"""What a person meets first: doctor, config init, completion, help, and every command that the
documents show."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import ROOT, Run
from PIL import Image as PilImage

from node.cli import COMMANDS, commands
from node.config.schema import CameraConfig, NodeConfig
from node.diagnostics.config_template import FoundCamera, template_for
from node.diagnostics.doctor_cameras import bandwidth, cameras

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_doctor_measures_glass_to_label(in_process: Run) -> None:
    done = in_process("doctor", "--latency", "--flashes", 4, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["flashes"] + report["missed"] == 4
    assert report["flashes"] >= 3
    assert (
        0 < report["capture_to_publish_ms"] < report["glass_to_label_ms"] <= report["max_ms"] < 3000
    )


def test_doctor_without_a_screen_says_so(perception_node: Run) -> None:
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        pytest.skip("there is a screen here")
    done = perception_node("doctor", "--latency", "--camera")
    assert done.returncode == 3
    assert "no window can be opened here" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_knows_what_a_usb_bus_carries() -> None:
    small = bandwidth("camera", "640x480", "YUYV", 640, 480, 30.0)
    assert (small.verdict, small.found) == ("ok", "gives 640x480, 18 MB/s")
    large = bandwidth("camera", "1280x720", "YUYV", 1280, 720, 30.0)
    assert large.verdict == "note"
    assert "55 MB/s, where USB 2 carries about 35" in large.found
    assert 'fourcc = "MJPG"' in (large.fix or "")
    assert bandwidth("camera", "1280x720", "MJPG", 1280, 720, 30.0).verdict == "ok"


def test_doctor_looks_at_all_that_is_configured(in_process: Run, tmp_path: Path) -> None:
    done = in_process(
        "doctor", "--json", "--set", "camera.0.source=93", "--set", 'monitor.web="127.0.0.1:0"',
        "--set", f"control.endpoint=ipc://{tmp_path}/control", "--set", "recording.enabled=true",
        "--set", "recording.keep_free_mb=100000000",
    )  # fmt: skip
    findings = {finding["what"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert "/dev/video93 does not exist" in findings["camera camera"]["found"]
    assert findings["page"]["verdict"] == findings["control endpoint"]["verdict"] == "ok"
    assert findings["recordings"]["verdict"] == "wrong"
    assert "make room" in findings["recordings"]["fix"]


def test_doctor_reads_files_and_folders(tmp_path: Path) -> None:
    PilImage.new("RGB", (64, 48)).save(tmp_path / "good.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for source, verdict, expected in (
        ("good.png", "ok", "good.png, 64x48"),
        ("none.mp4", "wrong", "none.mp4: there is no such file or folder"),
        ("folder", "wrong", "folder holds no pictures"),
        ("broken.png", "wrong", "broken.png: no picture in it can be read"),
    ):
        config = NodeConfig(camera=(CameraConfig(source=str(tmp_path / source)),))
        finding = list(cameras(config))[-1]
        assert (finding.what, finding.verdict) == ("camera camera", verdict), finding
        assert expected in finding.found
        assert bool(finding.fix) == (verdict == "wrong"), finding
    (finding,) = list(
        cameras(NodeConfig(camera=(CameraConfig(source="rtsp://user:secret@host/x"),)))
    )[-1:]
    assert (finding.verdict, finding.found) == ("note", "rtsp://host/... was not opened")


def test_config_init_writes_a_file_that_is_valid(in_process: Run, tmp_path: Path) -> None:
    file = tmp_path / "robot.toml"
    done = in_process("config", "init", file)
    assert done.returncode == 0, done.stderr
    assert f"perception-node run --config {file}" in done.stdout
    assert in_process("config", "check", file).returncode == 0
    again = in_process("config", "init", file)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_camera_that_is_found_is_in_the_file(in_process: Run, tmp_path: Path) -> None:
    camera = FoundCamera("/dev/v4l/by-id/usb-cam-video-index0", 1280, 720, 30.0, "MJPG")
    file = tmp_path / "robot.toml"
    file.write_text(template_for(camera))
    from node.config.load import load_config

    (configured,) = load_config(file).camera
    assert configured.source == camera.source
    assert (configured.width, configured.height, configured.fps) == (1280, 720, 30.0)
    assert configured.fourcc == "MJPG"


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node"], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "_PERCEPTION_NODE_COMPLETE": "bash_complete",
             "COMP_WORDS": "perception-node re", "COMP_CWORD": "1"},
    )  # fmt: skip
    assert {line.partition(",")[2] for line in done.stdout.split()} == {
        "replay", "record", "report", "recover",
    }  # fmt: skip


def every_command() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(commands)
    for name in COMMANDS:
        command = commands.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for child in command.commands.values():
                yield f"{name} {child.name}", child


def test_every_command_explains_itself_with_an_example() -> None:
    for name, command in every_command():
        assert f"Example: perception-node {name}" in (command.help or ""), name


def test_completion_is_printed_for_each_shell(in_process: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_PERCEPTION_NODE_COMPLETE" in in_process("completion", shell).stdout


def shown_commands() -> list[str]:
    """The lines of perception-node in the documents' shell blocks."""
    command_lines = []
    for document in DOCUMENTS:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.DOTALL | re.M)
        for language, block in blocks:
            if language not in ("bash", ""):
                continue
            lines = [line.partition("    #")[0].strip() for line in block.splitlines()]
            command_lines += [line for line in lines if line.startswith("perception-node ")]
    return list(dict.fromkeys(command_lines))


def test_every_command_in_the_documents_is_one() -> None:
    """All of them are read as the command line reads them: names, options, values."""
    lines = shown_commands()
    assert len(lines) > 20
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        try:
            _parse(commands, arguments)
        except click.ClickException as error:
            raise AssertionError(f"{line}: {error.format_message()}") from error


def _parse(command: click.Command, arguments: list[str]) -> None:
    context = command.make_context(command.name, list(arguments))
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        _, child, left = command.resolve_command(context, rest)
        assert child is not None
        _parse(child, left)


def test_every_configuration_in_the_documents_is_valid(in_process: Run, tmp_path: Path) -> None:
    blocks = [
        block
        for document in DOCUMENTS
        for block in re.findall(r"^```toml\n(.*?)^```", document.read_text(), re.DOTALL | re.M)
        if "[[camera]]" in block
    ]
    assert blocks
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        assert in_process("config", "check", file).returncode == 0, block


RUN_HERE = ("report", "replay", "export", "config", "recover", "completion", "models", "keys")
NOT_HERE = ("perception-node models fetch",)
"""Downloads."""


def test_the_documents_commands_run(
    in_process: Run, recording: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order and in one folder, where the files that they name are; those that go on for
    ever and those that measure have tests of their own."""
    (tmp_path / "recordings").mkdir()
    for name in ("drive.mcap", "recordings/drive.mcap"):
        shutil.copy(recording, tmp_path / name)
    shutil.copy(clip, tmp_path / "drive.mp4")
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in shown_commands():
        arguments = shlex.split(line, comments=True)[1:]
        if arguments[0] not in RUN_HERE or line.startswith(NOT_HERE):
            continue
        if arguments[0] == "replay" and "--jsonl" not in arguments and "--expect" not in arguments:
            continue
        done = in_process(*arguments)
        if arguments[:2] == ["export", "coco"]:  # the recording here is a classifier's
            assert "'perception-node export imagefolder'" in done.stderr
        else:
            assert done.returncode == 0, f"{line}: {done.stderr}"
        ran += 1
    assert ran >= 12
    assert (tmp_path / "recordings" / "report.html").exists()


def test_what_the_image_and_the_unit_run_is_there() -> None:
    """Their commands are ones, and what the image is made from is in the checkout and let in."""
    image = (ROOT / "Dockerfile").read_text()
    entry, default = (
        json.loads(re.findall(rf"^{word} (\[.*\])$", image, re.M)[0])
        for word in ("ENTRYPOINT", "CMD")
    )
    healthy = json.loads(re.findall(r"CMD (\[.*watch.*\])$", image, re.M)[0])
    assert entry == ["perception-node"]
    _parse(commands, default)
    _parse(commands, healthy[1:])
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", image, re.M):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored, source

    unit = (ROOT / "config" / "perception-node.service").read_text()
    environment = (ROOT / "config" / "perception-node.env").read_text()
    assert re.findall(r"^(\w+)=", environment, re.M) == ["OPTIONS"]
    (started,) = re.findall(r"^ExecStart=\S+/perception-node (.+)$", unit, re.M)
    shown = re.findall(r"^# OPTIONS=(.+)$", environment, re.M)[0]
    assert started.endswith(" $OPTIONS")
    _parse(commands, shlex.split(started.replace("$OPTIONS", shown)))
