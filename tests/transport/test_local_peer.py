"""The user at the other end of a TCP connection, by both ways that the kernel has."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import NOBODY

from node.transport import local_peer
from node.transport.local_peer import LocalPeers

LISTENERS = ("127.0.0.1", "::1", "::")
"""The last takes IPv4 clients, whose addresses it writes as IPv6."""


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener:
        if address == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind((address, 0))
        except OSError as error:
            pytest.skip(f"this computer has no {address}: {error}")
        listener.listen()
        listener.settimeout(10)
        yield listener


def address_for(listener: socket.socket, address: str) -> tuple[str, int]:
    return ("127.0.0.1" if address == "::" else address, listener.getsockname()[1])


@pytest.fixture(params=["sock_diag", "tables"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "tables":  # a kernel or a container without sock_diag

        def refuse(*addresses: object) -> int | None:
            raise PermissionError("not permitted")

        monkeypatch.setattr(local_peer, "uid_of", refuse)
    return str(request.param)


@pytest.mark.parametrize("address", LISTENERS)
def test_a_peer_is_its_user_while_it_is_connected(way: str, address: str) -> None:
    with listening(address) as listener:
        ours = socket.create_connection(address_for(listener, address), 10)
        accepted = listener.accept()[0]
        with accepted:
            with ours:
                assert LocalPeers().uid(accepted) == os.geteuid()
            assert accepted.recv(1) == b""
            assert LocalPeers().uid(accepted) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process of another user")
def test_a_process_of_another_user_is_that_users(way: str) -> None:
    program = (
        f"import os, socket, sys; os.setuid({NOBODY}); "
        "own = socket.socket(); own.connect(('127.0.0.1', int(sys.argv[1]))); own.recv(1)"
    )
    with listening("127.0.0.1") as listener:
        port = str(listener.getsockname()[1])
        with subprocess.Popen([sys.executable, "-c", program, port]) as process:
            with listener.accept()[0] as accepted:
                assert LocalPeers().uid(accepted) == NOBODY
            process.wait(10)


def test_the_kernel_answers_for_one_socket_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        listening("127.0.0.1") as listener,
        socket.create_connection(listener.getsockname(), 10),
        listener.accept()[0] as accepted,
    ):
        ends = [local_peer._packed(name) for name in (
            accepted.getpeername(), accepted.getsockname()
        )]  # fmt: skip
        try:
            uid = local_peer.uid_of(*ends)
        except OSError as error:
            pytest.skip(f"no sock_diag here: {error}")
        if uid is None:
            pytest.skip("this kernel has no tcp_diag")
        monkeypatch.setattr(local_peer, "_TABLES", ())
        assert LocalPeers().uid(accepted) == uid == os.geteuid()
