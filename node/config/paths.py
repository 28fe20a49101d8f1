"""Names of files as people mean them: patterns in folders with brackets, numbers in their order."""

import glob
import os
import re
from pathlib import Path

_DIGITS = re.compile(r"([0-9]+)")


def natural(path: Path) -> tuple[list[list[str | int]], str]:
    """A key that sorts paths part by part, with their numbers in order: 2.png before 10.png."""
    parts = [_split(part) for part in path.parts]
    return parts, str(path)


def _split(part: str) -> list[str | int]:
    """Texts at even places and numbers at odd ones, so that two keys compare place by place."""
    return [int(piece) if place % 2 else piece for place, piece in enumerate(_DIGITS.split(part))]


def matching(pattern: Path) -> list[Path]:
    """Returns what matches a pattern with `*`, `?`, `[...]` and `**`, in natural order. A part that
    exists as it is written is no pattern, such as the folder `clips [2024]`; nor are brackets
    without which something matches."""
    bases = {Path(pattern.anchor)}
    for part in pattern.relative_to(pattern.anchor).parts:
        bases = {match for base in bases for match in _matches(base, part)}
    return sorted(bases, key=natural)


def _matches(base: Path, part: str) -> list[Path]:
    if os.path.lexists(base / part):
        return [base / part]
    if not glob.has_magic(part):
        return []
    for name in (part, part.replace("[", "[[]")):
        names = glob.glob(name, root_dir=base, recursive=True)
        if names:
            break
    # `**` matches no folder, too.
    return [base / name for name in names] + ([base] if part == "**" else [])
