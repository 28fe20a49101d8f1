"""local_peer_uid: which user of this computer is at the other end of a TCP connection. TCP carries
no credentials; the kernel's table of sockets has them."""

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"
_NO_INODE = "0"
_Address = tuple[bytes, int]


class Connection(Protocol):
    """A connected TCP socket, or asyncio's view of one."""

    def getsockname(self) -> Any:
        """Its own end."""
        ...

    def getpeername(self) -> Any:
        """The other end."""
        ...


def local_peer_uid(connection: Connection) -> int | None:
    """The user whose process holds the other end of an open TCP connection, a user id; None where
    no process in this network namespace does: it has closed it, or is in a container or on
    another computer.

    The connection must be open and stay so meanwhile: then no other can have the same two ends. A
    socket that its process has closed is listed as root's, so only established ones count.
    """
    try:
        ours, theirs = _packed(connection.getsockname()), _packed(connection.getpeername())
    except (OSError, ValueError):
        return None
    for local, remote, state, uid, inode in _rows():
        if local == theirs and remote == ours and state == _ESTABLISHED and inode != _NO_INODE:
            return uid
    return None


def _rows() -> Iterator[tuple[_Address, _Address, str, int, str]]:
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            columns = line.split()
            yield (
                _from_table(columns[1]),
                _from_table(columns[2]),
                columns[3],
                int(columns[7]),
                columns[9],
            )


def _from_table(column: str) -> _Address:
    """Written as hexadecimal words of 32 bits, each in the byte order of this computer."""
    words, _, port = column.partition(":")
    raw = bytes.fromhex(words)
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return _unmapped(raw), int(port, 16)


def _packed(name: tuple[str, int]) -> _Address:
    host, port = name[:2]
    return _unmapped(ipaddress.ip_address(host.partition("%")[0]).packed), port


def _unmapped(address: bytes) -> bytes:
    """An IPv4 address that is written as IPv6 (::ffff:127.0.0.1) as what it is."""
    mapped = len(address) == 16 and address.startswith(bytes(10) + b"\xff\xff")
    return address[12:] if mapped else address
