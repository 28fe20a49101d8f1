"""Cache: folders of files that are made once and kept. A folder is complete or absent, never
partial."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from node.errors import ModelError
from perception_client.paths import home

_CHECKSUM = "sha256"
"""Name of the file in each folder that holds the digest of the others."""


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
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
            new_folder = Path(scratch) / "new"
            new_folder.mkdir()
            make(new_folder)
            (new_folder / _CHECKSUM).write_text(_checksum(new_folder))
            _move_into_place(new_folder, folder, Path(scratch) / "old")
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
