"""AwakeClock: time in which this process ran. A stopped process (SIGSTOP, the cgroup freezer) and a
suspended computer make every other clock jump."""

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from perception_client.messages.clock import boottime_ns

BEAT_S = 0.05
STANDSTILL_S = 1.0
"""A beat that is this late was not delayed by load: the process stood still."""
_LONGEST_NS = 100_000_000
"""Most that the time between two beats counts for."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Beat:
    boot_ns: int
    awake_ns: int
    resumed_ns: int


class AwakeClock:
    """A clock that does not count standstills of its process. A supervisor of other threads needs
    it: a thread does not hang while the whole process stands still. A process freezes as a whole,
    so one thread that only beats notices for all.

    Any thread may read the clock. Until `start` it is an ordinary clock.
    """

    def __init__(self, read_ns: Callable[[], int] = boottime_ns) -> None:
        """read_ns: a clock in ns that counts suspend."""
        self._read_ns = read_ns
        self._began_ns = read_ns()
        self._beat: _Beat | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Starts the thread that beats."""
        self.beat()
        self._thread.start()

    def close(self) -> None:
        """Ends the thread that beats."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def now_ns(self) -> int:
        """Awake time in ns; never decreases."""
        beat, now_ns = self._beat, self._read_ns()
        if beat is None:
            return now_ns - self._began_ns
        return beat.awake_ns + min(now_ns - beat.boot_ns, _LONGEST_NS)

    @property
    def resumed_ns(self) -> int:
        """End of the last standstill of over `STANDSTILL_S`, on CLOCK_MONOTONIC in ns; 0 without a
        standstill."""
        beat = self._beat
        if beat is None:
            return 0
        late = self._read_ns() - beat.boot_ns > STANDSTILL_S * 1e9
        return time.monotonic_ns() if late else beat.resumed_ns

    def result(self, future: "Future[_Result]", timeout_s: float) -> _Result:
        """The result of a Future. Raises TimeoutError after `timeout_s` of awake time."""
        self.wait_for_any((future,), timeout_s)
        return future.result(0)

    def wait_for_any(self, futures: "Collection[Future[Any]]", timeout_s: float) -> None:
        """Returns when the first Future is done, or after `timeout_s` of awake time."""
        until_ns = self.now_ns() + int(timeout_s * 1e9)
        while (left_s := (until_ns - self.now_ns()) / 1e9) > 0:
            if wait(futures, min(left_s, 2 * BEAT_S), FIRST_COMPLETED).done:
                return

    def beat(self) -> None:
        """One beat. Called by the thread that beats alone."""
        resumed_ns, awake_ns = self.resumed_ns, self.now_ns()
        self._beat = _Beat(self._read_ns(), awake_ns, resumed_ns)

    def _run(self) -> None:
        while not self._closing.wait(BEAT_S):
            self.beat()
