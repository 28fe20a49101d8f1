"""RecordingFolder: names of files, their order, and how much disk they may take.

The order of files is that of the numbers in their names, each one more than all before it: the
wall clock, which the names say as well, may be set back at any time.
"""

import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.recording.mcap_writer import delete_unless_written

log = logging.getLogger(__name__)

SUFFIX = ".mcap"
BLACK_BOX = "black-box"
MIB = 1024 * 1024
MOST_SHARE = 0.02
"""Of the time that looking for what is over the budget may take: ten thousand files take 0.2 s on
a slow computer."""
_NAME = (
    r"_\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ"
    rf"(_(?P<black_box>{BLACK_BOX})_.+?)?(_(?P<number>\d{{6,9}})|_\d{{3}})?(_recovered)?"
    rf"{re.escape(SUFFIX)}"
)
"""Behind the node: UTC, why there is a black box, number. Versions before had no number, or one of
three digits within a second. What has a name of another form was not made here, or renamed to be
kept."""


_OF_ANY_NODE = re.compile(f".+?{_NAME}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Made:
    """A file that a recorder made. place: in the order of their making; those of versions before,
    without a number, come first."""

    is_black_box: bool
    place: tuple[int, str]

    @property
    def number(self) -> int:
        return self.place[0]


def _made(pattern: re.Pattern[str], name: str) -> _Made | None:
    found = pattern.fullmatch(name)
    if found is None:
        return None
    return _Made(found["black_box"] is not None, (int(found["number"] or 0), name))


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Recordings in the order in which they were made, whatever the clock said then; behind them,
    by name, what has no name of a recorder."""

    def place(path: Path) -> tuple[bool, tuple[int, str]]:
        made = _made(_OF_ANY_NODE, path.name)
        return (True, (0, path.name)) if made is None else (False, made.place)

    return sorted(paths, key=place)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A file of this node that takes room."""

    path: Path
    made: _Made
    size: int


class RecordingFolder:
    """Where the recordings of a node are; also of several nodes of one name, which share the
    budget. Used by one thread.

    budget_bytes: what they may take together, None for no limit; keep_free_bytes: what has to stay
    free on the disk for everybody else; black_box_bytes: what black boxes may take, None for no
    limit of their own.
    """

    def __init__(
        self,
        path: Path,
        node: str,
        budget_bytes: int | None,
        keep_free_bytes: int,
        black_box_bytes: int | None = None,
    ) -> None:
        self.path = path
        self._node = node
        self._names = re.compile(re.escape(node) + _NAME, re.DOTALL)
        self._budget_bytes = budget_bytes
        self._keep_free_bytes = keep_free_bytes
        self._black_box_bytes = black_box_bytes
        self._number = 0
        self._look_at = float("-inf")
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """Why more is there than may be, in words; None where the budgets are held."""
        return next(iter(self._problems.values()), None)

    def new_path(self, kind: str = "") -> Path:
        """A name that no file has: node, UTC, kind, number. Another process may take it before it
        is used. Raises OSError where the folder cannot be read."""
        moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        there = max((made.number for _, made in self._made()), default=0)
        self._number = max(there, self._number) + 1
        parts = (self._node, moment, *([kind] if kind else []), f"{self._number:06d}")
        return self.path / ("_".join(parts) + SUFFIX)

    def make_room(self, *kept: Path) -> None:
        """Deletes what is over the budget, oldest first and black boxes last; never what is to be
        kept, nor what any process writes. Raises OSError where the folder cannot be made or read,
        with ENOSPC where the disk is fuller than it may be."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.keep_budget(*kept)
        free = shutil.disk_usage(self.path).free
        if free < self._keep_free_bytes:
            raise OSError(
                28,  # ENOSPC
                f"only {free // MIB} MiB are free, and recording.keep_free_mb leaves "
                f"{self._keep_free_bytes // MIB}",
            )

    def make_room_when_due(self, *kept: Path) -> None:
        """As `make_room`, no more often than a folder of many files lets it."""
        if time.monotonic() >= self._look_at:
            self.make_room(*kept)

    def make_room_for_black_box(self, *kept: Path) -> None:
        """Deletes what is over the budget, and over the black boxes' own, when one has come."""
        if self._black_box_bytes is not None:
            boxes = [x for x in self._taken() if x.made.is_black_box]
            boxes.sort(key=lambda x: x.made.place)
            self._delete_beyond("black_box_budget_mb", self._black_box_bytes, boxes, kept)
        self.keep_budget(*kept)

    def keep_budget(self, *kept: Path) -> None:
        """As `make_room`, however full the disk is."""
        if self._budget_bytes is not None:
            began_at = time.monotonic()
            taken = self._taken()
            taken.sort(key=lambda x: (x.made.is_black_box, x.made.place))
            self._delete_beyond("budget_mb", self._budget_bytes, taken, kept)
            self._look_at = time.monotonic() + (time.monotonic() - began_at) / MOST_SHARE

    def _delete_beyond(
        self, key: str, budget: int, files: Sequence[_Taken], kept: tuple[Path, ...]
    ) -> None:
        """Deletes from the first on. What cannot be deleted stays, and is said."""
        taken = sum(file.size for file in files)
        stays = False
        for file in files:
            if taken <= budget:
                break
            if file.path in kept:
                continue
            if self._delete(file.path):
                log.info("%s is deleted: more is there than recording.%s allows", file.path, key)
                taken -= file.size
            else:
                stays = True
        if not stays or taken <= budget:
            self._problems.pop(key, None)
        elif key not in self._problems:
            self._problems[key] = (
                f"recordings of '{self._node}' in {self.path} take more than recording.{key} = "
                f"{budget // MIB}, since some are being written or cannot be deleted; give each "
                "node a folder of its own, or raise it"
            )
            log.warning("%s", self._problems[key])

    def _delete(self, path: Path) -> bool:
        try:
            return delete_unless_written(path)
        except FileNotFoundError:  # by another node of this name
            return True
        except OSError as error:
            log.debug("%s cannot be deleted: %s", path, error)
            return False

    def _taken(self) -> list[_Taken]:
        found = []
        for entry, made in self._made():
            try:
                about = entry.stat(follow_symlinks=False)
            except OSError:  # gone meanwhile
                continue
            if stat.S_ISREG(about.st_mode):
                found.append(_Taken(self.path / entry.name, made, about.st_size))
        return found

    def _made(self) -> Iterable[tuple["os.DirEntry[str]", _Made]]:
        """What recorders of this node made: the node `arm` has no say over files of the node
        `arm_2`."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                made = _made(self._names, entry.name)
                if made is not None:
                    yield entry, made
