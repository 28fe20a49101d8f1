"""Endpoint: what an address asks of a socket before it binds or connects. Needs pyzmq only."""

from typing import Any

import zmq


def address_of(endpoint: str) -> str:
    """The endpoint with `localhost` as 127.0.0.1: the name is this computer's own whatever a hosts
    file or a name server says (RFC 6761, 6.3), so nothing is bound to where that leads."""
    return endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:", 1)


def prepare(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    """Speaks IPv6 where the address does (`tcp://[::1]:5570`). Not always: `localhost` would then
    be ::1, where those who wrote 127.0.0.1 do not find it."""
    socket.setsockopt(zmq.IPV6, int("://[" in endpoint))


def keep_alive(socket: "zmq.Socket[Any]") -> None:
    """Has the kernel find out within 5 s that the other computer is gone. ZeroMQ's own heartbeats
    would end the connection of a reader who is slow: libzmq reads no answers while its queue is
    full. A bound socket must not have them at all: who fills its queue and goes before the next
    heartbeat ends the process, by an assertion in libzmq (stream_engine_base.cpp, _io_error)."""
    for option, value in (
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 2),
        (zmq.TCP_KEEPALIVE_INTVL, 1),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)
