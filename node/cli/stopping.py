"""Ctrl-C, SIGTERM and SIGHUP: a command that is still starting ends at once, a running command ends
cleanly."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_STOP = threading.Event()
_AGAIN_S = 0.01
"""After which a stop that Python ignored comes again."""
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

    def stop_again(number: int, frame: FrameType | None) -> None:
        if not _waits_for_stop:
            raise SystemExit(0)

    def ignored(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, SystemExit) and _STOP.is_set():
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            hook_before(unraisable)

    _STOP.clear()  # a signal may have ended an earlier command of this process
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    # Python ignores an exception in a callback, such as those of imports and destructors.
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, stop_again)
    hook_before, sys.unraisablehook = sys.unraisablehook, ignored
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook_before
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
