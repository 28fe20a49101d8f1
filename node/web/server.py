"""WebServer: the live page and the metrics over HTTP, on a thread of its own. The server cannot
hold up the node: it reads published messages, and makes requests as any client does."""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import os
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from node import __version__
from node.errors import ConfigError, EndpointError, PerceptionError
from node.process.log_limit import LimitedLog, limit_library_logs
from node.transport.local_peer import LocalPeers
from node.transport.socket_thread import SocketThread
from node.web.access import IDLE_S, MOST_CONNECTIONS, Gate
from node.web.buttons import TAKEN, is_of_a_button
from node.web.live_state import LiveState
from node.web.metrics import CONTENT_TYPE, Metrics
from node.web.preview import Preview
from perception_client.endpoint import address_of
from perception_client.private_files import check_secret

log = logging.getLogger(__name__)

STATE_PERIOD_S = 0.25
MOST_VIEWERS = 8
MOST_REQUEST_BYTES = 64 * 1024
ANSWER_S = 35.0
PICTURE_S = 2.0
NICENESS = 10
COOKIE = "perception_token"
_PAGE = Path(__file__).parent / "static"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_LIBRARIES = ("aiohttp.server", "aiohttp.web", "aiohttp.internal", "aiohttp.websocket", "asyncio")
"""Loggers that write a stack trace for a malformed request."""

Command = Callable[[str, Mapping[str, Any], str], "Future[Mapping[str, Any]]"]
"""Carries out a request as the control socket does. Takes the command, its arguments and the name
of the connection; the Future has the answer. The call or the Future may raise PerceptionError;
cancelling the Future withdraws the request."""


class WebServer:
    """Serves from the constructor on until `close`. port: the bound port."""

    def __init__(
        self,
        address: str,
        live: LiveState,
        metrics: Metrics,
        preview: Preview,
        *,
        token: str | None,
        command: Command | None,
        hosts: Sequence[str] = (),
        insecure: bool = False,
    ) -> None:
        """Binds the address. Raises EndpointError.

        address: HOST:PORT. token: required of each request; None admits every client that reaches
        the address. command: carries out requests; None for a page that changes nothing. hosts:
        names by which browsers reach the page, besides its address and localhost. Without a token
        only processes of this process's user and of root may change something, unless the page is
        `insecure`.
        """
        host, _, port = address_of(f"tcp://{address}").removeprefix("tcp://").rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._hosts = frozenset(map(str.lower, hosts))
        self._live = live
        self._metrics = metrics
        self._preview = preview
        self._token = token
        self._command = command
        self._owner_only = token is None and not insecure
        self._viewers = 0
        self._gate: Gate | None = None
        self._log = LimitedLog(log)
        self._loop = asyncio.new_event_loop()
        self._closing: asyncio.Event | None = None
        self.port = self._port
        self._thread = SocketThread(
            "web",
            self._run,
            wake=self._wake,
            refuse=self._refusal,
            on_failure=lambda error: log.error("the page ended", exc_info=error),
        )
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Closes all connections."""
        self._thread.close(timeout_s)

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        if self._closing is not None:
            self._closing.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_default_executor(
            ThreadPoolExecutor(MOST_VIEWERS, "web-picture", initializer=_give_way)
        )
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        application = web.Application(middlewares=[self._guard], client_max_size=MOST_REQUEST_BYTES)
        for path in _FILES:
            application.router.add_get(path, self._file)
        application.router.add_get("/live", self._watch)
        application.router.add_get("/metrics", self._scrape)
        application.router.add_post("/control", self._control)
        limit_library_logs(*_LIBRARIES)
        runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=0.2,
            keepalive_timeout=IDLE_S,
            handler_cancellation=True,  # a client that has disconnected needs no answer
        )
        await runner.setup()
        try:
            assert runner.server is not None
            await self._listen(Gate(runner.server))
        finally:
            await runner.cleanup()

    async def _listen(self, gate: Gate) -> None:
        server = await asyncio.get_running_loop().create_server(
            gate, self._host, self._port, reuse_address=True, backlog=MOST_CONNECTIONS
        )
        self._gate = gate
        self.port = server.sockets[0].getsockname()[1]
        sweeping = asyncio.create_task(gate.look_after())
        try:
            self._thread.bound()
            assert self._closing is not None
            await self._closing.wait()
        finally:
            sweeping.cancel()
            server.close()

    def _refusal(self, error: Exception) -> PerceptionError:
        reason = error.strerror if isinstance(error, OSError) else None
        return EndpointError(
            f"monitor.web {self._host}:{self._port} cannot be bound: {reason or error}",
            fix="stop what serves there, or choose another address",
        )

    # Access.

    @web.middleware
    async def _guard(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        assert self._gate is not None
        self._gate.working(request.transport)
        try:
            return await self._answer(request, handler)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as error:  # any error of a request costs the answer to that request alone
            self._log.warning("request", f"page: {request.method} {request.path!r:.60}: {error!r}")
            return web.Response(status=500, text="this request failed; the node's log says why\n")
        finally:
            self._gate.idle(request.transport)

    async def _answer(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        if not self._names_this_host(request):
            return web.Response(
                status=403,
                text="this name is not the node's; use its address, or list the name in "
                "monitor.hosts\n",
            )
        query_token = request.query.get("token")
        if self._token is not None and not self._has_token(request, query_token):
            return web.Response(
                status=401,
                text="a token is needed: add ?token=TOKEN to the address, or send "
                "Authorization: Bearer TOKEN\n",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if request.path == "/" and query_token is not None:
            # Relative, and without a path: a proxy may serve the page under a path of its own.
            answer: web.StreamResponse = web.Response(status=303, headers={"Location": "./"})
            answer.set_cookie(COOKIE, query_token, path="", httponly=True, samesite="Strict")
        else:
            answer = await handler(request)
        if not answer.prepared:
            answer.headers.update(_HEADERS)
        return answer

    def _has_token(self, request: web.Request, query_token: str | None) -> bool:
        assert self._token is not None
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        tokens = [token for token in (query_token, bearer, request.cookies.get(COOKIE)) if token]
        return any(
            hmac.compare_digest(token.encode(errors="surrogateescape"), self._token.encode())
            for token in tokens
        )

    def _names_this_host(self, request: web.Request) -> bool:
        """Whether a request names this host. Refuses foreign names that resolve to this address
        (DNS rebinding), and requests that the page of another origin makes in a browser. A proxy
        may replace the name of the host, but not that of the origin."""
        host = request.headers.get("Host", "")
        name = _name_in(host)
        known = name in ("localhost", self._host.lower(), *self._hosts) or _is_address(name)
        if self._token is None and not known:
            return False
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        of_page = origin.partition("://")[2]
        return of_page == host or _name_in(of_page) in self._hosts

    # Content.

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name, kind = _FILES[request.path]
        return web.Response(body=(_PAGE / name).read_bytes(), content_type=kind, charset="utf-8")

    async def _scrape(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _control(self, request: web.Request) -> web.StreamResponse:
        if self._command is None:
            return web.json_response(
                {"error": "the page may change nothing; set monitor.allow_control = true"},
                status=403,
            )
        if self._owner_only and not _is_of_this_user(request):
            return web.json_response(
                {"error": "only the node's own user may change something; set monitor.token_file"},
                status=403,
            )
        assert self._gate is not None
        self._gate.idle(request.transport)  # until all of it is here
        try:
            content = await request.json()
            name, arguments = content["command"], content.get("arguments", {})
        except _UNREADABLE:
            return web.json_response({"error": "a JSON object with command, arguments"}, status=400)
        self._gate.working(request.transport)
        if request.content_type != "application/json" or not isinstance(arguments, dict):
            return web.json_response({"error": "arguments are a JSON object"}, status=400)
        if not is_of_a_button(str(name), arguments):
            return web.json_response(
                {"error": f"the page takes {TAKEN}; ask the control socket for more"}, status=403
            )
        try:
            answer = await asyncio.wait_for(
                asyncio.wrap_future(self._command(str(name), arguments, _asker(request))), ANSWER_S
            )
        except PerceptionError as error:
            return web.json_response({"error": str(error)}, status=409)
        except TimeoutError:
            return web.json_response({"error": "no answer in time"}, status=504)
        if isinstance(jpeg := answer.get("jpeg"), bytes):
            return web.Response(body=jpeg, content_type="image/jpeg")
        return web.json_response(answer)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        if self._viewers >= MOST_VIEWERS:
            return web.Response(status=503, text=f"{MOST_VIEWERS} viewers are connected already\n")
        socket = web.WebSocketResponse(
            heartbeat=5.0,
            max_msg_size=4096,
            compress=False,  # JPEG does not become smaller, and each picture would be tried
        )
        await socket.prepare(request)
        assert self._gate is not None
        self._gate.working(request.transport, endless=True)
        self._viewers += 1
        cameras: set[str] = set()
        tasks = [
            asyncio.create_task(self._send_states(socket)),
            asyncio.create_task(self._send_pictures(socket, cameras)),
            asyncio.create_task(self._until_closing(socket)),
        ]
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    cameras.clear()
                    cameras.update(_cameras_in(message.data))
        finally:
            self._viewers -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return socket

    async def _until_closing(self, socket: web.WebSocketResponse) -> None:
        assert self._closing is not None
        await self._closing.wait()
        await socket.close(code=WSCloseCode.GOING_AWAY)

    async def _send_states(self, socket: web.WebSocketResponse) -> None:
        while True:
            content = self._live.content()
            content["allow_control"] = self._command is not None
            content["version"] = __version__
            await socket.send_str(json.dumps(content))
            await asyncio.sleep(STATE_PERIOD_S)

    async def _send_pictures(self, socket: web.WebSocketResponse, cameras: set[str]) -> None:
        """Sends pictures as fast as this viewer reads, up to the configured rate."""
        loop = asyncio.get_running_loop()
        shown: dict[str, float] = {}
        while True:
            due = loop.time() + self._preview.period_s
            for camera in sorted(cameras):
                picture = await asyncio.to_thread(self._preview.picture, camera, PICTURE_S)
                if picture is None or shown.get(camera) == picture.made_at:
                    continue
                shown[camera] = picture.made_at
                head = json.dumps(picture.content).encode()
                await socket.send_bytes(struct.pack(">I", len(head)) + head + picture.jpeg)
            await asyncio.sleep(max(due - loop.time(), 0.01))


def _is_of_this_user(request: web.Request) -> bool:
    if request.transport is None:
        return False
    return LocalPeers().uid(request.transport.get_extra_info("socket")) in (0, os.geteuid())


def _give_way() -> None:
    """Gives the inference priority over this thread."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def read_token(file: Path) -> str:
    """The token in a file: at least 16 characters, in a file that no other user can read or change.
    Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"monitor.token_file {file} cannot be read ({error})",
            fix=f"make one: (umask 077; openssl rand -hex 32 > {file})",
        ) from error
    if len(text) < 16:
        raise ConfigError(f"monitor.token_file {file}: {len(text)} characters", fix="at least 16")
    try:
        check_secret(file)
    except ConfigError as error:
        raise ConfigError(f"monitor.token_file {error}") from error
    return text


def _cameras_in(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return []
    names = content.get("pictures") if isinstance(content, dict) else None
    return [name for name in names if isinstance(name, str)][:64] if isinstance(names, list) else []


_UNREADABLE = (
    ValueError, TypeError, AttributeError, LookupError, RecursionError, web.RequestPayloadError,
)  # fmt: skip
"""Errors of a body that is not JSON of the right shape: wrong encoding, broken compression, nesting
without end."""


def _asker(request: web.Request) -> str:
    """Name of a connection, by which the limits of the control requests count."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return f"page {peer}"


def _name_in(host: str) -> str:
    """The name in a host with an optional port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
