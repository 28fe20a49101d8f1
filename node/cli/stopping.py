"""Ctrl-C, SIGTERM and SIGHUP: a command that is still getting ready ends at once, a running one
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
    """Ends the command with exit code 0 at the first signal; the second one kills.

    SIGHUP says that the terminal was closed, and comes from the shell and from the kernel both, so
    its second one kills nothing. Who started the command with it ignored (`nohup`) has it ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        _STOP.set()
        if number != signal.SIGHUP:
            signal.signal(number, signal.SIG_DFL)
        if not _waits_for_stop:
            raise SystemExit(0)

    _STOP.clear()  # a command before it, in the same process, may have ended by it
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
    """The event that a signal sets, for a command that stops by itself when it sees it."""
    global _waits_for_stop
    _waits_for_stop = True
    try:
        yield _STOP
    finally:
        _waits_for_stop = False
