"""The thread that owns a socket: its bind, its failure and its end."""

import select
import threading

import pytest

from node.errors import EndpointError
from node.transport.socket_thread import SocketThread, WakeUp, not_served

WAIT_S = 10.0


class Server:
    """A server that binds and serves as the test configures it, and records reported errors."""

    def __init__(self, *, bind_error: Exception | None = None) -> None:
        self.bind_error = bind_error
        self.serve_error: Exception | None = None
        self.reported: list[Exception] = []
        self.wake_up = WakeUp()
        self.thread = SocketThread(
            "serve",
            self._serve,
            wake=self.wake_up.wake,
            refuse=lambda error: not_served("tcp://127.0.0.1:1", error),
            on_failure=self.reported.append,
        )

    def fail(self, error: Exception) -> None:
        self.serve_error = error
        self.wake_up.wake()
        self.thread.join(WAIT_S)

    def _serve(self) -> None:
        if self.bind_error is not None:
            raise self.bind_error
        self.thread.bound()
        while not self.thread.closing.is_set():
            select.select([self.wake_up.reader], [], [])  # without a timeout: a wake-up ends it
            self.wake_up.drain()
            if self.serve_error is not None:
                raise self.serve_error


def test_a_server_that_is_closed_ends_its_wait() -> None:
    server = Server()
    server.thread.start()
    assert server.thread.is_alive
    server.thread.close(WAIT_S)
    assert not server.thread.is_alive
    assert (server.thread.failure, server.reported) == (None, [])
    server.wake_up.close()
    server.wake_up.wake()
    server.thread.close(WAIT_S)


def test_a_bind_that_fails_is_raised_to_the_caller_and_leaves_no_thread() -> None:
    server = Server(bind_error=EndpointError("in use"))
    with pytest.raises(EndpointError, match=r"^in use$"):
        server.thread.start()
    assert not server.thread.is_alive
    server = Server(bind_error=OSError(24, "Too many open files"))
    with pytest.raises(EndpointError, match=r"cannot be served.*Too many open files"):
        server.thread.start()
    assert (server.thread.failure, server.reported) == (None, [])


def test_an_error_after_the_bind_is_kept_and_reported() -> None:
    server = Server()
    server.thread.start()
    error = ValueError("a message that cannot be sent")
    server.fail(error)
    assert server.thread.failure is error
    assert server.reported == [error]


def test_more_wake_ups_than_the_pipe_holds_block_nobody() -> None:
    wake_up = WakeUp()
    waker = threading.Thread(target=lambda: [wake_up.wake() for _ in range(100_000)], daemon=True)
    waker.start()
    waker.join(WAIT_S)
    assert not waker.is_alive()
    wake_up.close()
