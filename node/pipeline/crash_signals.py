"""Crash signals: runs a last action before a signal that can be caught ends this process. The
watchdog of systemd sends SIGABRT."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

CAUGHT = (signal.SIGABRT, signal.SIGQUIT)
"""Not SIGSEGV and SIGBUS: after a fault of the process itself, Python cannot run safely."""


@contextlib.contextmanager
def on_crash_signal(last_words: Callable[[str], None]) -> Iterator[None]:
    """Calls `last_words` with the name of the signal, then lets the signal take its default action.

    Only the main thread receives signals; on another thread this context has no effect.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        try:
            last_words(signal.Signals(number).name)
        finally:
            os.kill(os.getpid(), number)

    before = {number: signal.signal(number, handle) for number in CAUGHT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
