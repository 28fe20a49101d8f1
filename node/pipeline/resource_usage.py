"""Meters of the process: CPU time, memory, and the latency of the labels."""

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
    """CPU time and memory of this process. Used by one thread. A value that cannot be read is None;
    the only descriptor is opened at the start, so later none can be missing."""

    def __init__(self, statm: Path = Path("/proc/self/statm")) -> None:
        self._statm: int | None = None
        with contextlib.suppress(OSError):
            self._statm = os.open(statm, os.O_RDONLY | os.O_CLOEXEC)
        self._started = time.monotonic()
        self._last = (time.monotonic(), time.process_time())

    def rss_bytes(self) -> int | None:
        """Resident memory; None where the kernel does not report it."""
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
        """Closes the descriptor."""
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None


class LatencyMeter:
    """Latency from capture to publish of the newest messages. Bounded memory; any thread."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=_MOST_KEPT)
        self._lock = threading.Lock()

    def add(self, latency_ns: int) -> None:
        """Notes one message."""
        with self._lock:
            self._recent.append(latency_ns)

    def take(self) -> Latency | None:
        """Percentiles in ns since the last call; None without a message."""
        with self._lock:
            recent = np.array(self._recent)
            self._recent.clear()
        if not recent.size:
            return None
        p50, p99 = np.percentile(recent, [50, 99])
        return Latency(p50=int(p50), p99=int(p99), maximum=int(recent.max()))
