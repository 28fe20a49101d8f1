"""BlackBox: the last seconds of a recording, in memory."""

from collections import deque

from perception_client.recordings.records import Entry


class BlackBox:
    """Keeps the entries of the last `seconds`, at most `most_bytes` of data. Used by one thread."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._kept_ns = int(seconds * 1e9)
        self._most_bytes = most_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Adds an entry, and removes the oldest ones beyond the limits of time and size."""
        self._entries.append(entry)
        self._bytes += len(entry.data)
        oldest_ns = entry.log_ns - self._kept_ns
        while self._entries and (
            self._bytes > self._most_bytes or self._entries[0].log_ns < oldest_ns
        ):
            self._bytes -= len(self._entries.popleft().data)

    def take(self) -> tuple[Entry, ...]:
        """Removes and returns all entries, oldest first."""
        entries = tuple(self._entries)
        self._entries.clear()
        self._bytes = 0
        return entries
