"""Log limit: a stranger can cause one line in a while, never one line a request."""

import logging
import threading
import time
from collections import OrderedDict

PERIOD_S = 10.0
"""Between two lines of one kind: an attack that lasts is visible, and a day of it is under 2 MB."""
_MOST_KINDS = 64
_MOST_CHARACTERS = 300


class LogLimit:
    """Admits one line of each kind in `period_s`. Any thread may ask."""

    def __init__(self, period_s: float = PERIOD_S) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._kinds: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, kind: str) -> int | None:
        """The number of lines of this kind that were suppressed since the last one, where a line
        may be written now; else None, and the line counts as suppressed."""
        now = time.monotonic()
        with self._lock:
            said_at, suppressed = self._kinds.pop(kind, (None, 0))
            if said_at is not None and now - said_at < self._period_s:
                self._kinds[kind] = (said_at, suppressed + 1)
                return None
            self._kinds[kind] = (now, 0)
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
            return suppressed


class LimitedLog:
    """A logger for what strangers cause."""

    def __init__(self, logger: logging.Logger, period_s: float = PERIOD_S) -> None:
        self._logger = logger
        self._limit = LogLimit(period_s)

    def warning(self, kind: str, text: str) -> None:
        """Writes one line, cut to a length that no stranger chooses. kind: lines of one kind count
        together."""
        suppressed = self._limit.admit(kind)
        if suppressed is not None:
            self._logger.warning("%.300s%s", text, _more(suppressed))


class _Filter(logging.Filter):
    """Keeps another library's records to one short line of each kind in a while."""

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
    """Limits the loggers of libraries that write a line, or a stack trace, for what a stranger
    sent."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Filter) for one in logger.filters):
            logger.addFilter(_Filter())


def _more(suppressed: int) -> str:
    return f" ({suppressed} more like this in between)" if suppressed else ""
