"""RecordingFolder: names and order of recordings, and their disk budget.

The numbers in the names define the order of files; each is one more than the highest before it in
the folder, of any node. The names also contain the wall clock's time, which may be set back at any
time.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.recording.mcap_writer import delete_unless_written
from perception_client.recordings.names import (
    NAME_PATTERN,
    OF_ANY_NODE,
    SUFFIX,
    RecorderName,
    parsed,
)

log = logging.getLogger(__name__)

MIB = 1024 * 1024
MOST_SHARE = 0.02
"""Largest share of the time for checks of the budget: ten thousand files take 0.2 s on a slow
computer."""
LOCK_S = 0.2
"""Longest wait for another node of this folder: its deletions take milliseconds."""
_LOCK_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class _File:
    """A recording of this node on the disk. size: in bytes."""

    path: Path
    name: RecorderName
    size: int


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder, so that two nodes that look at it at once do not both delete for
    the same excess. After LOCK_S without the lock, as where the other process is frozen or the file
    system has no locks, the block runs without it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + LOCK_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_POLL_S)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


class RecordingFolder:
    """The folder of a node's recordings. Several nodes of one name may share it and its budget.
    Used by one thread.

    Args:
        path: the folder.
        node: the node's name.
        budget_bytes: limit of all recordings together; None for no limit.
        keep_free_bytes: reserve on the disk for other files.
        black_box_bytes: limit of the black boxes; None for no separate limit.
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
        self._names = re.compile(re.escape(node) + NAME_PATTERN, re.DOTALL)
        self._budget_bytes = budget_bytes
        self._keep_free_bytes = keep_free_bytes
        self._black_box_bytes = black_box_bytes
        self._number = 0
        self._check_at = float("-inf")
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str | None:
        """Why the recordings exceed a budget, in words; None while the budgets hold."""
        return next(iter(self._problems.values()), None)

    def new_path(self, kind: str = "") -> Path:
        """An unused path: node, UTC, kind, number. Another process may use it first. Raises OSError
        where the folder cannot be read."""
        moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        names = (parsed(OF_ANY_NODE, name) for name in os.listdir(self.path))
        highest = max((name.number for name in names if name is not None), default=0)
        self._number = max(highest, self._number) + 1
        parts = (self._node, moment, *([kind] if kind else []), f"{self._number:06d}")
        return self.path / ("_".join(parts) + SUFFIX)

    def make_room(self, *kept: Path) -> None:
        """Creates the folder, and deletes files beyond the budget: the oldest first, black boxes
        last; never those in `kept`, nor a file that any process writes.

        Raises OSError where the folder cannot be created or read, with ENOSPC where less than the
        reserve is free.
        """
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
        """Calls `make_room`, unless that would exceed MOST_SHARE of the time."""
        if time.monotonic() >= self._check_at:
            self.make_room(*kept)

    def make_room_for_black_box(self, *kept: Path) -> None:
        """Deletes files beyond the black boxes' budget and the common one, after a black box was
        written."""
        if self._black_box_bytes is not None:
            with _locked(self.path):
                boxes = [file for file in self._files() if file.name.is_black_box]
                boxes.sort(key=lambda file: file.name.order)
                self._delete_beyond("black_box_budget_mb", self._black_box_bytes, boxes, kept)
        self.keep_budget(*kept)

    def keep_budget(self, *kept: Path, spare_newest: bool = False) -> None:
        """Deletes as `make_room` does, without a check of the free space.

        spare_newest: keeps the newest file of the folder as well, which another node may just have
        ended; a file that exceeds the budget alone stays until the next recording begins.
        """
        if self._budget_bytes is not None:
            began_at = time.monotonic()
            with _locked(self.path):
                files = self._files()
                if spare_newest and files:
                    kept = (*kept, max(files, key=lambda file: file.name.order).path)
                files.sort(key=lambda file: (file.name.is_black_box, file.name.order))
                self._delete_beyond("budget_mb", self._budget_bytes, files, kept)
            self._check_at = time.monotonic() + (time.monotonic() - began_at) / MOST_SHARE

    def _delete_beyond(
        self, key: str, budget: int, files: Sequence[_File], kept: tuple[Path, ...]
    ) -> None:
        """Deletes from the first file on, until the rest fits; `problem` reports files that cannot
        be deleted."""
        total = sum(file.size for file in files)
        undeletable = False
        for file in files:
            if total <= budget:
                break
            if file.path in kept:
                continue
            if self._delete(file.path):
                log.info("%s is deleted: recordings exceed recording.%s", file.path, key)
                total -= file.size
            else:
                undeletable = True
        if not undeletable or total <= budget:
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
        except FileNotFoundError:  # deleted by another node of this name
            return True
        except OSError as error:
            log.debug("%s cannot be deleted: %s", path, error)
            return False

    def _files(self) -> list[_File]:
        files = []
        for entry, name in self._entries():
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # deleted meanwhile
                continue
            if stat.S_ISREG(status.st_mode):
                files.append(_File(self.path / entry.name, name, status.st_size))
        return files

    def _entries(self) -> Iterable[tuple["os.DirEntry[str]", RecorderName]]:
        """Files of this node's recorders. Files of the node `arm_2` do not belong to the node
        `arm`."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                name = parsed(self._names, entry.name)
                if name is not None:
                    yield entry, name
