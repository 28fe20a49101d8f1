"""ZMTP as a stranger speaks it, byte by byte (ZeroMQ RFC 23), and floods of it from a process of
its own:

    python scripts/faults/hostile/zmtp.py PORT SECONDS
"""

import contextlib
import socket
import sys
import time

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f\x03\x00"
_NULL_GREETING = _SIGNATURE + b"NULL".ljust(20, b"\0") + bytes(32)
_TIMEOUT_S = 2.0
_CLOSED = 1 << 16


def greeting(kind: bytes = b"SUB") -> bytes:
    """What a socket without keys says first."""
    body = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    return _NULL_GREETING + b"\x04" + bytes([len(body)]) + body


def frame(body: bytes) -> bytes:
    """One message of one part."""
    if len(body) < 256:
        return b"\0" + bytes([len(body)]) + body
    return b"\2" + len(body).to_bytes(8, "big") + body


def join(topic: bytes) -> bytes:
    """A subscription."""
    return frame(b"\1" + topic)


def leave(topic: bytes) -> bytes:
    """Its end."""
    return frame(b"\0" + topic)


def silent(port: int) -> socket.socket:
    """A connection that says nothing."""
    made = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
    made.settimeout(_TIMEOUT_S)
    return made


def connected(port: int, then: bytes = b"", kind: bytes = b"SUB") -> socket.socket:
    """A connection that has said that it speaks ZeroMQ, and then something."""
    made = silent(port)
    with contextlib.suppress(OSError):  # it may be closed at once
        made.sendall(greeting(kind))
        heard = 0
        while heard < len(_NULL_GREETING) + 2:  # before its answer it would be no message
            heard += len(made.recv(4096)) or _CLOSED
        made.sendall(then)
    return made


def is_closed(connection: socket.socket, within_s: float) -> bool:
    """Whether the other end closes it in time; what still comes is read and forgotten."""
    deadline = time.monotonic() + within_s
    while (left_s := deadline - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


FLOODS = {
    "subscribe and unsubscribe": (join(b"x/") + leave(b"x/")) * 5000,
    "subscribe to all": (join(b"") + leave(b"")) * 5000,
    "long topics": b"".join(join(b"%06d" % n + b"y" * 894) for n in range(20000)),
    "many topics": b"".join(join(b"%06d" % n + b"y" * 60) for n in range(20000)),
    "no subscriptions": frame(b"junk") * 5000,
    "pings": b"\x04\x07\x04PING\0\0" * 5000,
}
"""What is sent again and again, by name."""


def flood(port: int, seconds: float, kind: str) -> int:
    """Sends as fast as it can, and connects again whenever it is closed; how often it connected."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connected(port) as attacker:
            count += 1
            while time.monotonic() < until:
                attacker.sendall(FLOODS[kind])
    return count


if __name__ == "__main__":
    for each in FLOODS:
        flood(int(sys.argv[1]), float(sys.argv[2]) / len(FLOODS), each)
