"""RecordingFolder: names of files, and how much disk they may take."""

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".mcap"
BLACK_BOX = "black-box"
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RecordingFolder:
    """Where the recordings of a node are. budget_bytes: what they may take together, None for no
    limit; keep_free_bytes: what has to stay free on the disk for everybody else."""

    path: Path
    node: str
    budget_bytes: int | None
    keep_free_bytes: int

    def new_path(self, kind: str = "") -> Path:
        """A name that no file has: node, UTC, kind. Raises OSError where the folder cannot be
        made."""
        self.path.mkdir(parents=True, exist_ok=True)
        moment = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
        stem = f"{self.node}_{moment}" + (f"_{kind}" if kind else "")
        number = 0
        while True:
            path = self.path / (stem + (f"_{number}" if number else "") + SUFFIX)
            if not path.exists():
                return path
            number += 1

    def make_room(self, writing: Path | None) -> None:
        """Deletes what is over the budget, oldest first and black boxes last; never the file that
        is being written. Raises OSError with ENOSPC where the disk is fuller than it may be."""
        if self.budget_bytes is not None:
            self._delete_beyond(self.budget_bytes, writing)
        free = shutil.disk_usage(self.path).free
        if free < self.keep_free_bytes:
            raise OSError(
                28,  # ENOSPC
                f"only {free // MIB} MiB are free, and recording.keep_free_mb leaves "
                f"{self.keep_free_bytes // MIB}",
            )

    def _delete_beyond(self, budget: int, writing: Path | None) -> None:
        sizes: dict[Path, int] = {}
        for path in self.path.glob(f"{self.node}_*{SUFFIX}"):
            with contextlib.suppress(OSError):  # gone meanwhile
                sizes[path] = path.stat().st_size
        taken = sum(sizes.values())
        for path in sorted(sizes, key=lambda path: (BLACK_BOX in path.name, path.name)):
            if taken <= budget:
                return
            if path != writing:
                path.unlink(missing_ok=True)
                taken -= sizes[path]
