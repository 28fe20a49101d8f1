"""DumpTrigger: which messages are a reason to write the black box out, and how often."""

import logging
from collections.abc import Hashable
from dataclasses import dataclass

from node.config.schema import BlackBoxEventConfig, RecordingConfig
from perception_client.messages.kinds import EventMessage, LabelsMessage, Message, Status

log = logging.getLogger(__name__)

MOST_WAIT_S = 3600.0
"""Between two black boxes of one cause that comes again and again."""


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


class DumpTrigger:
    """Looks at every message. skipped: how many reasons came too soon after one of their cause."""

    def __init__(self, settings: RecordingConfig) -> None:
        self._settings = settings
        self._limit = DumpLimit(settings.black_box_min_interval_s)
        self._statuses: dict[str, Status] = {}
        self._told: set[Hashable] = set()
        self.skipped = 0

    def reason(self, message: Message, now_s: float) -> str | None:
        """Why the black box is to be written out, as a part of a file's name; else None."""
        if isinstance(message, LabelsMessage):
            before = self._statuses.get(message.camera)  # None while the node starts
            self._statuses[message.camera] = message.status
            if before is Status.OK and message.status in (Status.STALLED, Status.NO_CAMERA):
                return self._limited(str(message.status), ("lost", message.camera), now_s)
        elif isinstance(message, EventMessage) and any(
            _names(wanted, message) for wanted in self._settings.black_box_events
        ):
            reason = f"{message.kind}-{_in_file_names(message.name)}"
            cause = (message.kind, message.camera, message.name, message.region)
            return self._limited(reason, cause, now_s)
        return None

    def _limited(self, reason: str, cause: Hashable, now_s: float) -> str | None:
        if self._limit.allows(cause, now_s):
            self._told.discard(cause)
            return reason
        self.skipped += 1
        if cause not in self._told:
            self._told.add(cause)
            log.warning(
                "black box (%s) not written: its cause comes again too soon "
                "(recording.black_box_min_interval_s = %g); health counts what is left out",
                reason, self._settings.black_box_min_interval_s,
            )  # fmt: skip
        return None


def _names(wanted: BlackBoxEventConfig, message: EventMessage) -> bool:
    return (
        wanted.kind == message.kind
        and wanted.name in (None, message.name)
        and wanted.region in (None, message.region)
    )


def _in_file_names(name: str) -> str:
    """Letters and digits of a name; a file's name has at most 255 bytes."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in name)
    return safe.encode()[:40].decode(errors="ignore")
