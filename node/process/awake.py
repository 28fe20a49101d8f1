"""AwakeClock: time in which this process ran. A process that is stopped (SIGSTOP, the cgroup
freezer), and a computer that is suspended, leave every other clock with a jump in it."""

import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from perception_client.messages.clock import boottime_ns

BEAT_S = 0.05
STANDSTILL_S = 1.0
"""A pulse that is this late was not delayed by load: the process stood still."""
_LONGEST_NS = 100_000_000
"""What the time between two beats counts for at most."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Beat:
    boot_ns: int
    awake_ns: int
    resumed_ns: int


class AwakeClock:
    """A clock that does not count what its own pulse slept through: who watches others for hanging
    must not blame them for the time in which it stood still itself. A process freezes as a whole,
    so one thread that only beats knows it of all.

    Any thread may read it. Until `start` it is an ordinary clock. read_ns: a clock in ns that goes
    on during suspend.
    """

    def __init__(self, read_ns: Callable[[], int] = boottime_ns) -> None:
        self._read_ns = read_ns
        self._began_ns = read_ns()
        self._beat: _Beat | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begins to beat."""
        self.beat()
        self._thread.start()

    def close(self) -> None:
        """Beats no more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def now_ns(self) -> int:
        """Awake time in ns; never goes back."""
        beat, now_ns = self._beat, self._read_ns()
        if beat is None:
            return now_ns - self._began_ns
        return beat.awake_ns + min(now_ns - beat.boot_ns, _LONGEST_NS)

    @property
    def resumed_ns(self) -> int:
        """When the process last went on after it had stood still for over STANDSTILL_S, on
        CLOCK_MONOTONIC in ns; 0 where it never did."""
        beat = self._beat
        if beat is None:
            return 0
        late = self._read_ns() - beat.boot_ns > STANDSTILL_S * 1e9
        return time.monotonic_ns() if late else beat.resumed_ns

    def result(self, future: "Future[_Result]", timeout_s: float) -> _Result:
        """A Future's result. Raises TimeoutError after so long in awake time."""
        self.wait_for_any((future,), timeout_s)
        return future.result(0)

    def wait_for_any(self, futures: "Collection[Future[Any]]", timeout_s: float) -> None:
        """Returns when the first of some Futures is done, or after so long in awake time."""
        until_ns = self.now_ns() + int(timeout_s * 1e9)
        while (left_s := (until_ns - self.now_ns()) / 1e9) > 0:
            if wait(futures, min(left_s, 2 * BEAT_S), FIRST_COMPLETED).done:
                return

    def beat(self) -> None:
        """One beat. Called by the pulse alone."""
        resumed_ns, awake_ns = self.resumed_ns, self.now_ns()
        self._beat = _Beat(self._read_ns(), awake_ns, resumed_ns)

    def _run(self) -> None:
        while not self._closing.wait(BEAT_S):
            self.beat()
