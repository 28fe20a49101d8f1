"""What the process uses of the computer, and how old its labels are when they go out."""

import threading
import time
from collections import deque

import numpy as np
import psutil

from node.wire.messages import Latency

_MOST_KEPT = 4096


class ProcessMeter:
    """CPU and memory of this process. One thread reads it."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = time.monotonic()
        self._last = (time.monotonic(), self._cpu_s())

    def rss_bytes(self) -> int:
        """Resident memory."""
        return int(self._process.memory_info().rss)

    def cpu(self) -> float:
        """Seconds of CPU time per second since the last call."""
        now, used = time.monotonic(), self._cpu_s()
        before, used_before = self._last
        self._last = (now, used)
        return (used - used_before) / max(now - before, 1e-9)

    def uptime_s(self) -> float:
        """Seconds since the meter was made."""
        return time.monotonic() - self._started

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


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
