"""Cache: folders of files that are made once and kept. A folder is complete or absent, never
partial."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from node.errors import ModelError
from perception_client.paths import home

_CHECKSUM = "sha256"
"""Name of the file in each folder that holds the digest of the others."""
_SCRATCH = ".making-"
"""Start of the names of folders that are being made."""
_LOCKED_AFTER_S = 10.0
"""Seconds after which a folder that is being made is surely locked."""


def cache_folder() -> Path:
    """Returns the node's cache folder (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    return Path(base) / "perception-node"


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """Returns the cache folder `models/NAME`; calls `make(folder)` to fill it on first use.

    The folder is moved to its name once complete, and made again if its files do not match their
    checksum. Safe for concurrent processes. Raises ModelError if the cache is not writable.
    """
    folder = cache_folder() / "models" / name
    _check_text(folder)
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        with _scratch(folder.parent) as scratch:
            new_folder = scratch / "new"
            new_folder.mkdir()
            make(new_folder)
            (new_folder / _CHECKSUM).write_text(_checksum(new_folder))
            _move_into_place(new_folder, folder, scratch / "old")
    except OSError as error:
        raise ModelError(
            f"{folder.parent} cannot be written: {error.strerror}",
            fix="it keeps exported models, and XDG_CACHE_HOME moves it",
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a cache folder exists with unchanged files."""
    try:
        return (folder / _CHECKSUM).read_text() == _checksum(folder)
    except OSError:
        return False


def write_whole(file: Path, text: str) -> None:
    """Writes a text file atomically. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, prefix=".making-", encoding="utf-8", delete=False
    ) as stream:
        stream.write(text)
    os.replace(stream.name, file)


def _check_text(folder: Path) -> None:
    """Raises ModelError for a path that is no text: no inference engine opens one."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"cache folder {str(folder.parent)!r}: its name is not UTF-8",
            fix="set XDG_CACHE_HOME to another",
        ) from error


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A new folder, locked while this process lives, and removed at the end."""
    with tempfile.TemporaryDirectory(dir=parent, prefix=_SCRATCH) as scratch:
        descriptor = os.open(scratch, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a network's file system may have no locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(scratch)
        finally:
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Removes the scratch folders of processes that were killed: each may hold a whole model, and
    a node that is killed at each start would fill the disk."""
    for scratch in parent.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError):  # another process is first, or holds the lock
            if time.time() - scratch.stat().st_mtime < _LOCKED_AFTER_S:
                continue
            descriptor = os.open(scratch, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(scratch, ignore_errors=True)
            finally:
                os.close(descriptor)


def _move_into_place(new_folder: Path, folder: Path, aside: Path) -> None:
    if folder.exists() and not is_whole(folder):
        os.replace(folder, aside)
    try:
        os.replace(new_folder, folder)
    except OSError:
        # Otherwise another process was first, and its files are equivalent.
        if not is_whole(folder):
            raise
        shutil.rmtree(new_folder)


def _checksum(folder: Path) -> str:
    combined = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name != _CHECKSUM:
            combined.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return combined.hexdigest()
