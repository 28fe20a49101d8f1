"""Python processes that begin with torch and the node imported: a server imports both once, and
each process is a fork of the server. A real process in all else (its own memory, signals, streams
and exit code), started in a tenth of the time. The server has one thread, so that a fork copies no
lock that another thread holds."""

import atexit
import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MOST_BYTES = 1 << 17
_PRELOADED = (
    "node.cli.standard_streams", "node.cli.run", "node.cli.record", "node.cli.replay",
    "node.cli.label", "node.cli.watch", "node.cli.bench", "node.pipeline.live",
    "node.perception.perceiver", "node.perception.openvino_import", "node.replay.run",
    "node.web.server", "cv2", "av", "torch",
)  # fmt: skip
_server: socket.socket | None = None
"""This process's end of the socket to the server; of one server for all that it forked."""


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` of a Python command (`-m module`, `-c code`, or a script). With
    options beyond streams, folder, environment and session the process starts cold."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        (_, _, cwd, env, _, _, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
         *_, start_new_session, _) = rest  # fmt: skip
        words = [] if isinstance(args, str | bytes) else [os.fsdecode(word) for word in args]
        if words[:1] != [sys.executable] or preexec_fn is not None or shell:
            super()._execute_child(args, executable, preexec_fn, *rest)  # type: ignore[misc]
            return
        self._exited, theirs = socket.socketpair()
        request = {
            "words": words[1:], "folder": os.fsdecode(cwd or os.getcwd()),
            "environment": {os.fsdecode(k): os.fsdecode(v) for k, v in (env or os.environ).items()},
            "session": bool(start_new_session),
        }  # fmt: skip
        streams = [0 if p2cread < 0 else p2cread, 1 if c2pwrite < 0 else c2pwrite,
                   2 if errwrite < 0 else errwrite]  # fmt: skip
        server = _server_of_all()
        with theirs:
            fds = [*streams, theirs.fileno(), server.fileno()]
            socket.send_fds(server, [json.dumps(request).encode()], fds)
        self._close_pipe_fds(  # type: ignore[attr-defined]
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        )
        answer = self._exited.recv(64)
        if not answer:
            raise ChildProcessError("the server of warm processes has ended; stderr has its reason")
        self.pid = int(answer)
        self._child_created = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not hasattr(self, "_exited"):
            return super()._try_wait(wait_flags)  # type: ignore[misc,no-any-return]
        waits_s = 0 if wait_flags & os.WNOHANG else None
        if not select.select([self._exited], [], [], waits_s)[0]:
            return 0, 0
        status = int(self._exited.recv(64))
        self._exited.close()
        return self.pid, status

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if not hasattr(self, "_exited"):
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc,no-any-return]
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


def run(
    words: Sequence[object], timeout_s: float, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a Python command in a folder, with its output as text."""
    with Popen(
        [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=folder,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _server_of_all() -> socket.socket:
    global _server
    if _server is None:
        _server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                cwd=ROOT, stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/client:{ROOT}/tests"},
            )  # fmt: skip
    return _server


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request; returns it in the fork, and None in the server when all who could
    ask have ended."""
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _MOST_BYTES, 5)
        if not message:
            return None
        if os.fork() == 0:  # waits for the process, so that the server need not
            pid = os.fork()
            if pid == 0:
                return _become(json.loads(message), fds)
            exited = socket.socket(fileno=fds[3])
            exited.sendall(str(pid).encode())
            for fd in (*fds[:3], fds[4]):
                os.close(fd)
            _, status = os.waitpid(pid, 0)
            exited.sendall(str(status).encode())
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _become(request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    global _server
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    for fd in fds[:4]:
        os.close(fd)
    _server = socket.socket(fileno=fds[4])
    if request["session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request


def _main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for name in _PRELOADED:
        __import__(name)
    # OpenBLAS ends its threads before a fork by itself.
    assert threading.active_count() == 1, f"a fork would lose {threading.enumerate()}"
    gc.freeze()  # a collection in a fork would copy all pages of what was imported
    request = _serve(requests)
    if request is None:
        return
    requests.close()
    try:
        _run(request)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the end of all that torch has imported takes seconds


def _run(request: dict[str, Any]) -> None:
    first, *rest = request["words"]
    if first == "-m":
        sys.argv, sys.path[0] = rest, os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    subprocess.Popen = Popen  # type: ignore[misc]  # what a script starts is warm too
    if first == "-c":
        sys.argv, sys.path[0] = [first, *rest[1:]], os.getcwd()
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).absolute().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    from support.warm import _main as main  # the module that others import, with its state

    main()
