"""An HTTP server on loopback that answers each connection with bytes of the test's choice."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable

Reply = Callable[[int, bytes], Iterable[bytes]]
"""The number of the connection, from 0, and the request: what is sent, piece by piece."""


def answer(body: bytes, content_type: str = "", *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def stream_head(content_type: str = "multipart/x-mixed-replace; boundary=frame") -> bytes:
    """The head of an answer that ends with its connection."""
    return f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode()


class RawServer:
    """Answers each connection on a thread of its own, once; in TLS, if a context is given."""

    def __init__(
        self, reply: Reply | bytes, context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self._reply = reply
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self.connections = 0
        self.requests: list[bytes] = []
        self.port = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}/stream"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                number, self.connections = self.connections, self.connections + 1
                threading.Thread(target=self._talk, args=(connection, number), daemon=True).start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            request = connection.recv(1 << 16)
            self.requests.append(request)
            pieces = (
                [self._reply] if isinstance(self._reply, bytes) else self._reply(number, request)
            )
            for piece in pieces:
                connection.sendall(piece)

    def close(self) -> None:
        """Refuses further connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # which a close alone does not: wakes accept
        self._listener.close()

    def __enter__(self) -> "RawServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
