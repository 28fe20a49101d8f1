"""What time it is for who asks how old a message is: now, or the time of a recording that is played
in a test."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_virtual_ns: ContextVar[Callable[[], int] | None] = ContextVar("virtual_ns", default=None)


def virtual_ns() -> int | None:
    """The moment on a recording's clock, in ns; None where time is real."""
    now = _virtual_ns.get()
    return None if now is None else now()


def monotonic_s() -> float:
    """Seconds on a clock that only grows."""
    now = _virtual_ns.get()
    return time.monotonic() if now is None else now() / 1e9


@contextlib.contextmanager
def virtual_time(now_ns: Callable[[], int]) -> Iterator[None]:
    """Inside, ages are told by this clock, in ns, in place of the computer's."""
    before = _virtual_ns.set(now_ns)
    try:
        yield
    finally:
        _virtual_ns.reset(before)
