"""Ctrl-C, SIGTERM and SIGHUP: a command that is still starting ends at once, a running command ends
cleanly."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_STOP = threading.Event()
_waits_for_stop = False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Ends the command with exit code 0 at the first signal; the second signal kills the process.

    SIGHUP means that the terminal was closed. Both the shell and the kernel send it, so a second
    SIGHUP does not kill. Under `nohup`, which ignores SIGHUP, it stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _STOP.set()
        if number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
        if not _waits_for_stop:
            raise SystemExit(0)

    _STOP.clear()  # a signal may have ended an earlier command of this process
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Yields the event that a signal sets, for a command that polls it and stops by itself."""
    global _waits_for_stop
    _waits_for_stop = True
    try:
        yield _STOP
    finally:
        _waits_for_stop = False
