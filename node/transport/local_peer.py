"""LocalPeers: the user of this computer at the other end of a TCP connection. TCP carries no
credentials; the kernel's tables of sockets have them."""

import contextlib
import ipaddress
import sys
from pathlib import Path
from typing import Any, Protocol

from node.transport.sock_diag import Address, uid_of

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"
_NO_INODE = "0"


class Connection(Protocol):
    """A connected TCP socket, or the socket of an asyncio transport."""

    def getsockname(self) -> Any:
        """Address of this end."""
        ...

    def getpeername(self) -> Any:
        """Address of the other end."""
        ...


class LocalPeers:
    """The users at the other ends of connections that are open now. Ask for all of them with one
    object: a kernel without sock_diag(7) has to write its whole tables, which takes about 10 ms.

    A connection must be open from the first query to its own: then no other connection can have the
    same two ends. The kernel lists a closed socket as root's, so only established ones count.
    """

    def __init__(self) -> None:
        self._tables: dict[Path, str] | None = None

    def uid(self, connection: Connection) -> int | None:
        """The user id of the process at the other end of a connection. None where no process in
        this network namespace has that end: it is closed, in a container or on another computer."""
        try:
            ours, theirs = _packed(connection.getsockname()), _packed(connection.getpeername())
        except (OSError, ValueError):
            return None
        uid = None
        with contextlib.suppress(OSError):  # a kernel or a container without it
            uid = uid_of(theirs, ours)
        # A kernel without the module for TCP finds none, nor does this one those of a link.
        return self._uid_in_tables(ours, theirs) if uid is None else uid

    def _uid_in_tables(self, ours: Address, theirs: Address) -> int | None:
        if self._tables is None:
            self._tables = {}
            for table in _TABLES:
                with contextlib.suppress(OSError):  # a kernel without IPv6
                    self._tables[table] = table.read_text()
        for table, text in self._tables.items():
            row = text.find(f" {_in_table(table, theirs)} {_in_table(table, ours)} {_ESTABLISHED} ")
            if row >= 0:  # found as text: parsing thousands of rows would hold up other connections
                columns = text[row : text.find("\n", row)].split()
                if columns[8] != _NO_INODE:
                    return int(columns[6])
        return None


def _in_table(table: Path, address: Address) -> str:
    """Written as hexadecimal words of 32 bits, each in the byte order of this computer."""
    raw, port = address
    if table.name == "tcp6" and len(raw) == 4:
        raw = bytes(10) + b"\xff\xff" + raw
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return f"{raw.hex().upper()}:{port:04X}"


def _packed(name: tuple[str, int]) -> Address:
    host, port = name[:2]
    return _unmapped(ipaddress.ip_address(host.partition("%")[0]).packed), port


def _unmapped(address: bytes) -> bytes:
    """An IPv4 address that is written as IPv6 (::ffff:127.0.0.1) as what it is."""
    mapped = len(address) == 16 and address.startswith(bytes(10) + b"\xff\xff")
    return address[12:] if mapped else address
