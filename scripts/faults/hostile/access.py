"""Attacks by other users of the node's computer, by whoever reaches its page, and by what a
configuration names: sockets, pages, files and passwords."""

import contextlib
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from attack import ROOT, Attack, Budget, Outcome

from node.cli import command_line
from node.diagnostics.doctor import endpoint_finding
from node.transport.control_server import ControlServer, Request, Result
from node.web.live_state import LiveState
from node.web.metrics import Metrics
from node.web.preview import Preview
from node.web.server import WebServer
from perception_client.subscriber import Control

STRANGER = 65534
"""A user id that is not the node's."""
SECRET = "Geh7eim"
ADDRESSES = tuple(
    form.replace("*", f"{before}{SECRET}{after}")
    for form in (
        "rtsp://robot:*@127.0.0.1:9/s",
        "http://127.0.0.1:9/x.cgi?loginuse=robot&loginpas=*",
        "rtsp://127.0.0.1:9/user=robot_password=*_channel=1_stream=0.sdp?real_stream",
        "http://127.0.0.1:9/x?pw=*&psw=*&sig=*&jwt=*&cookies=*",
        "rtsp:/robot:*@127.0.0.1:9/s",
        "robot:*@127.0.0.1:9/s",
        "gst:rtspsrc location=rtsp://127.0.0.1:9/s user-id=robot user-pw=* ! appsink",
    )
    for before, after in (("", ""), ("a ", ""), ("a'", ""), ('a"', "b"), ("a#", "/b?"), ("@", "@"))
)
COMMANDS: tuple[Callable[[str], tuple[str, ...]], ...] = (
    lambda address: ("run", "--source", address, "--max-frames", address),
    lambda address: ("run", "--set", address),
    lambda address: ("run", "--set", f"camera.0.sorce={address!r}"),
    lambda address: ("run", "--set", f"wire.endpoint={address}"),
    lambda address: ("run", "--source", *address.split(" ")),
    lambda address: ("record", "--source", address, "--set", "model.top_k=0"),
    lambda address: ("label", address),
    lambda address: ("report", address),
    lambda address: ("export", "jsonl", address),
    lambda address: ("watch", "--endpoint", address, "--timeout", "0.1"),
)
_ASK = """
import encodings.idna, os, sys
from perception_client.subscriber import Control, NoAnswerError
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({user}); os.setuid({user})
with Control({endpoint!r}, timeout_s={seconds}) as control:
    for command in ("pause", "model", "record"):
        try:
            control.ask(command, timeout_s={seconds} / 3)
            print("answered")
        except NoAnswerError:
            pass
"""
_FLOOD = """
import contextlib, os, socket, time
os.setgroups([]); os.setgid({user}); os.setuid({user})
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    with contextlib.suppress(OSError), socket.socket() as one:
        one.settimeout(0.2)
        one.connect(("127.0.0.1", {port}))
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _python(code: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=ROOT,
    )  # fmt: skip


@contextlib.contextmanager
def _controlled(endpoint: str, commands: list[str]) -> Iterator[None]:
    def handle(request: Request) -> "Future[Result]":
        commands.append(request.command)
        answer: Future[Result] = Future()
        answer.set_result(Result(0))
        return answer

    server = ControlServer(endpoint, handle)
    try:
        yield
    finally:
        server.close()


def another_user(budget: Budget) -> Outcome:
    """A process of another user asks the control socket, and floods it with connections while the
    node's own user asks."""
    if os.geteuid() != 0:
        return Outcome("nothing: only root can start a process of another user")
    port = _free_port()
    budget.folder.chmod(0o755)
    endpoints = (f"tcp://127.0.0.1:{port}", f"ipc://{budget.folder}/c", f"ipc://@c{port}")
    commands: list[str] = []
    wrong: list[str] = []
    slowest_s, requests = 0.0, 0
    seconds = min(budget.seconds, 3.0)
    with contextlib.ExitStack() as stack:
        for endpoint in endpoints:
            stack.enter_context(_controlled(endpoint, commands))
        strangers = [
            _python(_ASK.format(user=STRANGER, endpoint=endpoint, seconds=0.6))
            for endpoint in endpoints
        ]
        for endpoint, process in zip(endpoints, strangers, strict=True):
            output, trouble = process.communicate(timeout=60)
            if output or process.returncode:
                wrong.append(f"{endpoint}: {output or trouble.strip()[-200:]}")
        unwanted = len(commands)
        flood = _python(_FLOOD.format(user=STRANGER, port=port, seconds=seconds))
        with Control(endpoints[0], timeout_s=5.0) as control:
            while flood.poll() is None:
                began = time.monotonic()
                control.ask("status")
                slowest_s = max(slowest_s, time.monotonic() - began)
                requests += 1
        if flood.wait():
            wrong.append(f"the flood failed: {flood.communicate()[1].strip()[-200:]}")
    if unwanted:
        wrong.append(f"{unwanted} commands of another user were carried out: {commands[:5]}")
    return Outcome(
        f"uid {STRANGER} sent 3 commands to each of "
        f"{', '.join(endpoint[:6] for endpoint in endpoints)}, then "
        f"connected for {seconds:g} s while the node's user asked {requests} times",
        tuple(wrong),
        {"commands_run": unwanted, "slowest_answer_s": slowest_s},
    )


def page_commands(budget: Budget) -> Outcome:
    """Whoever reaches the page's port sends commands that none of its buttons sends."""
    carried_out: list[tuple[str, Mapping[str, Any]]] = []

    def command(
        name: str, arguments: Mapping[str, Any], client: str
    ) -> "Future[Mapping[str, Any]]":
        carried_out.append((name, arguments))
        answer: Future[Mapping[str, Any]] = Future()
        answer.set_result({})
        return answer

    live = LiveState(["front"])
    server = WebServer(
        "127.0.0.1:0", live, Metrics(live), Preview(lambda camera: Future(), 1.0, 64),
        token=None, command=command,
    )  # fmt: skip
    chooser = random.Random(7)
    wrong: list[str] = []
    sent = 0
    end = time.monotonic() + min(budget.seconds, 3.0)
    try:
        while time.monotonic() < end and sent < 5000:
            name, arguments = _unwanted(chooser)
            status = _post(server.port, {"command": name, "arguments": arguments})
            sent += 1
            if status not in (400, 403):
                wrong.append(f"{name} {arguments}: HTTP {status}")
        pause_status = _post(server.port, {"command": "pause", "arguments": {}})
    finally:
        server.close()
    unwanted = [request for request in carried_out if request != ("pause", {})]
    if pause_status != 200:
        wrong.append(f"the pause button got HTTP {pause_status}")
    return Outcome(
        f"{sent} commands that no button sends, posted to /control",
        tuple(wrong[:5]),
        {"commands_run": len(unwanted)},
    )


def _unwanted(chooser: random.Random) -> tuple[object, object]:
    value = chooser.choice((1, "x", None, [], {}, True, "../x.onnx", {"detect.score": "0.5"}))
    return chooser.choice(
        (
            ("model", {"name": "resnet18"}),
            ("model", {"name": "/tmp/evil.pt2", "weights": value}),
            ("set", {"settings": {"detect.score": 0.5, "model.top_k": 1}}),
            ("set", {"settings": {"detect.score": value if value != 1 else "1"}}),
            ("set", {"settings": value}),
            ("snapshot", {"camera": "front", "quality": 100}),
            ("record", {"action": value}),
            ("record", {"action": "dump"}),
            ("pause", {"camera": value}),
            (value, {}),
            (["pause"], {}),
        )
    )


def _post(port: int, body: object) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/control", json.dumps(body), headers)
        return connection.getresponse().status
    finally:
        connection.close()


def sockets_over_files(budget: Budget) -> Outcome:
    """Endpoints are given the paths of files, links, folders and pipes."""
    made: list[tuple[Path, bytes | None]] = []
    for number, kind in enumerate(("file", "link", "folder", "fifo")):
        path = budget.folder / f"{number}"
        behind = budget.folder / f"{number}.behind"
        behind.write_bytes(b"precious")
        made.append((behind, b"precious"))
        if kind == "file":
            path.write_bytes(b"precious")
        elif kind == "link":
            path.symlink_to(behind)
        elif kind == "folder":
            path.mkdir()
        else:
            os.mkfifo(path)
        made.append((path, b"precious" if kind == "file" else None))
    before = {path: path.lstat() for path, _ in made}
    wrong = []
    tried = 0
    for path, _ in made:
        endpoint = f"ipc://{path}"
        code, output = _told(("run", "--source", "demo", "--endpoint", endpoint))
        finding = endpoint_finding("endpoint", endpoint)
        tried += 2
        for verdict, text in ((code == 2, output), (finding.verdict == "wrong", finding.found)):
            if not verdict or "exists and is no socket" not in text:
                wrong.append(f"{endpoint}: {text[-200:]}")
    harmed = sum(
        not os.path.lexists(path)
        or (path.lstat().st_ino, path.lstat().st_mode) != (stat.st_ino, stat.st_mode)
        or (content is not None and path.read_bytes() != content)
        for (path, content), stat in zip(made, before.values(), strict=True)
    )
    left = {path.name for path in budget.folder.iterdir()} - {path.name for path, _ in made}
    if harmed or left:
        wrong.append(f"{harmed} files were harmed, {sorted(left)} left behind")
    return Outcome(
        f"run and doctor, {tried} times, with the path of something else as endpoint",
        tuple(wrong[:5]),
        {"files_harmed": harmed},
    )


def passwords(budget: Budget) -> Outcome:
    """Addresses with passwords in every form, given to every command that could print them."""
    shown: list[str] = []
    tried = 0
    chooser = random.Random(3)
    pairs = [(command, address) for command in COMMANDS for address in ADDRESSES]
    chooser.shuffle(pairs)
    end = time.monotonic() + budget.seconds
    for make, address in pairs:
        if time.monotonic() > end:
            break
        file = budget.folder / "node.toml"
        file.write_text(f"[[camera]]\nsource = {json.dumps(address)}\n")
        for arguments in (make(address), ("config", "check", str(file))):
            _, output = _told(arguments)
            tried += 1
            if SECRET in output:
                shown.append(" ".join(arguments))
    return Outcome(
        f"{tried} commands with {len(ADDRESSES)} addresses",
        tuple(f"shows its password: {command}" for command in shown[:5]),
        {"secrets_shown": len(shown)},
    )


def _told(arguments: tuple[str, ...]) -> tuple[int, str]:
    """The exit code of a command in this process, and all that it said."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = command_line(arguments)
    return code, out.getvalue()


ATTACKS = (
    Attack("another user asks the control socket", another_user),
    Attack("commands that no button of the page sends", page_commands),
    Attack("an endpoint over somebody's file", sockets_over_files),
    Attack("passwords of stream addresses", passwords),
)
