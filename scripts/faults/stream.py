"""The failing streams of the fault campaign: a server in its own process, which can be stopped and
killed, and the pictures that it sends without a fault.

GET /stream.mjpg returns motion JPEG, GET /stream.h264 returns H.264. Each line on stdin sets the
mode of all connections.
"""

import argparse
import contextlib
import itertools
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

import numpy as np
import skimage

from faults.damage import KEY_EVERY, STREAMS, coded, strictly
from node.image.frame import Image
from node.image.jpeg import encode_jpeg
from node.image.opencv import cv2

FPS = 30
_QUALITY = 85
_SIZE, _SMALL = (480, 320), (320, 200)
_CODEC, _ENCODER, _OPTIONS = STREAMS["H.264"]
_LOST_BYTES = 1024
"""What USB 2.0 carries in one packet."""
_DAMAGED_EVERY = 20
"""Pictures of H.264, of which one is damaged: after each the rest up to the key frame is lost."""


def views(size: tuple[int, int] = _SIZE) -> list[Image]:
    """Moving views of one object and then of another, so that labels identify the picture: as many
    of each as frames lie between two key frames."""
    data = Path(skimage.__file__).parent / "data"
    photos = [cv2.imread(str(data / name)) for name in ("coffee.png", "chelsea.png")]
    small = [cv2.resize(photo, size) for photo in photos if photo is not None]
    return [
        np.asarray(np.roll(view, 3 * step, axis=1), np.uint8)
        for view in small
        for step in range(KEY_EVERY)
    ]


def sent_whole(quality: int) -> set[bytes]:
    """Every picture that the server ever sends whole, as a recording stores it: motion JPEG
    unchanged, H.264 decoded and encoded with the recording's quality."""
    packets = coded(views(), _ENCODER, _OPTIONS)
    decoded = strictly(packets, _CODEC)
    assert len(decoded) == len(packets)
    of_h264 = {encode_jpeg(image, quality) for image in decoded.values()}
    return {*_jpegs(_SIZE), *_jpegs(_SMALL), *of_h264}


_COMMENT = b"\xff\xfe\0\x0a"  # of eight bytes


def stamped(jpeg: bytes) -> bytes:
    """A picture with a comment that contains its time of sending, in ns on CLOCK_MONOTONIC."""
    return jpeg[:2] + _COMMENT + time.monotonic_ns().to_bytes(8, "big") + jpeg[2:]


def unstamped(jpeg: bytes) -> tuple[bytes, int | None]:
    """The picture without the comment, and its time of sending, None without a comment."""
    start = 2 + len(_COMMENT)
    if jpeg[2:start] != _COMMENT:
        return jpeg, None
    return jpeg[:2] + jpeg[start + 8 :], int.from_bytes(jpeg[start : start + 8], "big")


def _jpegs(size: tuple[int, int]) -> list[bytes]:
    return [encode_jpeg(view, _QUALITY) for view in views(size)]


class Content(Protocol):
    """The bytes that a camera sends of each picture, by mode."""

    type: bytes

    def body(self, mode: str, index: int) -> bytes:
        """The bytes of one picture, damaged according to the mode."""
        ...


class MotionJpeg:
    """good: moving pictures; frozen: one picture; garbage: random bytes; mixed: random bytes
    between good pictures; empty: pictures of no bytes; lying: lengths that are wrong; small:
    pictures of another size; cut: half of each picture; damaged: one picture in three is cut;
    overwritten: zeros in the middle of each; holed: a packet of each is missing."""

    type = b"multipart/x-mixed-replace; boundary=frame"

    def __init__(self) -> None:
        self._whole, self._small = _jpegs(_SIZE), _jpegs(_SMALL)

    def body(self, mode: str, index: int) -> bytes:
        jpeg = stamped(self._whole[index % len(self._whole)])
        middle = len(jpeg) // 2
        match mode:
            case "frozen":
                return _part(self._whole[0])
            case "garbage":
                return random.randbytes(2000)
            case "mixed":
                return random.randbytes(200) + _part(jpeg)
            case "empty":
                return _part(b"")
            case "lying":
                return _part(jpeg, claimed=random.choice([0, 7, 10**9]))
            case "small":
                return _part(stamped(self._small[index % len(self._small)]))
            case "cut":
                return _part(jpeg[:middle])
            case "damaged":
                return _part(jpeg[:middle] if index % 3 == 0 else jpeg)
            case "overwritten":
                return _part(jpeg[:middle] + bytes(400) + jpeg[middle + 400 :])
            case "holed":
                at = random.randrange(1000, len(jpeg) - _LOST_BYTES)
                return _part(jpeg[:at] + jpeg[at + _LOST_BYTES :])
            case _:
                return _part(jpeg)


class H264:
    """lost, cut and overwritten pictures: one in `_DAMAGED_EVERY`."""

    type = b"video/h264"

    def __init__(self) -> None:
        self._packets = [packet.data for packet in coded(views(), _ENCODER, _OPTIONS)]

    def body(self, mode: str, index: int) -> bytes:
        data = self._packets[index % len(self._packets)]
        middle = len(data) // 2
        if index % _DAMAGED_EVERY:
            return data
        match mode:
            case "H.264 lost":
                return b""
            case "H.264 cut":
                return data[:middle]
            case "H.264 overwritten":
                return data[:middle] + random.randbytes(middle // 2) + data[middle + middle // 2 :]
            case _:
                return data


def _part(jpeg: bytes, claimed: int | None = None) -> bytes:
    length = len(jpeg) if claimed is None else claimed
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


class _Server:
    """mode: behaviour of all connections. silent: send nothing; half: half a picture, then nothing;
    drip: a byte at a time; reset: they are reset; refuse: HTTP 500; else as the content says."""

    def __init__(self, port: int) -> None:
        self.mode = "good"
        self._contents: dict[bytes, Content] = {
            b"/stream.mjpg": MotionJpeg(), b"/stream.h264": H264()
        }  # fmt: skip
        self._listener = socket.create_server(("127.0.0.1", port), reuse_port=False)

    def serve(self) -> None:
        """Serves without end."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, KeyError, IndexError), connection:
            content = self._contents[connection.recv(4096).split()[1]]
            if self.mode == "refuse":
                connection.sendall(b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n")
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + content.type + b"\r\n\r\n")
            for index in itertools.count():
                self._send(connection, content, index)
                time.sleep(1 / FPS)

    def _send(self, connection: socket.socket, content: Content, index: int) -> None:
        body = content.body(self.mode, index)
        match self.mode:
            case "silent":
                return
            case "reset":
                linger = b"\1\0\0\0\0\0\0\0"  # on, for no time: close sends a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                raise OSError("reset")
            case "refuse":
                raise OSError("closed")
            case "half":
                connection.sendall(body[: len(body) // 2])
                while self.mode == "half":
                    time.sleep(0.01)
                raise OSError("closed")
            case "drip":
                for byte in body:
                    if self.mode != "drip":
                        break
                    connection.sendall(bytes([byte]))
                    time.sleep(0.01)
            case _:
                connection.sendall(body)


def main() -> None:
    """Serves until its input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    server = _Server(parser.parse_args().port)
    threading.Thread(target=server.serve, daemon=True).start()
    for line in sys.stdin:
        server.mode = line.strip()


if __name__ == "__main__":
    main()
