"""No form of a stream's address shows its password, and no name from elsewhere reaches a terminal
with its control characters."""

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from support.http_server import RawServer, stream_head

from node.capture.sources.open import open_source
from node.cli.options import set_up_logging
from node.cli.watch import _Lines, _safe
from node.config.load import load_config
from node.config.redact import HIDDEN, addresses_in, hidden, redacted, value_shown
from node.config.schema import CameraConfig
from node.errors import ConfigError, SourceError
from node.image.jpeg import encode_jpeg
from node.recording.encode import config_entry
from perception_client.messages.codec import to_json
from perception_client.messages.kinds import Label, LabelsMessage, Status
from perception_client.subscriber import Gap, Subscriber

MARK = "Zq7Geheim"
"""In every secret: what may not be seen of it."""
_AROUND = st.text("ab1 '\"@:/#?%&=;!\\~*[]äß中", max_size=6)
SECRETS = st.builds(lambda before, after: f"{before}{MARK}{after}", _AROUND, _AROUND)
FORMS = (
    "rtsp://robot:{}@127.0.0.1:9/s",
    "rtsp://{}@127.0.0.1:9/s",
    "rtsp://{}:{}@[::1]:9/s",
    "http://127.0.0.1:9/x.cgi?loginuse=robot&loginpas={}",
    "rtsp://127.0.0.1:9/user=robot_password={}_channel=1_stream=0.sdp?real_stream",
    "http://127.0.0.1:9/x?jwt={}&sig={}&pw={}&psw={}",
    "http://127.0.0.1:9/x|cookies={}",
    "rtsp://127.0.0.1:9/{}/stream",
    "rtsp:/robot:{}@127.0.0.1/s",
    "rtsp//robot:{}@127.0.0.1/s",
    "rtsp:robot:{}@127.0.0.1/s",
    "robot:{}@127.0.0.1/s",
    "127.0.0.1/x?loginpas={}",
    "gst:rtspsrc location=rtsp://robot:{}@127.0.0.1:9/s ! appsink",
    'gst:rtspsrc user-id=robot user-pw="{}" ! appsink',
    "gst:( rtspsrc user-pw={} )",
)
ADDRESSES = st.builds(
    lambda form, secret: form.replace("{}", secret), st.sampled_from(FORMS), SECRETS
)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://user:pass@10.0.0.1/live", "rtsp://10.0.0.1/..."),
        ("rtsp://user:pass@10.0.0.1:554", "rtsp://10.0.0.1:554"),
        ("http://[fe80::1]:80/x?token=a", "http://[fe80::1]:80/..."),
        ("rtsp://ann:a/b@10.0.0.1/live", "rtsp://..."),
        ("rtsp://ann:1/b@10.0.0.1/live", "rtsp://..."),
        ("rtsp://ann:p@ss@10.0.0.1/a", "rtsp://10.0.0.1/..."),
        ("rtsp://ann:p w'\"@10.0.0.1/a", "rtsp://10.0.0.1/..."),
        ("gst:rtspsrc location=rtsp://a:b@c/d ! x", "gst:rtspsrc ..."),
        ("gst:( x )", "gst: ..."),
        ("rtsp:/ann:secret@10.0.0.1/live", HIDDEN),
        ("ann:secret@10.0.0.1/live", HIDDEN),
        ("file:///data/drive.mp4", "file:///data/drive.mp4"),
        ("ipc:///run/x.sock", "ipc:///run/x.sock"),
        ("tcp://0.0.0.0:5570", "tcp://0.0.0.0:5570"),
        ("tcp://*:5570", "tcp://*:5570"),
        ("/dev/video0", "/dev/video0"),
        ("photos/*.jpg", "photos/*.jpg"),
        ("drive.mp4", "drive.mp4"),
        ("demo", "demo"),
        ("0", "0"),
    ],
)
def test_of_an_address_scheme_host_and_port_are_shown(source: str, shown: str) -> None:
    assert redacted(source) == shown


def test_a_file_that_is_there_is_shown_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / "run=3@home.mp4"
    assert redacted(str(file)) == HIDDEN
    file.touch()
    assert redacted(str(file)) == str(file)


@settings(max_examples=500)
@given(ADDRESSES)
def test_no_part_of_a_secret_is_shown(address: str) -> None:
    assert MARK not in redacted(address)
    assert MARK not in value_shown(address)
    assert MARK not in value_shown({"source": [address]})
    for text in (f"{address} fails", f"({address!r})", str(Path(address))):
        assert MARK not in hidden(text, [address])
    for argument in (address, f"--source={address}", f"--set=camera.0.source={address!r}"):
        assert MARK not in hidden(argument, addresses_in(["run", argument]))


@settings(max_examples=60, deadline=None)
@given(ADDRESSES)
def test_no_command_shows_a_secret(address: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for key in ("source", "sorce", "name", "fps"):
            file = Path(folder) / f"{key}.toml"
            text = json.dumps(address, ensure_ascii=False)
            file.write_text(f"[[camera]]\n{key} = {text}\n", encoding="utf-8")
            done = run_in_process("config", "check", file)
            assert done.returncode == (0 if key == "source" else 2)
            assert MARK not in done.stdout + done.stderr
    for arguments in (
        ("run", "--set", address),
        ("run", "--set", f"wire.endpoint={address}"),
        ("run", "--set", f"camera.0.regions={address}"),
        ("run", "--set", f"camera.{address}.fps=3"),
        ("run", "--set", f"monitor.web={address}"),
        ("run", "--source", address, "--max-frames", address),
        ("run", "--source", *address.split()[:1], "--nothing"),
        ("run", f"--source={address}", *address.split()),
        ("run", "--config", address),
        ("label", address),
        ("report", address),
        ("recover", address),
    ):
        done = run_in_process(*arguments)
        assert done.returncode in (2, 3), (arguments, done)
        assert MARK not in done.stdout + done.stderr, arguments


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("secret", [f"a {MARK}", f"a'{MARK}\"b", f"a#/{MARK}?b", f"@{MARK}:1"])
def test_errors_recordings_and_logs_show_no_secret(form: str, secret: str) -> None:
    source = form.replace("{}", secret)
    with pytest.raises(SourceError) as caught:
        open_source(CameraConfig(source=source)).close()
    assert MARK not in str(caught.value)
    config = load_config(None, [], {"camera.0.source": source})
    assert MARK.encode() not in config_entry(config, 0, 0).data
    assert _logged(f"cannot open {source}", [source]).count(MARK) == 0
    with pytest.raises(ConfigError) as refused:
        load_config(None, [], {"camera.0.source": source, "camera.0.fps": source})
    assert MARK not in str(refused.value)


@contextlib.contextmanager
def _log(level: str, sources: list[str]) -> Iterator[io.StringIO]:
    """What is logged meanwhile, as the commands write it to stderr."""
    stream = io.StringIO()
    log = logging.getLogger()
    before, level_before = log.handlers[:], log.level
    set_up_logging(level, sources)
    handler = log.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    try:
        yield stream
    finally:
        log.handlers[:] = before
        log.setLevel(level_before)


def _logged(message: str, sources: list[str]) -> str:
    with _log("info", sources) as stream:
        try:
            raise ValueError(message)
        except ValueError:
            logging.getLogger("x").exception("%s", message)
    return stream.getvalue()


def test_what_the_http_client_says_about_an_answer_shows_no_secret() -> None:
    head = stream_head("multipart/x-mixed-replace")  # a type that needs a boundary, without one
    jpeg = encode_jpeg(np.zeros((8, 8, 3), np.uint8), 90)
    with RawServer(head + jpeg * 3) as server:
        source = f"{server.url}?pwd={MARK}"
        with _log("debug", [source]) as log:
            open_source(CameraConfig(source=source)).close()
    assert MARK not in log.getvalue()
    assert "Traceback" not in log.getvalue()


EVIL = "cup\x1b[2J\x1b]0;owned\x07\x9b1A\u202e\r\nforged [red]line"


def _has_control(text: str) -> bool:
    return any(ord(char) < 32 or 127 <= ord(char) < 160 or char == "\u202e" for char in text)


def test_a_log_line_is_one_line_that_moves_no_cursor() -> None:
    lines = _logged(EVIL, []).splitlines()
    assert not any(_has_control(line) for line in lines)
    assert "forged" in lines[0]
    assert lines[1].startswith("Traceback")


@pytest.mark.parametrize("command", ["recover", "report", "label"])
def test_names_of_files_in_errors_move_no_cursor(command: str, tmp_path: Path) -> None:
    name = EVIL.replace("\n", "").replace("/", "") + ".mcap"
    done = run_in_process(command, tmp_path / name)
    assert done.returncode != 0
    assert "owned" in done.stderr
    assert not any(_has_control(line) for line in (done.stdout + done.stderr).split("\n"))


def test_what_another_node_says_moves_no_cursor(
    capsys: pytest.CaptureFixture[str], evil_message: LabelsMessage, ipc: str
) -> None:
    subscriber = Subscriber(ipc)  # of no node
    for as_json in (False, True):
        _Lines(as_json).show(evil_message, Gap(0, 0, False), subscriber)
        line = capsys.readouterr().out.removesuffix("\n")
        assert not _has_control(line)
        assert "owned" in line
    subscriber.close()
    assert json.loads(to_json(evil_message))["labels"][0]["name"] == EVIL
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=300).print(_safe(EVIL), highlight=False)
    assert out.getvalue().count("\x1b") == 0
    assert "[red]" in out.getvalue()


@pytest.fixture
def evil_message() -> LabelsMessage:
    """A message whose label and camera have names that a terminal would obey."""
    message = LabelsMessage(
        node="node", camera=EVIL, session="0", seq=0, status=Status.STALLED, published_ns=1
    )
    return replace(message, status=Status.OK, labels=(Label(0, EVIL, 0.5),))
