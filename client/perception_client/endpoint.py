"""Endpoint: the options that an address needs on a socket, and the connecting. Needs pyzmq only."""

from typing import Any

import zmq

from perception_client.errors import ArgumentTypeError, EndpointError


def address_of(endpoint: str) -> str:
    """The endpoint with `localhost` as 127.0.0.1: the name is this computer's own whatever a hosts
    file or a name server says (RFC 6761, 6.3), so nothing is bound to where that leads."""
    return endpoint.replace("tcp://localhost:", "tcp://127.0.0.1:", 1)


def prepare(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    """Speaks IPv6 where the address does (`tcp://[::1]:5570`). Not always: `localhost` would then
    be ::1, where those who wrote 127.0.0.1 do not find it."""
    socket.setsockopt(zmq.IPV6, int("://[" in endpoint))


def connect_to(socket: "zmq.Socket[Any]", endpoint: str, example: str) -> None:
    """Connects, and returns at once: a node that is not there yet is connected to later.

    example: an endpoint for the text of the error. Raises EndpointError, and ArgumentTypeError for
    an endpoint that is no text.
    """
    if not isinstance(endpoint, str):
        raise ArgumentTypeError(
            f"endpoint is {endpoint!r:.40}", fix=f"give a text such as {example}"
        )
    try:
        prepare(socket, endpoint)
        socket.connect(address_of(endpoint))
    except (zmq.ZMQError, UnicodeError) as error:
        why = error.strerror if isinstance(error, zmq.ZMQError) else str(error)
        raise EndpointError(
            f"endpoint {endpoint!r} cannot be connected to: {why}",
            fix=f"write tcp://HOST:PORT or ipc://PATH, for example {example}",
        ) from error


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
