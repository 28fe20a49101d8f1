"""SleepMeter: how long a thread slept, as opposed to running or waiting for a CPU core."""

import os
import time

_STATISTICS = "/proc/thread-self/schedstat"
"""Time running and time waiting for a core, in ns (Linux, Documentation/scheduler/sched-stats)."""


class SleepMeter:
    """Measures the thread that constructs it; no other thread may call it. Time spent waiting for a
    core, or decoding inside the reading call, is not a wait for a picture. Without the kernel's
    statistics, waiting for a core counts as sleep.

    A wait for Python's interpreter lock counts as sleep. Such waits are short, because every long
    operation releases the lock.
    """

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open(_STATISTICS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def slept_ns(self) -> int:
        """Time slept, in ns since an arbitrary origin; only differences are meaningful."""
        return time.monotonic_ns() - self._busy_ns()

    def close(self) -> None:
        """Closes the file; further calls do nothing."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _busy_ns(self) -> int:
        if self._file is None:
            return time.thread_time_ns()
        on_core, waiting_for_core = os.pread(self._file, 100, 0).split()[:2]
        return int(on_core) + int(waiting_for_core)
