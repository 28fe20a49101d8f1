"""SocketThread: a thread that owns a socket, from the bind to the close, the same for each server.

A ZeroMQ socket must stay on one thread, so the thread binds as well. The constructor of a server
has to raise what goes wrong with the bind: `start` waits for `bound`. Rejected: a bind on the
caller's thread with a hand-over of the socket, since libzmq forbids it without a full fence, and
asyncio servers belong to their loop.
"""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

import zmq

from node.errors import EndpointError, PerceptionError
from node.transport.socket_file import SocketFile, check_free, in_use
from perception_client.endpoint import address_of, prepare


class WakeUp:
    """A pipe that ends the `poll` of the thread that owns a socket."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)

    def wake(self) -> None:
        """Ends the current or the next poll of `reader`. Any thread; never blocks; without effect
        after `close`."""
        with contextlib.suppress(BlockingIOError, OSError):  # a full pipe wakes just as well
            self._writer.send(b"\0")

    def drain(self) -> None:
        """Takes the wake-ups that have come. On the thread that polls."""
        with contextlib.suppress(BlockingIOError):
            self.reader.recv(4096)

    def close(self) -> None:
        """Once the thread that polls has ended."""
        self.reader.close()
        self._writer.close()


class SocketThread:
    """Runs `serve` on a daemon thread.

    closing: set when `serve` has to return. failure: the error that ended `serve` after its bind,
    else None.
    """

    def __init__(
        self,
        name: str,
        serve: Callable[[], None],
        *,
        wake: Callable[[], None],
        refuse: Callable[[Exception], PerceptionError],
        on_failure: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        """name: of the thread. serve: binds, calls `bound`, and serves until `closing`. wake: makes
        `serve` check `closing`. refuse: makes the error that `start` raises from an error of the
        bind. on_failure: called on the thread with an error after the bind."""
        self._serve = serve
        self._wake = wake
        self._refuse = refuse
        self._on_failure = on_failure
        self._bound: queue.Queue[PerceptionError | None] = queue.Queue()
        self._is_bound = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.closing = threading.Event()
        self.failure: Exception | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Returns when the socket is bound. Raises PerceptionError when it cannot be; the thread
        has ended then."""
        self._thread.start()
        error = self._bound.get()
        if error is not None:
            self._thread.join()
            raise error

    def bound(self) -> None:
        """For `serve`: the socket is bound."""
        self._is_bound = True
        self._bound.put(None)

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the thread."""
        self._thread.join(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Ends `serve` and waits for the end of the thread; again does nothing."""
        self.closing.set()
        self._wake()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            if self._is_bound:
                self.failure = error
                self._on_failure(error)
            else:
                self._bound.put(self._refuse(error))


def bind(server: "zmq.Socket[Any]", endpoint: str) -> Callable[[], None]:
    """Binds a ZeroMQ socket. Returns what removes the file of an ipc endpoint, to be called before
    the socket is closed. Raises EndpointError with the reason."""
    check_free(endpoint)  # libzmq would remove the file of another process, and take its endpoint
    prepare(server, endpoint)
    try:
        server.bind(address_of(endpoint))
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise in_use(endpoint) from error
        raise EndpointError(
            f"endpoint {endpoint} cannot be bound: {error.strerror}",
            fix="use an address of this computer, or a folder that this user may write to",
        ) from error
    file = SocketFile.of(endpoint)
    return file.remove if file is not None else lambda: None


def not_served(endpoint: str, error: Exception) -> PerceptionError:
    """The error of an endpoint whose socket failed before it was bound."""
    if isinstance(error, PerceptionError):
        return error
    refusal = EndpointError(
        f"endpoint {endpoint} cannot be served: {error!r}",
        fix="check its address, its folder of keys and how many files may be open (ulimit -n)",
    )
    refusal.__cause__ = error
    return refusal
