"""SleepMeter: how long a thread slept, and neither worked nor stood in line for a core."""

import os
import time

_STATISTICS = "/proc/thread-self/schedstat"
"""Time on a core and time in line for one, in ns (Linux, Documentation/scheduler/sched-stats)."""


class SleepMeter:
    """Of the thread that made it; no other may ask. A reader that was kept from its core did not
    wait for a picture, and neither did one that decodes inside the call that reads. Where the
    kernel does not tell, time in line for a core counts as sleep.

    Known to count as sleep: a wait for Python's interpreter lock, which is short while all else
    that takes long releases it.
    """

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open(_STATISTICS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def slept_ns(self) -> int:
        """Up to now, since any moment."""
        return time.monotonic_ns() - self._busy_ns()

    def close(self) -> None:
        """Gives its file back; twice does no harm."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _busy_ns(self) -> int:
        if self._file is None:
            return time.thread_time_ns()
        on_core, in_line = os.pread(self._file, 100, 0).split()[:2]
        return int(on_core) + int(in_line)
