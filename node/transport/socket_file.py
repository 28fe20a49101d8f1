"""SocketFile: the file of an ipc endpoint. Only the process that bound it removes it, and it
replaces nothing but the socket file of a process that was killed."""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from node.errors import EndpointError

_SCHEME = "ipc://"


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a bound socket, identified by device and inode: another process may have put its
    own file at the same path."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, endpoint: str) -> "SocketFile | None":
        """The file of an endpoint that was just bound; None without a file."""
        path = path_of(endpoint)
        if path is None:
            return None
        try:
            status = path.lstat()
        except OSError:  # removed since
            return None
        return cls(path, status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Removes the file, which libzmq leaves behind, unless another file has replaced it. To be
        called while the socket is still bound, so that its inode cannot be reused."""
        try:
            status = self.path.lstat()
        except OSError:
            return
        if (status.st_dev, status.st_ino) == (self.device, self.inode):
            self.path.unlink(missing_ok=True)


def path_of(endpoint: str) -> Path | None:
    """The file of an ipc endpoint; None for TCP and for the abstract namespace of Linux
    (`ipc://@name`), which has no files."""
    name = endpoint.removeprefix(_SCHEME)
    return None if name == endpoint or name.startswith("@") else Path(name)


def check_free(endpoint: str) -> None:
    """Raises EndpointError unless an ipc endpoint can be bound without harm: its path is free, or
    has the socket of a process that has ended. libzmq itself removes any file.

    A user with write access to the folder can create a file between this check and the bind, but
    can remove files in the folder anyway.
    """
    if not endpoint.startswith(_SCHEME):
        return
    if "\0" in endpoint:  # libzmq would end the path there, and remove another file
        raise EndpointError(f"endpoint {endpoint!r}: holds a zero byte", fix="choose another path")
    path = path_of(endpoint)
    if path is not None and not _is_socket_or_nothing(path):
        raise EndpointError(
            f"endpoint {endpoint}: {path} exists and is no socket", fix="choose another path"
        )
    if _is_served(endpoint.removeprefix(_SCHEME)):
        raise in_use(endpoint)


def in_use(endpoint: str) -> EndpointError:
    """The error of an endpoint that another process has bound."""
    return EndpointError(
        f"endpoint {endpoint} is in use, perhaps by a node that still runs",
        fix="stop that one or choose another with --endpoint",
    )


def _is_socket_or_nothing(path: Path) -> bool:
    """A symbolic link is not followed: a bind would replace the link."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # the bind reports the problem of the folder
        return True


def _is_served(name: str) -> bool:
    """Whether a process serves a unix socket; the file of a killed process does not count. A socket
    that is too busy to accept, or that admits other users only, counts as served."""
    address: str | bytes = name
    if name.startswith("@"):
        address = b"\0" + os.fsencode(name[1:])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except (BlockingIOError, TimeoutError, PermissionError):
            return name.startswith("@") or os.path.lexists(name)
        except (OSError, ValueError):
            return False
        return True
