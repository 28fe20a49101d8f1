"""Servers on loopback for tests of streams."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 30


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture)[1].tobytes()


def part(jpeg: bytes) -> bytes:
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


class MjpegServer:
    """Streams one picture, moving sideways through so many pictures, as motion JPEG over HTTP until
    closed; then its port refuses. damage: what happens to the bytes of each, by its index."""

    def __init__(
        self,
        picture: NDArray[np.uint8],
        port: int = 0,
        damage: Callable[[bytes, int], bytes] = lambda jpeg, index: jpeg,
        pictures: int = 16,
    ) -> None:
        parts = [
            part(damage(_jpeg(np.roll(picture, shift, axis=1)), shift)) for shift in range(pictures)
        ]
        self._closing = threading.Event()
        closing = self._closing

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for part in itertools.cycle(parts):
                        if closing.is_set():
                            return
                        self.wfile.write(part)
                        time.sleep(1 / FPS)  # the camera's own period
                except OSError:
                    return

            def log_message(self, *arguments: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/stream.mjpg"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


class ByteServer:
    """Sends bytes over HTTP to each who asks, then closes the connection. What is a pair comes so
    many seconds after what was before."""

    def __init__(self, *parts: bytes | tuple[float, bytes]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", content_type(parts))
                self.end_headers()
                with contextlib.suppress(OSError):
                    for part in parts:
                        seconds, body = (0.0, part) if isinstance(part, bytes) else part
                        time.sleep(seconds)  # the camera's own times
                        self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/stream"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def content_type(parts: tuple[bytes | tuple[float, bytes], ...]) -> str:
    first = parts[0] if isinstance(parts[0], bytes) else parts[0][1]
    multipart = "multipart/x-mixed-replace; boundary=frame"
    return multipart if first.startswith(b"--frame") else "application/octet-stream"
