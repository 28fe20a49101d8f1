"""BlackBox: the last seconds of everything, in memory; and how often it is written out."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from node.recording.entry import Entry

MOST_WAIT_S = 3600.0
"""Between two black boxes of one cause that comes again and again."""


class BlackBox:
    """Entries of the last `seconds`, at most `most_bytes` of them. Used by one thread."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._kept_ns = int(seconds * 1e9)
        self._most_bytes = most_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Remembers an entry, and forgets what is too old or too much."""
        self._entries.append(entry)
        self._bytes += len(entry.data)
        oldest_ns = entry.log_ns - self._kept_ns
        while self._entries and (
            self._bytes > self._most_bytes or self._entries[0].log_ns < oldest_ns
        ):
            self._bytes -= len(self._entries.popleft().data)

    def take(self) -> tuple[Entry, ...]:
        """All that is remembered, oldest first; from then on it is forgotten."""
        entries = tuple(self._entries)
        self._entries.clear()
        self._bytes = 0
        return entries


@dataclass(slots=True)
class _Series:
    """A cause that came, and may come again."""

    written_s: float
    newest_s: float
    wait_s: float


class DumpLimit:
    """Which of the moments at which a cause comes are written out: the first, then none for a wait.

    While it goes on, each wait is twice the one before, up to an hour: so the first ones are not
    pushed out of a budget by a night of the same. Where it was quiet for as long, it is new again.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._series: dict[Hashable, _Series] = {}

    def allows(self, cause: Hashable, now_s: float) -> bool:
        """Whether a cause that comes now is to be written out."""
        series = self._series.get(cause)
        if series is None or now_s - series.newest_s >= series.wait_s:
            self._series[cause] = _Series(now_s, now_s, self._interval_s)
            return True
        series.newest_s = now_s
        if now_s - series.written_s < series.wait_s:
            return False
        series.written_s = now_s
        series.wait_s = max(min(2 * series.wait_s, MOST_WAIT_S), self._interval_s)
        return True
