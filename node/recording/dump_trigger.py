"""DumpTrigger: decides which messages cause the black box to be written, and how often."""

import logging
from collections.abc import Hashable
from dataclasses import dataclass

from node.config.schema import BlackBoxEventConfig, RecordingConfig
from perception_client.messages.kinds import EventMessage, LabelsMessage, Message, Status

log = logging.getLogger(__name__)

MOST_WAIT_S = 3600.0
"""Longest wait between two black boxes of one recurring cause."""


@dataclass(slots=True)
class _Series:
    """Occurrences of one cause; times in seconds on a monotonic clock."""

    written_s: float
    """Of the newest black box."""
    newest_s: float
    """Of the newest occurrence."""
    wait_s: float
    """From one black box to the next."""


class DumpLimit:
    """Limits the black boxes of one cause: allows the first occurrence, then none for a wait.

    While the cause recurs, each wait is twice the previous one, up to an hour, so that a night of
    recurrences does not push the first black boxes out of the budget. A cause that stayed away for
    a wait counts as new.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._series: dict[Hashable, _Series] = {}

    def allows(self, cause: Hashable, now_s: float) -> bool:
        """Whether to write a black box for an occurrence at `now_s`."""
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
    """Checks every message for a reason to write the black box.

    Attributes:
        skipped: reasons that came too soon after a black box of the same cause.
    """

    def __init__(self, settings: RecordingConfig) -> None:
        self._settings = settings
        self._limit = DumpLimit(settings.black_box_min_interval_s)
        self._statuses: dict[str, Status] = {}
        self._warned: set[Hashable] = set()
        self.skipped = 0

    def reason(self, message: Message, now_s: float) -> str | None:
        """The reason to write the black box, as a part of a file's name; None without a reason."""
        if isinstance(message, LabelsMessage):
            before = self._statuses.get(message.camera)  # None while the node starts
            self._statuses[message.camera] = message.status
            if before is Status.OK and message.status in (Status.STALLED, Status.NO_CAMERA):
                return self._limited(str(message.status), ("lost", message.camera), now_s)
        elif isinstance(message, EventMessage) and any(
            _matches(trigger, message) for trigger in self._settings.black_box_events
        ):
            reason = f"{message.kind}-{_in_file_names(message.name)}"
            cause = (message.kind, message.camera, message.name, message.region)
            return self._limited(reason, cause, now_s)
        return None

    def _limited(self, reason: str, cause: Hashable, now_s: float) -> str | None:
        if self._limit.allows(cause, now_s):
            self._warned.discard(cause)
            return reason
        self.skipped += 1
        if cause not in self._warned:
            self._warned.add(cause)
            log.warning(
                "black box (%s) not written: its cause comes again too soon "
                "(recording.black_box_min_interval_s = %g); health counts the skipped ones",
                reason, self._settings.black_box_min_interval_s,
            )  # fmt: skip
        return None


def _matches(trigger: BlackBoxEventConfig, message: EventMessage) -> bool:
    return (
        trigger.kind == message.kind
        and trigger.name in (None, message.name)
        and trigger.region in (None, message.region)
    )


def _in_file_names(name: str) -> str:
    """Letters and digits of a name, at most 40 bytes, since a file name has at most 255."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in name)
    return safe.encode()[:40].decode(errors="ignore")
