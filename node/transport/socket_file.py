"""SocketFile: the file of an ipc endpoint, which only the process that bound it removes, and which
takes the place of nothing but a socket that a killed process left behind."""

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from node.errors import EndpointError

_SCHEME = "ipc://"


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A bound socket's file, known by its device and inode: another process may have put its own
    in the same place."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, endpoint: str) -> "SocketFile | None":
        """The file of an endpoint that was bound just now; None where it has none."""
        path = path_of(endpoint)
        if path is None:
            return None
        try:
            found = path.lstat()
        except OSError:  # removed by somebody since
            return None
        return cls(path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Removes the file, which libzmq leaves behind, unless another is in its place. To be
        called while the socket is still bound, so that its inode cannot be another's."""
        try:
            found = self.path.lstat()
        except OSError:
            return
        if (found.st_dev, found.st_ino) == (self.device, self.inode):
            self.path.unlink(missing_ok=True)


def path_of(endpoint: str) -> Path | None:
    """The file of an ipc endpoint; None for TCP and for Linux's abstract namespace (`ipc://@name`),
    which has no files."""
    name = endpoint.removeprefix(_SCHEME)
    return None if name == endpoint or name.startswith("@") else Path(name)


def check_free(endpoint: str) -> None:
    """Raises EndpointError unless an ipc endpoint can be bound without harm: nothing is there, or
    the socket of a process that has ended. libzmq itself removes whatever it finds.

    Who may write to the folder can put a file there between this check and the bind; but they can
    remove files in it anyway.
    """
    if not endpoint.startswith(_SCHEME):
        return
    if "\0" in endpoint:  # libzmq would end the path there, and remove another file
        raise EndpointError(f"endpoint {endpoint!r}: holds a zero byte; choose another path")
    path = path_of(endpoint)
    if path is not None and not _is_socket_or_nothing(path):
        raise EndpointError(
            f"endpoint {endpoint}: {path} exists and is no socket; choose another path"
        )
    if _is_served(endpoint.removeprefix(_SCHEME)):
        raise EndpointError(in_use(endpoint))


def in_use(endpoint: str) -> str:
    """What to tell of an endpoint that another process has."""
    return (
        f"endpoint {endpoint} is in use, perhaps by a node that still runs; "
        "stop that one or choose another with --endpoint"
    )


def _is_socket_or_nothing(path: Path) -> bool:
    """A symbolic link counts as what it is: binding would put the socket in the link's place."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # the bind will say what is wrong with its folder
        return True


def _is_served(name: str) -> bool:
    """Whether a process has a unix socket; a file left by a killed one does not count. One that is
    too busy to be connected to, or lets only others in, is served."""
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
