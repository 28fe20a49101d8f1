"""Presence: whether the camera behind a source is there, at a fraction of the cost of opening the
source."""

import contextlib
import enum
import errno
import os
import selectors
import socket
import time
from typing import Protocol
from urllib.parse import urlsplit

from node.capture.sources.device import device_file
from node.config.redact import redacted
from node.config.schema import CameraConfig

_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
"""Schemes whose servers accept connections from several viewers, with their ports. A server of
`tcp` may accept a single connection, which a look would use up."""
_ANSWER_S = 2.0
"""Seconds until a connection is given up: the longest round trip of a network that is served."""
_RESOLVE_S = 5.0
"""Seconds between two questions to the name server."""
_MOST_ADDRESSES = 4
"""Addresses of one name that are tried."""


class Look(enum.Enum):
    """Result of one look at a camera.

    Attributes:
        THERE: an attempt to open the source may succeed.
        ABSENT: an attempt fails at once, and its error names the reason.
        SILENT: nothing answers; an attempt would only wait.
    """

    THERE = enum.auto()
    ABSENT = enum.auto()
    SILENT = enum.auto()


class Presence(Protocol):
    """The camera behind one source. Not thread-safe.

    Attributes:
        silence: what SILENT means for a person, as problem and fix.
    """

    silence: tuple[str, str]

    def look(self, timeout_s: float) -> Look:
        """Looks once; waits at most `timeout_s` for an answer, besides the name server's. Raises
        nothing."""
        ...

    def close(self) -> None:
        """Releases what earlier looks left open."""
        ...


def presence_of(config: CameraConfig) -> Presence | None:
    """Returns how to look for the camera of a source; None where only an attempt to open the source
    can find it: a GStreamer pipeline, a stream by UDP, a server behind a proxy."""
    if "://" not in config.source:
        is_device = config.source.isdecimal() or config.source.startswith("/dev/")
        return DevicePresence(config) if is_device else None
    try:
        parts = urlsplit(config.source)
        scheme, host = parts.scheme.lower(), parts.hostname
        port = parts.port or _PORTS.get(scheme)
    except ValueError:  # a malformed address, whose error the attempt names
        return None
    if host is None or port is None or scheme not in _PORTS:
        return None
    if scheme in ("http", "https") and _has_proxy(config.source):
        return None
    return ServerPresence(host, port, f"camera '{config.name}': {redacted(config.source)}")


def _has_proxy(url: str) -> bool:
    """FFmpeg and requests read the same variables of the environment."""
    import requests.utils  # Deferred: takes a tenth of a node's start.

    return bool(requests.utils.get_environ_proxies(url))


class DevicePresence:
    """A local camera: its device file exists, and this user may open it."""

    silence = ("", "")

    def __init__(self, config: CameraConfig) -> None:
        self._device = device_file(config)

    def look(self, timeout_s: float) -> Look:
        """As `Presence.look`."""
        return Look.THERE if os.access(self._device, os.R_OK | os.W_OK) else Look.ABSENT

    def close(self) -> None:
        """As `Presence.close`."""


class ServerPresence:
    """A server that accepts connections. Each look begins a connection to each address of the host,
    and the connections of earlier looks go on: so a look may be shorter than the network's round
    trip, and a host that comes back is found at the next look, not when the system repeats its
    request after seconds.

    Args:
        host: name or address.
        port: of the server.
        label: start of the message about silence.
    """

    def __init__(self, host: str, port: int, label: str) -> None:
        self.silence = (f"{label} does not answer", "check the host and the network")
        self._host = host
        self._port = port
        self._addresses: list[tuple[int, tuple[str, int]]] = []
        self._resolve_at_s = 0.0
        self._pending: dict[socket.socket, float] = {}

    def look(self, timeout_s: float) -> Look:
        """As `Presence.look`."""
        until_s = time.monotonic() + timeout_s
        self._resolve()
        if not self._addresses:
            return Look.ABSENT
        self._give_up(until_s - timeout_s - _ANSWER_S)
        newest: set[socket.socket] = set()
        codes: list[int] = []
        for family, address in self._addresses:
            self._connect(family, address, newest, codes)
        while True:
            answers = self._answers(max(0.0, until_s - time.monotonic()))
            codes += answers.values()
            newest -= answers.keys()
            if 0 in codes:
                self.close()
                return Look.THERE
            if not newest:
                return Look.ABSENT if errno.ECONNREFUSED in codes else Look.SILENT
            if time.monotonic() >= until_s:
                return Look.SILENT

    def close(self) -> None:
        """As `Presence.close`."""
        self._give_up(float("inf"))

    def _resolve(self) -> None:
        if time.monotonic() < self._resolve_at_s:
            return
        # A name server that is out of reach does not make the known addresses wrong.
        with contextlib.suppress(OSError, UnicodeError):
            infos = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = [(info[0], info[4]) for info in infos[:_MOST_ADDRESSES]]  # type: ignore[misc]
        self._resolve_at_s = time.monotonic() + _RESOLVE_S

    def _connect(
        self,
        family: int,
        address: tuple[str, int],
        newest: set[socket.socket],
        codes: list[int],
    ) -> None:
        """Begins a connection, which becomes one of `newest`, or fails with one of `codes`."""
        connection: socket.socket | None = None
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            code = connection.connect_ex(address)
        except (OSError, OverflowError) as error:
            code = getattr(error, "errno", None) or errno.EHOSTUNREACH
        if connection is not None and code == errno.EINPROGRESS:
            self._pending[connection] = time.monotonic()
            newest.add(connection)
            return
        if connection is not None:
            connection.close()
        codes.append(code)

    def _answers(self, timeout_s: float) -> dict[socket.socket, int]:
        """Waits for the first answers; returns their error codes, 0 for an accepted connection."""
        with selectors.PollSelector() as selector:
            for connection in self._pending:
                selector.register(connection, selectors.EVENT_WRITE)
            ready = [key.fileobj for key, _ in selector.select(timeout_s)]
        answers: dict[socket.socket, int] = {}
        for answered in ready:
            assert isinstance(answered, socket.socket)
            answers[answered] = answered.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            del self._pending[answered]
            answered.close()
        return answers

    def _give_up(self, before_s: float) -> None:
        """Closes the connections that were begun before a time."""
        for connection, began_s in list(self._pending.items()):
            if began_s < before_s:
                del self._pending[connection]
                connection.close()
