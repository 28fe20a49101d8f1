"""Publisher: the thread that owns the XPUB socket, and everything that touches it."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from node.errors import EndpointError, PerceptionNodeError
from node.wire.codec import encode
from node.wire.endpoint import address_of, keep_alive, prepare
from node.wire.messages import Message, retained
from node.wire.outgoing import Observer, Outgoing, Probe, Sequencer
from node.wire.security import secured
from node.wire.socket_file import SocketFile, check_free, in_use

OUTBOX = 64
"""Messages between the threads that make them and the socket. The socket never blocks in live use,
so this fills only when the machine stands still."""
SEND_HIGH_WATER_MARK = 256
"""Messages kept for one slow subscriber before its newest are lost to it (about 0.2 MB)."""
LINGER_MS, _FOR_EVER = 100, -1
"""How long what was handed to the socket may take to get out of it once it is closed."""
RETAIN_PERIOD_S = 0.1
"""Retained messages go to all who subscribe to a topic, so at most this often, whoever joins."""
_JOINED, _LEFT = 1, 0


class Publisher:
    """Broadcasts messages on one endpoint.

    Live, a subscriber that does not keep up loses messages and costs nobody anything. With
    `lossless` its backpressure holds the sender instead, until it reads or goes. Binding happens
    in the constructor, which raises EndpointError.

    observer: called with each message after it was handed to the socket.
    keys: folder of keys, see `node.wire.security`; None for a socket without keys.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        lossless: bool = False,
        observer: Observer | None = None,
        keys: Path | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._lossless = lossless
        self._observer = observer
        self._keys = keys
        self._outbox: queue.Queue[Outgoing | Probe] = queue.Queue(OUTBOX)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._closing = threading.Event()
        self._finishing = threading.Event()
        self._give_up = threading.Event()
        self._newest: dict[bytes, dict[str, Message]] = {}
        self._retain_wanted: set[bytes] = set()
        self._retained_at: dict[bytes, float] = {}
        self._subscriptions = 0
        self._failure: Exception | None = None
        self._bound = False
        bound: queue.Queue[PerceptionNodeError | None] = queue.Queue()
        self._thread = threading.Thread(
            target=self._run, args=(bound,), name="publish", daemon=True
        )
        self._thread.start()
        error = bound.get()
        if error is not None:
            self._thread.join()
            raise error

    @property
    def subscriptions(self) -> int:
        """Topics subscribed to by somebody now."""
        return self._subscriptions

    def send(self, outgoing: Outgoing | Probe) -> None:
        """Hands a message to the publisher's thread; any thread may.

        Raises what ended that thread, should it have failed (an observer that cannot write).
        """
        while not self._closing.is_set():
            if self._failure is not None:
                raise self._failure
            try:
                self._outbox.put(outgoing, timeout=0.1)
            except queue.Full:
                continue
            self._wake()
            return

    def wait_for_subscriber(self, stop: threading.Event) -> None:
        """Returns when somebody subscribes, or the stop event is set."""
        while not self._subscriptions and not stop.wait(0.02):
            pass

    def finish(self, stop: threading.Event) -> None:
        """At the end of what is lossless: returns when all has left for its subscribers, however
        slowly they read, or the stop event is set. Raises what ended the publisher's thread."""
        self._finishing.set()
        self._closing.set()
        self._wake()
        while self._thread.is_alive() and not stop.is_set():
            self._thread.join(0.05)
        if self._failure is not None:
            raise self._failure

    def close(self, timeout_s: float = 1.0) -> None:
        """Sends what was taken, lets go of the endpoint; after `timeout_s` what is left is lost."""
        self._closing.set()
        self._wake()
        self._thread.join(timeout_s)
        self._give_up.set()
        self._thread.join(timeout_s)
        self._wake_reader.close()
        self._wake_writer.close()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # a full pipe wakes it just as well
            self._wake_writer.send(b"\0")

    def _run(self, bound: "queue.Queue[PerceptionNodeError | None]") -> None:
        try:
            self._publish(bound)
        except Exception as error:
            if self._bound:
                self._failure = error  # raised again where the next message is sent
            else:
                bound.put(not_served(self._endpoint, error))

    def _publish(self, bound: "queue.Queue[PerceptionNodeError | None]") -> None:
        with contextlib.ExitStack() as stack:
            context: zmq.Context[Any] = zmq.Context()
            stack.callback(context.term)
            xpub = context.socket(zmq.XPUB)
            stack.callback(self._let_go, xpub)
            xpub.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
            xpub.setsockopt(zmq.XPUB_VERBOSER, 1)  # each joiner is told, not only a topic's first
            xpub.setsockopt(zmq.XPUB_NODROP, int(self._lossless))
            keep_alive(xpub)
            xpub.setsockopt(zmq.MAXMSGSIZE, 1024)  # all that a subscriber may send: subscriptions
            with secured(context, xpub, self._keys, "labels"):
                stack.callback(bind(xpub, self._endpoint))
                self._bound = True
                bound.put(None)
                self._serve(xpub)

    def _let_go(self, xpub: "zmq.Socket[Any]") -> None:
        xpub.close(linger=_FOR_EVER if self._finishing.is_set() else LINGER_MS)

    def _serve(self, xpub: "zmq.Socket[Any]") -> None:
        sequencer = Sequencer()
        poller = zmq.Poller()
        poller.register(xpub, zmq.POLLIN)
        poller.register(self._wake_reader, zmq.POLLIN)
        while not (self._closing.is_set() and self._outbox.empty()) and not self._give_up.is_set():
            poller.poll(20 if self._retain_wanted else 1000)
            with contextlib.suppress(BlockingIOError):
                self._wake_reader.recv(4096)
            self._hear(xpub)
            self._retain(xpub)  # before what is newer
            while not self._give_up.is_set():
                try:
                    outgoing = self._outbox.get_nowait()
                except queue.Empty:
                    break
                if isinstance(outgoing, Probe):
                    sequencer.answer(outgoing)
                    continue
                message = sequencer.seal(outgoing)
                self._hand_over(xpub, message)
                self._keep(outgoing, message)
                if self._observer is not None:
                    self._observer(message)
            self._retain(xpub)

    def _keep(self, outgoing: Outgoing, message: Message) -> None:
        newest = self._newest.setdefault(outgoing.topic, {})
        newest.pop(outgoing.key, None)  # so that the order is that of the numbers
        if not outgoing.ends:
            newest[outgoing.key] = message
        if not outgoing.key:
            self._retain_wanted.discard(outgoing.topic)  # joiners have this one

    def _hand_over(self, xpub: "zmq.Socket[Any]", message: Message) -> None:
        parts = encode(message)
        while not self._give_up.is_set():
            try:
                xpub.send_multipart(parts, zmq.NOBLOCK)
            except zmq.Again:  # lossless only: a subscriber's pipe is full
                self._hear(xpub)
                self._give_up.wait(0.001)
                continue
            return

    def _hear(self, xpub: "zmq.Socket[Any]") -> None:
        """Reads who joined and left."""
        while xpub.poll(0, zmq.POLLIN):
            request = xpub.recv(zmq.NOBLOCK)
            if not request or request[0] not in (_JOINED, _LEFT):
                continue
            if request[0] == _LEFT:
                self._subscriptions = max(0, self._subscriptions - 1)
                continue
            self._subscriptions += 1
            prefix = request[1:]
            self._retain_wanted.update(t for t in self._newest if t.startswith(prefix))

    def _retain(self, xpub: "zmq.Socket[Any]") -> None:
        """Sends the newest message of the topics that somebody joined once more."""
        now = time.monotonic()
        for topic in tuple(self._retain_wanted):
            if now - self._retained_at.get(topic, -RETAIN_PERIOD_S) >= RETAIN_PERIOD_S:
                self._retain_wanted.discard(topic)
                self._retained_at[topic] = now
                for message in self._newest[topic].values():
                    self._hand_over(xpub, retained(message))


def bind(xpub: "zmq.Socket[Any]", endpoint: str) -> Callable[[], None]:
    """Binds, or raises EndpointError saying why not. Gives what removes the file of an ipc
    endpoint, to be called before the socket is closed."""
    check_free(endpoint)  # libzmq would remove whatever is there, and take it from its owner
    prepare(xpub, endpoint)
    try:
        xpub.bind(address_of(endpoint))
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE:
            raise EndpointError(in_use(endpoint)) from error
        raise EndpointError(
            f"endpoint {endpoint} cannot be bound: {error.strerror}; "
            "use an address of this computer, or a folder that this user may write to"
        ) from error
    file = SocketFile.of(endpoint)
    return file.remove if file is not None else lambda: None


def not_served(endpoint: str, error: Exception) -> PerceptionNodeError:
    """What to tell who asked for a socket that failed before it was bound."""
    if isinstance(error, PerceptionNodeError):
        return error
    told = EndpointError(
        f"endpoint {endpoint} cannot be served: {error!r}; "
        "check its address, its folder of keys and how many files may be open (ulimit -n)"
    )
    told.__cause__ = error
    return told
