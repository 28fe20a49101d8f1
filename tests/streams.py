"""Servers on loopback for tests of streams."""

import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from numpy.typing import NDArray

FPS = 30


def _part(picture: NDArray[np.uint8]) -> bytes:
    _, jpeg = cv2.imencode(".jpg", picture)
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg.tobytes() + b"\r\n"


class MjpegServer:
    """Streams one picture, moving sideways, as motion JPEG over HTTP until closed; then its port
    refuses."""

    def __init__(self, picture: NDArray[np.uint8], port: int = 0) -> None:
        parts = [_part(np.roll(picture, shift, axis=1)) for shift in range(4)]
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
