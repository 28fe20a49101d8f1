"""The clocks that ages of messages are computed by: those of this computer, or the virtual clock of
a recording that a test plays."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

_virtual_ns: ContextVar[Callable[[], int] | None] = ContextVar("virtual_ns", default=None)


def virtual_ns() -> int | None:
    """The moment on a recording's clock, in ns; None where time is real."""
    now = _virtual_ns.get()
    return None if now is None else now()


def monotonic_s() -> float:
    """Seconds on a clock that never goes back."""
    now = _virtual_ns.get()
    return time.monotonic() if now is None else now() / 1e9


def elapsing_s() -> float:
    """Seconds on a clock that never goes back and includes suspended time."""
    now = _virtual_ns.get()
    return (boottime_ns() if now is None else now()) / 1e9


_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in ns, which includes suspended time; CLOCK_MONOTONIC on a system without."""
    return time.monotonic_ns() if _BOOTTIME is None else time.clock_gettime_ns(_BOOTTIME)


_FIRST_TIME_NAMESPACE = "time:[4026531834]"
"""The time namespace that a computer starts with (PROC_TIME_INIT_INO of the kernel)."""


@functools.cache
def boot_id() -> str | None:
    """Identifies the CLOCK_MONOTONIC and CLOCK_BOOTTIME of this process's stamps: the boot id, and
    in a time namespace of its own (time_namespaces(7)) also its number. None off Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    try:
        namespace = str(Path("/proc/self/ns/time").readlink())
    except OSError:  # a kernel before 5.6 has one for all
        return boot
    return boot if namespace == _FIRST_TIME_NAMESPACE else f"{boot} {namespace}"


@contextlib.contextmanager
def virtual_time(now_ns: Callable[[], int]) -> Iterator[None]:
    """Inside, ages are computed by this clock, in ns, in place of the computer's."""
    before = _virtual_ns.set(now_ns)
    try:
        yield
    finally:
        _virtual_ns.reset(before)
