"""RecordingFolder: names of files, and how much disk they may take."""

import contextlib
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".mcap"
BLACK_BOX = "black-box"
MIB = 1024 * 1024
_OF_NODE = re.compile(rf"\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\dZ(_.*)?{re.escape(SUFFIX)}$")
"""What follows the node's name in the name of a file."""


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
        taken = [x.stem.removeprefix(stem) for x in self.path.glob(f"{stem}*{SUFFIX}")]
        numbers = [int(x[1:] or 0) for x in taken if x[1:].isdecimal() or not x]
        # Beyond all others of this second: names are deleted in their order.
        number = f"_{max(numbers) + 1:03d}" if numbers else ""
        return self.path / f"{stem}{number}{SUFFIX}"

    def make_room(self, *kept: Path) -> None:
        """Deletes what is over the budget, oldest first and black boxes last; never what is to be
        kept, such as the file that is being written. Raises OSError with ENOSPC where the disk is
        fuller than it may be."""
        if self.budget_bytes is not None:
            self._delete_beyond(self.budget_bytes, kept)
        free = shutil.disk_usage(self.path).free
        if free < self.keep_free_bytes:
            raise OSError(
                28,  # ENOSPC
                f"only {free // MIB} MiB are free, and recording.keep_free_mb leaves "
                f"{self.keep_free_bytes // MIB}",
            )

    def _delete_beyond(self, budget: int, kept: tuple[Path, ...]) -> None:
        sizes: dict[Path, int] = {}
        for path in filter(self._is_ours, self.path.iterdir()):
            with contextlib.suppress(OSError):  # gone meanwhile
                sizes[path] = path.stat().st_size
        taken = sum(sizes.values())
        for path in sorted(sizes, key=lambda path: (BLACK_BOX in path.name, path.name)):
            if taken <= budget:
                return
            if path not in kept:
                path.unlink(missing_ok=True)
                taken -= sizes[path]

    def _is_ours(self, path: Path) -> bool:
        """Whether this node wrote it: the node `arm` has no say over files of the node `arm_2`."""
        prefix = f"{self.node}_"
        return path.name.startswith(prefix) and bool(_OF_NODE.match(path.name[len(prefix) :]))
