"""Merges the files of a recording: their records in the order of log time, each once."""

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from perception_client.recordings.records import Entry

FOREVER_NS = 1 << 64
_MOST_AT_ONCE = 10_000
"""Most records of one log time that are compared to find duplicates."""


class EntryFile(Protocol):
    """One file of a recording."""

    @property
    def start_ns(self) -> int:
        """First log time."""
        ...

    def entries(self, start_ns: int, end_ns: int) -> Iterator[Entry]:
        """Yields the records of [start_ns, end_ns), sorted by log time."""
        ...


def merged(
    files: Sequence[EntryFile], start_ns: int = 0, end_ns: int = FOREVER_NS
) -> Iterator[Entry]:
    """Yields the records of [start_ns, end_ns) of all files, sorted by log time. A record that two
    files contain, such as a part and a black box of the same time, comes once.

    files: sorted by their first log times.
    """
    at_ns = -1
    counts: dict[tuple[str, int, int], Counter[int]] = {}
    for number, entry in _numbered(files, start_ns, end_ns):
        if entry.log_ns != at_ns or len(counts) >= _MOST_AT_ONCE:
            at_ns = entry.log_ns
            counts.clear()
        identity = (entry.channel.topic, entry.sequence, hash(entry.data))
        of_files = counts.setdefault(identity, Counter())
        most = max(of_files.values(), default=0)
        of_files[number] += 1
        if of_files[number] > most:  # equal records of one file are no copies
            yield entry


def _numbered(
    files: Sequence[EntryFile], start_ns: int, end_ns: int
) -> Iterator[tuple[int, Entry]]:
    """Yields the entries of all files, each with the number of its file, sorted by log time. Opens
    each file when its time comes, so that a recording of a hundred parts has only a few open."""
    coming = deque(files)
    heads: list[tuple[int, int, Entry, Iterator[Entry]]] = []
    number = 0
    while heads or coming:
        while coming and (not heads or coming[0].start_ns <= heads[0][0]):
            entries = coming.popleft().entries(start_ns, end_ns)
            first = next(entries, None)
            if first is not None:
                heapq.heappush(heads, (first.log_ns, number, first, entries))
            number += 1
        if heads:
            _, file_number, entry, entries = heads[0]
            yield file_number, entry
            following = next(entries, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following.log_ns, file_number, following, entries))
