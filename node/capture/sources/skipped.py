"""Skipped: counts the files that a job skipped, and why."""

from collections import Counter
from pathlib import Path

from node.errors import PerceptionError


class Skipped:
    """Counts the files that could not be read, or not to their end, by reason."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()

    def add(self, file: Path, error: PerceptionError) -> None:
        """Notes a file and its error."""
        self._reasons[error.problem.removeprefix(str(file)).lstrip(": ")] += 1

    @property
    def count(self) -> int:
        """Files."""
        return self._reasons.total()

    @property
    def why(self) -> str:
        """The most frequent reasons, in words."""
        frequent = self._reasons.most_common(3)
        others = self.count - sum(count for _, count in frequent)
        reasons = [f"{count} {reason}" for reason, count in frequent]
        return ", ".join(reasons + [f"{others} for other reasons"] * (others > 0))
