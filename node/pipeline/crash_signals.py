"""Crash signals: what is still done when something kills this process with a signal that can be
caught. systemd's watchdog sends SIGABRT."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

CAUGHT = (signal.SIGABRT, signal.SIGQUIT)
"""A fault of the processor's own (SIGSEGV, SIGBUS) leaves nothing to run Python on."""


@contextlib.contextmanager
def on_crash_signal(last_words: Callable[[str], None]) -> Iterator[None]:
    """Calls `last_words` with the signal's name, then lets the signal do what it does.

    Only the main thread gets signals; on another this does nothing.
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
