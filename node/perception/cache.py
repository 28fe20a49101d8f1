"""Cache: folders of files that the node makes once and keeps, each whole or not there at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from node.errors import ModelError
from perception_client.paths import home

_CHECKSUM = "sha256"


def cache_folder() -> Path:
    """Where the node keeps what it made (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    return Path(base) / "perception-node"


def kept(name: str, make: Callable[[Path], None]) -> Path:
    """The cache's folder `models/NAME`; made by `make(folder)` on first use.

    It gets its name only when it is whole, and is made anew where its files do not match the
    checksum in it. Of two processes that make it at once, both end with a whole one. Raises
    ModelError where the cache cannot be written.
    """
    folder = cache_folder() / "models" / name
    if is_whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            make(made)
            (made / _CHECKSUM).write_text(_checksum(made))
            _put(made, folder, Path(scratch) / "old")
    except OSError as error:
        raise ModelError(
            f"{folder.parent} cannot be written: {error.strerror}; it keeps exported models, and "
            "XDG_CACHE_HOME moves it"
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a kept folder is there with the files that it was made with."""
    try:
        return (folder / _CHECKSUM).read_text() == _checksum(folder)
    except OSError:
        return False


def write_whole(file: Path, text: str) -> None:
    """Writes a text file that no reader ever sees in part. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, prefix=".making-", encoding="utf-8", delete=False
    ) as stream:
        stream.write(text)
    os.replace(stream.name, file)


def _put(made: Path, folder: Path, aside: Path) -> None:
    if folder.exists() and not is_whole(folder):
        os.replace(folder, aside)
    try:
        os.replace(made, folder)
    except OSError:
        if not is_whole(folder):  # else another process was first, and its files are as good
            raise
        shutil.rmtree(made)


def _checksum(folder: Path) -> str:
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name != _CHECKSUM:
            whole.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
