"""What the process uses of the computer, and how old its labels are when they go out."""

import contextlib
import os
import resource
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np

from perception_client.messages.kinds import Latency

_MOST_KEPT = 4096


class ProcessMeter:
    """CPU and memory of this process. One thread reads it. A meter that fails costs its number,
    and nothing else: it needs no descriptor that it does not have from the start."""

    def __init__(self, statm: Path = Path("/proc/self/statm")) -> None:
        self._statm: int | None = None
        with contextlib.suppress(OSError):
            self._statm = os.open(statm, os.O_RDONLY | os.O_CLOEXEC)
        self._started = time.monotonic()
        self._last = (time.monotonic(), time.process_time())

    def rss_bytes(self) -> int | None:
        """Resident memory; None where the kernel does not tell it."""
        if self._statm is None:
            return None
        try:
            resident = int(os.pread(self._statm, 256, 0).split()[1])
        except (OSError, ValueError, IndexError):
            return None
        return resident * resource.getpagesize()

    def cpu(self) -> float:
        """Seconds of CPU time per second since the last call."""
        now, used = time.monotonic(), time.process_time()
        before, used_before = self._last
        self._last = (now, used)
        return (used - used_before) / max(now - before, 1e-9)

    def uptime_s(self) -> float:
        """Seconds since the meter was made."""
        return time.monotonic() - self._started

    def close(self) -> None:
        """Lets go of its descriptor."""
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None


class LatencyMeter:
    """Capture to publish of the latest messages. Bounded; any thread."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=_MOST_KEPT)
        self._lock = threading.Lock()

    def add(self, latency_ns: int) -> None:
        """Notes one message."""
        with self._lock:
            self._recent.append(latency_ns)

    def take(self) -> Latency | None:
        """Percentiles in ns of what was noted since the last call; None if nothing was."""
        with self._lock:
            recent = np.array(self._recent)
            self._recent.clear()
        if not recent.size:
            return None
        p50, p99 = np.percentile(recent, [50, 99])
        return Latency(p50=int(p50), p99=int(p99), maximum=int(recent.max()))
