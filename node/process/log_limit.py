"""Log limit: bounds the lines that foreign clients cause: one a period, never one a request."""

import logging
import threading
import time
from collections import OrderedDict

PERIOD_S = 10.0
"""Shortest time between two lines of a kind: an attack stays visible, a day of it is under 2 MB."""
_MOST_KINDS = 64
_MOST_CHARACTERS = 300


class LogLimit:
    """Admits one line of each kind in `period_s`. Any thread."""

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, kind: str) -> int | None:
        """Whether a line of a kind may be written now. Returns the number of lines suppressed since
        the last one; None where the line is to be suppressed, and is counted."""
        now = time.monotonic()
        with self._lock:
            written_at, suppressed = self._kinds.pop(kind, (None, 0))
            if written_at is not None and now - written_at < self._period_s:
                self._kinds[kind] = (written_at, suppressed + 1)
                return None
            self._kinds[kind] = (now, 0)
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
            return suppressed


class LimitedLog:
    """A logger for events that foreign clients cause."""

    def __init__(self, logger: logging.Logger, period_s: float = PERIOD_S) -> None:
        self._logger = logger
        self._limit = LogLimit(period_s)

    def warning(self, kind: str, text: str) -> None:
        """Writes one line, truncated to a bounded length. kind: lines of one kind share a limit."""
        self._write(logging.WARNING, kind, text)

    def info(self, kind: str, text: str) -> None:
        """As `warning`, at the level INFO."""
        self._write(logging.INFO, kind, text)

    def _write(self, level: int, kind: str, text: str) -> None:
        suppressed = self._limit.admit(kind)
        if suppressed is not None:
            self._logger.log(level, "%.300s%s", text, _more(suppressed))


class _Filter(logging.Filter):
    """Limits the records of a library to one short line of each kind a period."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = LogLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        suppressed = self._limit.admit(f"{record.pathname}:{record.lineno}")
        if suppressed is None:
            return False
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text = f"{text}: {record.exc_info[1]!r}"
        text = text.splitlines()[0] if text else text
        record.msg = f"{record.name}: {text[:_MOST_CHARACTERS]}{_more(suppressed)}"
        record.args = None
        record.exc_info = record.exc_text = record.stack_info = None
        return True


def limit_library_logs(*names: str) -> None:
    """Limits the loggers of libraries that write a line, or a stack trace, for a malformed
    request."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Filter) for known in logger.filters):
            logger.addFilter(_Filter())


def _more(suppressed: int) -> str:
    return f" ({suppressed} more like this in between)" if suppressed else ""
