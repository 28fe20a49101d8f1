"""Names of recordings, and their order.

The numbers in the names define the order of files; each is one more than the highest before it in
the folder, of any node. The names also contain the wall clock's time, which may be set back at any
time.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".mcap"
BLACK_BOX = "black-box"
NAME_PATTERN = (
    r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ"
    rf"(_(?P<black_box>{BLACK_BOX})_.+?)?(_(?P<number>\d{{6,9}})|_\d{{3}})?(_recovered)?"
    rf"{re.escape(SUFFIX)}"
)
"""After the node's name: UTC, reason of a black box, number. Earlier versions had no number, or one
of three digits within a second. A file with another name was not made by a recorder, or was renamed
to keep it."""


OF_ANY_NODE = re.compile(f".+?{NAME_PATTERN}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RecorderName:
    """The parsed name of a recorder's file. order: sorts by creation; names of earlier versions,
    without a number, come first."""

    is_black_box: bool
    order: tuple[int, str]

    @property
    def number(self) -> int:
        """Its number in the folder; 0 without one."""
        return self.order[0]


def parsed(pattern: re.Pattern[str], name: str) -> RecorderName | None:
    """The parsed name of a file; None for one that does not match."""
    match = pattern.fullmatch(name)
    if match is None:
        return None
    return RecorderName(match["black_box"] is not None, (int(match["number"] or 0), name))


def number_of(path: Path) -> int | None:
    """The number in the name of a recorder's file; None for any other file."""
    name = parsed(OF_ANY_NODE, path.name)
    return None if name is None else name.number or None


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sorts recordings by creation, independently of the clock; files without a recorder's name
    follow, by name."""

    def key(path: Path) -> tuple[bool, tuple[int, str]]:
        name = parsed(OF_ANY_NODE, path.name)
        return (True, (0, path.name)) if name is None else (False, name.order)

    return sorted(paths, key=key)
