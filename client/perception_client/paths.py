"""Paths as people write them: homes, patterns in folders with brackets, numbers in their order,
folders in a circle."""

import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from perception_client.errors import ConfigError

_DIGITS = re.compile(r"([0-9]+)")


def expanded(path: Path | str) -> Path:
    """A path whose `~` or `~user` is that user's home. Raises ConfigError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: no home folder is known for its first part", fix="write the path without ~"
        ) from None


def absolute(path: Path) -> Path:
    """A path from the root. Where the working directory was deleted it stays as it is."""
    try:
        return path if path.is_absolute() else Path(os.getcwd()) / path
    except OSError:
        return path


def home() -> Path:
    """This user's home. Raises ConfigError where none is known."""
    return expanded("~")


def natural(path: Path) -> list[tuple[list[str | int], str]]:
    """A key that sorts paths part by part, with their numbers in order: 2.png before 10.png."""
    return [(_split(part), part) for part in path.parts]


def _split(part: str) -> list[str | int]:
    """Texts at even places and numbers at odd ones, so that two keys compare place by place."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(_DIGITS.split(part))]


def walk(
    folder: Path, report: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields a folder and its subfolders as `os.walk`, also those that links lead to, each once.

    report: called for each folder that cannot be read, and for a path that is too long.
    """
    visited: set[tuple[int, int]] = set()
    for base, folders, names in os.walk(folder, onerror=report, followlinks=True):
        status = os.stat(base)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        yield Path(base), folders, names


def matching(pattern: Path) -> list[Path]:
    """Returns what matches a pattern with `*`, `?`, `[...]` and `**`, in natural order. A part that
    exists as it is written is no pattern, such as the folder `clips [2024]`; nor are brackets
    without which something matches. Hidden entries match no pattern."""
    bases = {Path(pattern.anchor)}
    for part in pattern.relative_to(pattern.anchor).parts:
        bases = {match for base in bases for match in _matches(base, part)}
    return sorted(bases, key=natural)


def _matches(base: Path, part: str) -> list[Path]:
    if os.path.lexists(base / part):
        return [base / part]
    if part == "**":
        return list(_below(base))
    if not glob.has_magic(part):
        return []
    names = glob.glob(part, root_dir=base) or glob.glob(part.replace("[", "[[]"), root_dir=base)
    return [base / name for name in names]


def _below(folder: Path) -> Iterator[Path]:
    for base, folders, names in walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield base
        yield from (base / name for name in names if not name.startswith("."))
