"""Admission: limits the open requests of each command, per client and in total."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from node.errors import ControlError


@dataclass(frozen=True, slots=True)
class Share:
    """Limits of the open requests of one command.

    of_one: of one client. of_all: of all clients; None where a request holds no limited resource,
    so that the requests of one client never cause a refusal for another.
    """

    of_one: int
    of_all: int | None = None


class Admission:
    """Counts the open requests. Safe to call from any thread.

    shares: limits by command. other: limits of each other command.
    """

    def __init__(self, shares: Mapping[str, Share], other: Share) -> None:
        self._shares = shares
        self._other = other
        self._lock = threading.Lock()
        self._of_client: Counter[tuple[str, str]] = Counter()
        self._of_all: Counter[str] = Counter()

    def enter(self, command: str, client: str) -> None:
        """Counts a request as open. Raises ControlError beyond a limit."""
        share = self._shares.get(command, self._other)
        with self._lock:
            if self._of_client[command, client] >= share.of_one:
                raise ControlError(
                    f"{command}: {share.of_one} of yours are in work already",
                    fix="wait for an answer",
                )
            if share.of_all is not None and self._of_all[command] >= share.of_all:
                raise ControlError(
                    f"{command}: {share.of_all} are in work already", fix="ask again"
                )
            self._of_client[command, client] += 1
            self._of_all[command] += 1

    def leave(self, command: str, client: str) -> None:
        """Counts an admitted request as done."""
        with self._lock:
            self._of_all[command] -= 1
            self._of_client[command, client] -= 1
            if not self._of_client[command, client]:
                del self._of_client[command, client]
