"""ControlServer: requests to a running node and their answers, and the thread that owns the socket.

ROUTER socket, one msgpack map a message. A malformed request gets an error answer.
"""

import contextlib
import logging
import os
import queue
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
import zmq

from node.errors import MessageError, PerceptionError
from node.process.log_limit import LimitedLog
from node.transport.connections import Allowance, Connection, Connections, longest_silent
from node.transport.curve import secured
from node.transport.owner_gate import owner_gate
from node.transport.socket_file import path_of
from node.transport.socket_thread import SocketThread, WakeUp, bind, not_served
from node.transport.unread import Unread
from perception_client.endpoint import keep_alive
from perception_client.messages.kinds import SCHEMA

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
"""Longest accepted request, in bytes."""
_HARD_LIMIT_BYTES = 1024 * 1024
"""Longest message that libzmq receives; it closes the connection of a longer one."""
MOST_OPEN = 32
"""Most open requests of one client."""
_BYTES_S = 8 * 1024 * 1024
ALLOWANCE = Allowance(messages_s=1e6, burst=1e6, bytes_s=_BYTES_S, burst_bytes=_BYTES_S)
"""Of one client. Requests have no limit: they are read one of each client in turn, no faster than
`_TAKEN_A_TURN` in `_REST_S`, and a client with more requests waits."""
_TAKEN_A_TURN = 8
_REST_S = 0.01
_LINGER_MS = 500
"""How long the last answers may take to be sent; the whole stop has 2 s."""
_POLL_MS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """The client of a request. name: of its connection. gone: done once the client has
    disconnected or withdrawn its request."""

    name: str
    gone: "Future[None]" = field(default_factory=Future)

    def leave(self) -> None:
        """Completes `gone`; a second call has no effect."""
        with contextlib.suppress(InvalidStateError):
            self.gone.set_result(None)


@dataclass(frozen=True, slots=True)
class Request:
    """A request. id: chosen by the client, returned with the answer."""

    id: int
    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    client: Client = field(default_factory=lambda: Client("nobody"), compare=False)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a request.

    settings: number of the settings in force. first_seq: by camera the number of the first message
    that the request applies to; empty where the request changed nothing. result: the rest of the
    answer.
    """

    settings: int
    first_seq: Mapping[str, int] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


Handler = Callable[[Request], "Future[Result]"]
"""Begins a request; quick. The call or the Future raises PerceptionError for a refusal."""


def decode_request(body: bytes) -> Request:
    """Decodes a request. Raises MessageError for anything else."""
    if len(body) > MAX_REQUEST_BYTES:
        raise MessageError(f"a request of {len(body)} bytes", fix=f"at most {MAX_REQUEST_BYTES}")
    try:
        content = msgpack.unpackb(body, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # msgpack raises ValueErrors and its own kinds; all mean this
        raise MessageError("a request is one msgpack map; this is something else") from error
    if not isinstance(content, dict):
        raise MessageError(f"a request is a map, this is {type(content).__name__}")
    number, command = content.get("id", 0), content.get("command")
    arguments = content.get("arguments", {})
    if type(number) is not int or not isinstance(command, str):
        raise MessageError("a request has an id (int) and a command (str)")
    if content.get("schema", SCHEMA) != SCHEMA:
        raise MessageError(f"a request of schema {content['schema']!r:.20}; this node has {SCHEMA}")
    if not isinstance(arguments, dict):
        raise MessageError("the arguments of a request are a map")
    return Request(number, command, arguments)


class ControlServer:
    """Answers requests on one endpoint, from the constructor on until `close`. A request of one
    client never holds up another client."""

    def __init__(
        self,
        endpoint: str,
        handle: Handler,
        keys: Path | None = None,
        *,
        insecure: bool = False,
    ) -> None:
        """Binds the endpoint. Raises EndpointError, ConfigError.

        keys: folder of keys, see `node.transport.curve`. Without keys, only processes of this
        process's user and of root are answered, unless the server is `insecure`.
        """
        self._endpoint = endpoint
        self._handle = handle
        self._keys = keys
        self._owner_only = keys is None and not insecure
        self._answers: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self._log = LimitedLog(log)
        self._clients: dict[Connection, Client] = {}
        self._open: defaultdict[Client, dict[_OpenRequest, Future[Result]]] = defaultdict(dict)
        self._wake_up = WakeUp()
        self._thread = SocketThread(
            "control",
            self._control,
            wake=self._wake_up.wake,
            refuse=lambda error: not_served(endpoint, error),
            on_failure=lambda error: log.error(
                "endpoint %s: control ended", endpoint, exc_info=error
            ),
        )
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Releases the endpoint. Open requests get no answer."""
        self._thread.close(timeout_s)
        self._wake_up.close()

    def _control(self) -> None:
        with contextlib.ExitStack() as stack:
            endpoint = self._endpoint
            if self._owner_only and endpoint.startswith("tcp://"):
                endpoint = stack.enter_context(owner_gate(endpoint))
            context: zmq.Context[Any] = zmq.Context()
            stack.callback(context.destroy, linger=0)  # of sockets that a failure left open
            router = context.socket(zmq.ROUTER)
            stack.callback(router.close)
            router.setsockopt(zmq.MAXMSGSIZE, _HARD_LIMIT_BYTES)
            router.setsockopt(zmq.LINGER, _LINGER_MS)
            router.setsockopt(zmq.RCVHWM, MOST_OPEN)
            router.setsockopt(zmq.SNDHWM, MOST_OPEN)
            keep_alive(router)
            connections = Connections(
                context, router, "control", ALLOWANCE, longest_silent, gone=self._forget
            )
            stack.callback(connections.close)
            with secured(context, router, self._keys, "control"):
                with (
                    _for_this_user(router, endpoint)
                    if self._owner_only
                    else contextlib.nullcontext()
                ):
                    stack.callback(bind(router, endpoint))
                self._thread.bound()
                self._unread = Unread(connections.takes_more)
                self._serve(router, connections)

    def _serve(self, router: "zmq.Socket[Any]", connections: Connections) -> None:
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(connections.events, zmq.POLLIN)
        poller.register(self._wake_up.reader, zmq.POLLIN)
        while not self._thread.closing.is_set():
            poller.poll(_POLL_MS)
            self._wake_up.drain()
            connections.look_after()
            more = self._take_some(router, connections)
            self._send_answers(router)
            if more:
                self._thread.closing.wait(_REST_S)
        self._send_answers(router)  # requests may end with the node, as the last step of a replay

    def _take_some(self, router: "zmq.Socket[Any]", connections: Connections) -> bool:
        """Reads a bounded number of requests; whether more may wait."""
        for _ in range(_TAKEN_A_TURN):
            try:
                parts = router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                connections.all_heard()
                return False
            connection = connections.heard(parts[-1])
            if connection is not None:
                connection.active = True
                if connection not in self._clients:
                    self._clients[connection] = Client(f"{self._endpoint}#{connection.number}")
                self._take(router, [part.bytes for part in parts], connection)
        return True

    def _forget(self, connection: Connection) -> None:
        """Withdraws the requests of a disconnected client that have not begun."""
        self._unread.forget(connection)
        client = self._clients.pop(connection, None)
        if client is not None:
            client.leave()
            for future in self._open.pop(client, {}).values():
                future.cancel()

    def _take(self, router: "zmq.Socket[Any]", parts: list[bytes], connection: Connection) -> None:
        """A request of a DEALER, [client, body], or of a REQ, [client, nothing, body]."""
        *envelope, body = parts
        number = 0
        client = self._clients[connection]
        try:
            if len(envelope) > 2 or envelope[1:] not in ([], [b""]):
                envelope = envelope[:1]
                raise MessageError(f"a request has one part, this has {len(parts) - 1}")
            request = decode_request(body)
            number = request.id
            if len(self._open[client]) >= MOST_OPEN:
                raise MessageError(f"{MOST_OPEN} requests of yours wait already", fix="ask again")
            future = self._handle(replace(request, client=client))
        except PerceptionError as error:
            _send(router, envelope, _refusal(number, str(error)))
            return
        except Exception as error:  # any error of a request leaves the other requests served
            self._log.warning("request", f"control: a request failed: {error!r}")
            _send(router, envelope, _refusal(number, _reason(error)))
            return
        opened = _OpenRequest(client, connection, tuple(envelope), number)
        self._open[client][opened] = future
        future.add_done_callback(lambda done: self._done(opened, done))

    def _done(self, request: "_OpenRequest", future: "Future[Result]") -> None:
        self._answers.put((request, future))
        self._wake_up.wake()

    def _send_answers(self, router: "zmq.Socket[Any]") -> None:
        while True:
            try:
                request, future = self._answers.get_nowait()
            except queue.Empty:
                return
            if request.client.gone.done():
                continue
            self._open[request.client].pop(request, None)
            body = msgpack.packb(_answer(request.number, future))
            if not self._unread.admit(request.connection, len(body)):
                why = "large answers of yours or others are not read yet; read yours, ask again"
                body = msgpack.packb(_refusal(request.number, why))
            _send_body(router, list(request.envelope), body)


@dataclass(frozen=True, slots=True, eq=False)
class _OpenRequest:
    """An open request. It does not refer to its Future, which refers to it: a reference cycle would
    keep the picture of each answer until the next garbage collection."""

    client: Client
    connection: Connection
    envelope: tuple[bytes, ...]
    number: int


_Done = tuple[_OpenRequest, "Future[Result]"]


@contextlib.contextmanager
def _for_this_user(router: "zmq.Socket[Any]", endpoint: str) -> Iterator[None]:
    """An ipc endpoint that is bound in this block admits processes of this user and of root only:
    by the mode 0600 of its file and, since the abstract namespace has no files, by their
    credentials. The umask applies to the whole process, so files that other threads create
    meanwhile are private too; it keeps the rights of the owner, without which a new folder could
    not be used."""
    for uid in {0, os.geteuid()}:
        router.setsockopt(zmq.IPC_FILTER_UID, uid)
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
    if (path := path_of(endpoint)) is not None:
        path.chmod(0o600)


def _answer(number: int, done: "Future[Result]") -> dict[str, Any]:
    if done.cancelled():
        return _refusal(number, "given up before it began; ask again")
    error = done.exception()
    if error is None:
        return {"schema": SCHEMA, "id": number, "ok": True, "error": None, **asdict(done.result())}
    return _refusal(number, _reason(error))


def _reason(error: BaseException) -> str:
    """The error of a request, for its client."""
    if isinstance(error, RecursionError):
        return "the arguments are nested too deeply"
    return str(error) if isinstance(error, PerceptionError | TimeoutError) else repr(error)


def _refusal(number: int, why: str) -> dict[str, Any]:
    return {
        "schema": SCHEMA, "id": number, "ok": False, "error": why, "settings": None,
        "first_seq": {}, "result": {},
    }  # fmt: skip


def _send(router: "zmq.Socket[Any]", envelope: list[bytes], answer: dict[str, Any]) -> None:
    _send_body(router, envelope, msgpack.packb(answer))


def _send_body(router: "zmq.Socket[Any]", envelope: list[bytes], body: bytes) -> None:
    with contextlib.suppress(zmq.Again):  # a client that does not read its answers loses them
        router.send_multipart([*envelope, body], zmq.NOBLOCK)
