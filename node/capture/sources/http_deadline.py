"""DeadlineAdapter: bounds the time for the head of an answer. The timeout of requests bounds each
reception only: a server that sends a byte a second would hold a request without end."""

import contextlib
import socket
import threading
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.poolmanager import PoolManager, ProxyManager

_SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
]
"""A camera that lost its power sends no end of its connection. Once it runs again it answers these
probes, one a second, with a reset, long before the timeout of a read."""


class _Deadline:
    """Shuts a socket down unless the block ends in time; then the block raises TimeoutError.

    Args:
        connection: may be None, which is never shut down.
        seconds: None for no limit.
    """

    def __init__(self, connection: socket.socket | None, seconds: float | None) -> None:
        self._connection = connection
        self._timer = threading.Timer(seconds or 0.0, self._shut_down)
        self._timer.daemon = True
        self._is_limited = bool(seconds) and connection is not None
        self._has_passed = False

    def __enter__(self) -> None:
        if self._is_limited:
            self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        # A head that ends early counts as whole for http.client.
        if self._has_passed:
            raise TimeoutError

    def _shut_down(self) -> None:
        self._has_passed = True
        assert self._connection is not None
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class _HttpConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _Deadline(self.sock, self.timeout):
            return super().getresponse()


class _HttpsConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        with _Deadline(self.sock, self.timeout):
            return super().getresponse()


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


class DeadlineAdapter(HTTPAdapter):
    """Limits the head of each answer to the read timeout of its request."""

    def init_poolmanager(self, *arguments: Any, **settings: Any) -> None:
        """As in `HTTPAdapter`."""
        super().init_poolmanager(*arguments, socket_options=_SOCKET_OPTIONS, **settings)
        _limit(self.poolmanager)

    def proxy_manager_for(self, *arguments: Any, **settings: Any) -> ProxyManager:
        """As in `HTTPAdapter`."""
        manager: ProxyManager = super().proxy_manager_for(*arguments, **settings)
        _limit(manager)
        return manager


def _limit(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
