"""WorkTimer: seconds since inference on the current batch began, by which a hang is detected."""

import contextlib
from collections.abc import Iterator

from node.process.awake import AwakeClock


class WorkTimer:
    """Times the current batch in awake time. The inference thread starts and stops the timer; any
    thread reads `busy_s`."""

    def __init__(self, awake: AwakeClock) -> None:
        self._awake = awake
        self._began_ns: int | None = None

    @property
    def busy_s(self) -> float:
        """Seconds since inference on the current batch began; 0 when idle."""
        began_ns = self._began_ns
        return 0.0 if began_ns is None else (self._awake.now_ns() - began_ns) / 1e9

    def start(self) -> None:
        """Begins to time a batch, from 0."""
        self._began_ns = self._awake.now_ns()

    def stop(self) -> None:
        """Ends the batch."""
        self._began_ns = None

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Does not count the block, and times a batch in work anew after it. A publisher that is
        busy is not a model that hangs."""
        working, self._began_ns = self._began_ns is not None, None
        yield
        if working:
            self.start()
