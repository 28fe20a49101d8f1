"""Waiting: how long a thread slept in a call, and did not work or stand in line for a core."""

import contextlib
import time
from pathlib import Path

_STATISTICS = "/proc/thread-self/schedstat"
"""Time on a core and time in line for one, in ns (Linux, Documentation/scheduler/sched-stats)."""


class Waiting:
    """From its making on, of the thread that made it. A decoder that works inside the call that
    reads is no waiting; neither is a busy computer."""

    def __init__(self) -> None:
        self._began_ns = time.monotonic_ns()
        self._busy_ns = _busy_ns()

    def waited_ns(self) -> int:
        """How long the thread slept since then."""
        passed_ns = time.monotonic_ns() - self._began_ns
        return max(0, passed_ns - (_busy_ns() - self._busy_ns))


def _busy_ns() -> int:
    with contextlib.suppress(OSError, ValueError), Path(_STATISTICS).open(encoding="ascii") as file:
        on_core, in_line = file.read().split()[:2]
        return int(on_core) + int(in_line)
    return time.thread_time_ns()
