"""What users do to commands, whichever they are: closed and full streams, readers that go, signals
of a terminal, odd homes and folders, recordings that were edited by hand."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from conftest import COMMAND, ROOT, Run, Start, run_in_process
from support.recordings import LABELS, START_NS, labels, write

from node.cli import command_line, commands
from node.cli.options import Number
from node.cli.replay import _gate
from node.cli.standard_streams import (
    ESCAPED,
    ReaderGoneError,
    _Stdout,
    print_line,
)
from node.errors import ConfigError, MessageError, OutputError, PerceptionError
from node.process.output_files import fresh_folder, whole_file, write_whole
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.recording.records import as_json, frames_channel, message_channel
from perception_client.messages.codec import from_map, to_map
from perception_client.messages.kinds import ImageSize
from perception_client.paths import absolute, expanded
from perception_client.recordings.records import Entry
from perception_client.testing.recorded import RecordedLabels
from perception_client.text import printable

WAIT_S = 60.0


def leaves(
    group: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand, as click knows them."""
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from leaves(command, (*path, name))


COMMANDS = dict(leaves(commands))
NAMES = [" ".join(path) for path in COMMANDS]


def shell(line: str, timeout_s: float = WAIT_S) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which $NODE is the command."""
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env={**os.environ, "NODE": " ".join(COMMAND)},
    )


CLOSED = """
import os, sys
sys.path.insert(0, {root!r})
from click.testing import CliRunner
from node.cli import standard_streams
standard_streams.take_over()
from node.cli import command_line
import socket
taken = [socket.socket().fileno() for _ in range(1)]
codes = [command_line([*name.split(), "--help"]) for name in {names!r}]
told = open({told!r}, "w")
print(taken[0] > 2, told.fileno() > 2, sorted(set(codes)), file=told)
told.flush()
os._exit(0)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_every_command_runs_with_closed_streams_and_opens_nothing_in_their_place(
    tmp_path: Path, closed: str
) -> None:
    output = tmp_path / "told"
    program = tmp_path / "program.py"
    program.write_text(CLOSED.format(root=str(ROOT), names=NAMES, told=str(output)))
    done = shell(f"exec {sys.executable} {program} {closed}")
    assert done.returncode == 0, done.stderr
    assert output.read_text() == "True True [0]\n"


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_the_exit_code_is_that_of_the_command_whatever_the_streams(streams: str) -> None:
    good = f"$NODE completion bash {streams}; echo $? >&9"
    bad = f"$NODE config check no-such.toml {streams}; echo $? >&9"
    assert shell(f"exec 9>&1; {good}; {bad}").stdout.splitlines()[-2:] == ["0", "2"]


def test_a_stdout_that_is_full_is_one_line(tmp_path: Path) -> None:
    done = shell(f"$NODE keys {tmp_path}/keys --client a --client b >/dev/full")
    assert done.returncode == 1
    assert done.stderr == (
        "error: stdout cannot be written: No space left on device; results are missing from it\n"
    )
    assert {entry.name for entry in (tmp_path / "keys" / "clients").iterdir()} == {"a", "b"}


def test_a_reader_that_goes_stops_no_side_effect(tmp_path: Path) -> None:
    clients = " ".join(f"--client c{n}" for n in range(30))
    done = shell(
        f"set -o pipefail; PYTHONUNBUFFERED=1 $NODE keys {tmp_path}/keys {clients} | head -1"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "keys" / "clients").iterdir())) == 30


def test_what_prints_as_it_goes_ends_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    raw = io.BufferedWriter(_Stdout(writer, "wb"))
    with io.TextIOWrapper(raw, encoding="ascii", errors=ESCAPED) as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        print_line("é𝄞\udc80")
        assert os.read(reader, 100) == rb"\u00e9\ud834\udd1e\udc80" + b"\n"
        os.close(reader)
        with pytest.raises(ReaderGoneError):
            print_line("more")
        print("and more", file=stdout, flush=True)  # what is printed otherwise goes nowhere


def test_what_prints_as_it_goes_ends_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _Stdout(os.open("/dev/full", os.O_WRONLY), "wb")
    with io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(OutputError, match="stdout cannot be written: No space left"):
            print_line("one")
        assert raw.take_failure() is None  # a failure is reported once


def test_a_gate_is_not_passed_by_a_reader_that_goes(tmp_path: Path) -> None:
    @_gate
    def replay(**options: object) -> None:
        raise ReaderGoneError("nobody reads stdout any more")

    with pytest.raises(PerceptionError, match="stopped before the comparison") as caught:
        replay(expect=tmp_path / "golden.jsonl")
    assert caught.value.exit_code == 1
    with pytest.raises(ReaderGoneError):
        replay(expect=None)


def test_a_table_has_a_width_whatever_the_terminal_says() -> None:
    code = (
        "from node.cli.standard_streams import take_over; take_over(); "
        "from rich.console import Console; Console().print('a table \u00e9')"
    )
    done = shell(f'COLUMNS=0 TERM=dumb PYTHONIOENCODING=ascii {sys.executable} -c "{code}"')
    assert (done.returncode, done.stdout) == (0, "a table \\u00e9\n")


def test_a_terminal_that_is_closed_stops_a_node_cleanly(start_node: Start, ipc: str) -> None:
    node = start_node("run", "--source", "demo", "--endpoint", ipc, start_new_session=True)
    assert node.stderr is not None
    for line in node.stderr:
        if "publishing on" in line:
            break
    os.kill(node.pid, signal.SIGHUP)
    os.kill(node.pid, signal.SIGHUP)  # the shell's and the kernel's
    assert node.wait(WAIT_S) == 0
    assert "stopped after" in node.stderr.read()


def test_a_hangup_that_is_ignored_at_the_start_stays_ignored(start_node: Start, ipc: str) -> None:
    node = subprocess.Popen(
        ["nohup", *COMMAND, "watch", "--endpoint", ipc, "--timeout", "2"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        cwd=ROOT, text=True,
    )  # fmt: skip
    while signals_of(node.pid, "SigCgt") & (1 << (signal.SIGTERM - 1)) == 0:
        time.sleep(0.01)
    os.kill(node.pid, signal.SIGHUP)
    assert node.communicate(timeout=WAIT_S)[1].endswith("is the node running, on this endpoint?\n")
    assert node.returncode == 1


def signals_of(pid: int, mask: str) -> int:
    """Which signals a process catches (SigCgt) or ignores (SigIgn), as bits."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(mask))


@pytest.mark.parametrize("name", NAMES)
def test_no_number_of_a_command_is_nan(name: str) -> None:
    for option in COMMANDS[tuple(name.split())].params:
        if isinstance(option.type, click.types.FloatParamType):
            assert isinstance(option.type, Number), option.name
        if isinstance(option.type, Number):
            with pytest.raises(click.BadParameter):
                option.type.convert("nan", option, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "~nouser/x.mcap"],
        ["export", "jsonl", "~nouser/x.mcap"],
        ["recover", "~nouser/x.mcap"],
        ["replay", "~nouser/x.mp4"],
        ["label", "~nouser"],
        ["tune", "--frames", "~nouser/x"],
        ["run", "--source", "~nouser/x.mp4"],
        ["run", "--source", "demo", "--set", "recording.folder=~nouser/x"],
        ["label", "~nouser/x.png", "--model", "~nouser/x.onnx"],
        ["config", "check", "~nouser/x.toml"],
        ["watch", "--keys", "~nouser/keys"],
        ["ctl", "--keys", "~nouser/keys", "status"],
    ],
)
def test_a_home_that_nobody_has_is_one_line(arguments: list[str]) -> None:
    done = run_in_process(*arguments)
    assert done.returncode in (1, 2, 3)
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "~nouser" in done.stderr
    assert "Traceback" not in done.stderr


def test_paths_stand_without_a_home_and_without_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="no home folder is known"):
        expanded("~nouser/x")
    check = ("config", "check", ROOT / "config/default.toml")
    assert run_in_process(*check).returncode == 0  # MKL cannot be loaded without a folder
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert absolute(Path("x")) == gone / "x"
    gone.rmdir()
    assert absolute(Path("x")) == Path("x")
    assert run_in_process(*check).returncode == 0
    assert run_in_process("keys", tmp_path / "keys").returncode == 0


def test_names_move_no_cursor_of_who_reads_an_error() -> None:
    assert printable("a\nb\x1b[2J\x9b1m\u00e9") == r"a\nb\x1b[2J\x9b1m" + "é"
    done = run_in_process("config", "check", "no\n\x1b[31msuch.toml")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/x"), OSError("odd")])
def test_what_the_computer_refuses_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(commands, "main", refused)
    assert command_line(["models"]) == 1
    assert capsys.readouterr().err in ("error: /x: Permission denied\n", "error: odd\n")


# Files that commands write.


def fails_half_way(file: Path) -> None:
    with whole_file(file) as beside:
        beside.write_text("half")
        raise ValueError("half-way")


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("before")
    file.chmod(0o640)
    with pytest.raises(ValueError, match="half-way"):
        fails_half_way(file)
    assert file.read_text() == "before"
    link = tmp_path / "link"
    link.symlink_to(file)
    write_whole(link, b"after")
    assert (link.is_symlink(), file.read_text(), file.stat().st_mode & 0o777) == (
        True,
        "after",
        0o640,
    )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "report.html"]
    for target, why in (
        (Path("/dev/full"), "No space left"),
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "x", "there is no folder"),
        (Path("/proc/x"), "cannot be written"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(OutputError, match=why):
            write_whole(target, b"x")
    assert len(list(tmp_path.iterdir())) == 2


def fills_the_disk(folder: Path) -> None:
    with fresh_folder(folder):
        (folder / "half").write_text("half")
        raise OutputError("full")


WRITES_AS_NOBODY = """
import os, sys
from pathlib import Path
from node.process.output_files import write_whole
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
write_whole(Path(sys.argv[1]), b"new")
"""


def test_a_file_in_a_folder_that_takes_no_other_is_written_itself() -> None:
    with tempfile.TemporaryDirectory() as there:  # pytest's own are this user's only
        file = Path(there) / "report.html"
        file.write_text("what was there before, longer")
        file.chmod(0o666)
        Path(there).chmod(0o555)
        command = [sys.executable, "-c", WRITES_AS_NOBODY, str(file)]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "TMPDIR": "/tmp"}, capture_output=True, text=True
        )
        Path(there).chmod(0o755)
        assert (done.returncode, done.stderr) == (0, "")
        assert file.read_text() == "new"
        assert [entry.name for entry in Path(there).iterdir()] == ["report.html"]


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_of_a_failure_is_as_it_was(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "set"
    if there:
        folder.mkdir()
    with pytest.raises(OutputError, match="full"):
        fills_the_disk(folder)
    assert folder.is_dir() == there
    assert not any(tmp_path.rglob("half"))


# Facts of the wrong type in a recording.

WRONG: tuple[object, ...] = ("x", None, [], {"a": 1}, -1, 1.5, True, 10**30, "\ud800", [None])
FACTS = ("frame_id", "stamp_ns", "clock", "epoch", "lost_before")


def edited(tmp_path: Path) -> Path:
    """A recording in whose facts and messages somebody put every wrong value once."""
    good = [labels(n / 10, n) for n in range(len(WRONG) * len(FACTS))]
    file = write(tmp_path / "good.mcap", good, frames=len(good))
    to = RecordingFile(tmp_path / "edited.mcap", {"session": "s"})
    number = 0
    for entry in Recording([file]).entries():
        data = entry.data
        if entry.channel == frames_channel("front"):
            name, value = FACTS[number // len(WRONG)], WRONG[number % len(WRONG)]
            data = as_json_like({"frame_id": number, name: value})
            number += 1
        to.write([Entry(entry.channel, entry.log_ns, entry.publish_ns, entry.sequence, data)])
    for seq, (name, value) in enumerate(
        (name, value) for name in to_map(LABELS) for value in WRONG
    ):
        content = to_map(replace(LABELS, seq=seq, frame_id=0, image=ImageSize(1, 1))) | {
            name: value
        }
        at_ns = START_NS + seq
        channel = message_channel("labels", "front")
        to.write([Entry(channel, at_ns, at_ns, seq, as_json_like(content))])
    to.close()
    return tmp_path / "edited.mcap"


def as_json_like(content: object) -> bytes:
    """JSON with lone surrogates as escapes, which UTF-8 cannot hold."""
    import json

    return json.dumps(content).encode()


def play(file: Path) -> None:
    with RecordedLabels(file) as played:
        while played.advance(1.0):
            played.latest(1.0)


def test_facts_of_the_wrong_type_are_left_out_and_said(tmp_path: Path) -> None:
    assert as_json({}) == b"{}"
    file = edited(tmp_path)
    recording = Recording([file])
    frames = list(recording.frames())
    assert len(frames) == 2  # a stamp and a clock may be None; nothing else here fits
    assert all(type(frame.frame_id) is int for frame in frames)
    assert any("a frame is skipped" in problem for problem in recording.problems)
    for arguments in (
        ["report", file, "--output", tmp_path / "report.html"],
        ["export", "jsonl", file, tmp_path / "out.jsonl"],
        ["export", "video", file, tmp_path / "out.mp4"],
        ["export", "coco", file, tmp_path / "coco"],
        ["export", "imagefolder", file, tmp_path / "folder"],
        ["export", "ros2", file, tmp_path / "bag"],
        ["recover", file],
    ):
        done = run_in_process(*arguments)
        assert done.returncode in (0, 1, 3), done.stderr
        assert "Traceback" not in done.stderr
    with pytest.warns(UserWarning, match="not played whole"):
        play(file)


@pytest.mark.parametrize("value", [10**400, -(10**400), 2**64])
def test_an_integer_that_no_message_can_hold_is_refused(value: int) -> None:
    for name in ("published_ns", "seq", "frame_id"):
        with pytest.raises(MessageError, match=rf"labels\.{name} is of \d+ bits, not int"):
            from_map("labels", to_map(LABELS) | {name: value})


def test_a_text_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(MessageError, match=r"labels\.node is '\\ud800', which is no text"):
        from_map("labels", to_map(LABELS) | {"node": "\ud800"})
    assert from_map("labels", to_map(LABELS) | {"node": "é𝄞"})


def test_an_unwritable_report_leaves_nothing(tmp_path: Path, in_process: Run) -> None:
    file = write(tmp_path / "one.mcap", [labels(0, 0)])
    done = in_process("report", file, "--output", tmp_path / "no" / "report.html")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"there is no folder {tmp_path}/no" in done.stderr
    assert not (tmp_path / "no").exists()
