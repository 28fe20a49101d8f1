"""Admission: how many requests of each kind may be in work, of one client and of all."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from node.errors import ControlError


@dataclass(frozen=True, slots=True)
class Share:
    """How many requests of one kind may be in work. of_all: None where they hold nothing that
    could run out, so that nobody's requests can have another's refused."""

    of_one: int
    of_all: int | None = None


class Admission:
    """Counts the requests in work. Any thread.

    shares: by command. other: of each command that is not in it.
    """

    def __init__(self, shares: Mapping[str, Share], other: Share) -> None:
        self._shares = shares
        self._other = other
        self._lock = threading.Lock()
        self._of_client: Counter[tuple[str, str]] = Counter()
        self._of_all: Counter[str] = Counter()

    def enter(self, command: str, client: str) -> None:
        """Admits a request, or raises ControlError."""
        share = self._shares.get(command, self._other)
        with self._lock:
            if self._of_client[command, client] >= share.of_one:
                raise ControlError(
                    f"{command}: {share.of_one} of yours are in work already; wait for an answer"
                )
            if share.of_all is not None and self._of_all[command] >= share.of_all:
                raise ControlError(f"{command}: {share.of_all} are in work already; ask again")
            self._of_client[command, client] += 1
            self._of_all[command] += 1

    def leave(self, command: str, client: str) -> None:
        """A request that was admitted is done."""
        with self._lock:
            self._of_all[command] -= 1
            self._of_client[command, client] -= 1
            if not self._of_client[command, client]:
                del self._of_client[command, client]
