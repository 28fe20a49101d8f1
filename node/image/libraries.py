"""loaded_libraries: C libraries within Python packages, for settings that the packages do not
offer."""

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path


def loaded_libraries(name: str) -> Iterator[ctypes.CDLL]:
    """Yields the libraries of this process whose path contains `name`. None where there is no
    /proc, as outside of Linux."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for path in {line.split(maxsplit=5)[-1] for line in maps.splitlines() if name in line}:
        with contextlib.suppress(OSError):
            yield ctypes.CDLL(path)
