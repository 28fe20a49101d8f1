"""Serves numbered clips in a process of its own: HTTP at /CODEC/SIZE, RTSP at the same path of its
other port. A picture goes out when it is filmed; what the socket does not take at once, waits, as
with any camera. Who joins gets all from the last key frame on.

`--rush` sends as fast as the reader takes it.
"""

import argparse
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator

from numbered import FPS, KEY_EVERY, Clip, clip, filmed_s
from rtsp import CLOCK_HZ, Packetiser, handshake


def numbers(*, rush: bool) -> Iterator[int]:
    """The numbers of pictures, each when it is filmed."""
    now = int(time.monotonic() * FPS)
    for number in itertools.count(now - now % KEY_EVERY):
        wait_s = filmed_s(number) - time.monotonic()
        if wait_s > 0 and not rush:
            time.sleep(wait_s)  # the camera's own clock
        yield number


class Server:
    """Answers each connection on a thread of its own."""

    def __init__(self, *, rush: bool) -> None:
        self._rush = rush
        self._clips: dict[tuple[str, str], Clip] = {}
        self._lock = threading.Lock()

    def serve(self, listener: socket.socket, talk: Callable[[socket.socket], None]) -> None:
        """For ever."""
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._safely, args=(talk, connection), daemon=True).start()

    def http(self, connection: socket.socket) -> None:
        """A GET."""
        shown = self._clip(connection.recv(4096).split()[1].decode())
        kind = (
            "multipart/x-mixed-replace; boundary=frame" if shown.codec == "mjpeg" else "video/any"
        )
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
        for number in numbers(rush=self._rush):
            body = shown.packet(number)
            if shown.codec == "mjpeg":
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                body = head.encode() + body + b"\r\n"
            connection.sendall(body)

    def rtsp(self, connection: socket.socket) -> None:
        """All requests up to PLAY, then the stream."""
        url = connection.recv(4096, socket.MSG_PEEK).split()[1].decode()
        shown = self._clip("/" + url.split("/", 3)[3])
        if not handshake(connection, shown.codec, shown.packets[0]):
            return
        threading.Thread(target=self._read_away, args=(connection,), daemon=True).start()
        packetiser = Packetiser(shown.codec)
        for number in numbers(rush=self._rush):
            stamp = number * CLOCK_HZ // FPS
            connection.sendall(packetiser.packets(shown.packet(number), stamp))

    def _clip(self, path: str) -> Clip:
        _, codec, size = path.split("/")[:3]
        with self._lock:
            if (codec, size) not in self._clips:
                self._clips[codec, size] = clip(codec, size)  # type: ignore[arg-type]
            return self._clips[codec, size]

    def _safely(self, talk: Callable[[socket.socket], None], connection: socket.socket) -> None:
        with contextlib.suppress(OSError, LookupError, ValueError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            talk(connection)

    @staticmethod
    def _read_away(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while connection.recv(4096):
                pass


def main() -> None:
    """Serves until its input ends. Prints its two ports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rush", action="store_true")
    server = Server(rush=parser.parse_args().rush)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for listener, talk in zip(listeners, (server.http, server.rtsp), strict=True):
        threading.Thread(target=server.serve, args=(listener, talk), daemon=True).start()
    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    with contextlib.suppress(EOFError):
        input()


if __name__ == "__main__":
    main()
