"""Endpoint: what an address asks of a socket before it binds or connects. Needs pyzmq only."""

from typing import Any

import zmq


def prepare(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    """Speaks IPv6 where the address does (`tcp://[::1]:5570`). Not always: `localhost` would then
    be ::1, where those who wrote 127.0.0.1 do not find it."""
    socket.setsockopt(zmq.IPV6, int("://[" in endpoint))
