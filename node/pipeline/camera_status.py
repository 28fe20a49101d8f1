"""Which status each camera has, and when it has to be said."""

import time

from perception_client.messages.kinds import Status

REPEAT_S = 1.0
"""How often a status other than `ok` is said again while it lasts (wire format, schema 1)."""


def camera_status(*, is_open: bool, silent_s: float | None, stall_timeout_s: float) -> Status:
    """The status of a camera that is not paused.

    silent_s: seconds since its newest frame, or since it was opened; None before that.
    """
    if not is_open or silent_s is None:
        return Status.NO_CAMERA
    return Status.STALLED if silent_s > stall_timeout_s else Status.OK


class StatusAnnouncer:
    """Remembers what was said of one camera. `ok` is never announced: a labelled frame says it."""

    def __init__(self) -> None:
        self._said: Status = Status.OK
        self._said_at = 0.0

    def due(self, status: Status, ok_at: float = 0.0) -> bool:
        """Whether `status` has to be published now: at its change, then once a second. ok_at: when
        a labelled frame was sent last, on the monotonic clock; one that was in work when its camera
        was lost comes after that was said, and must not be the last word."""
        now = time.monotonic()
        changed = status is not self._said or ok_at > self._said_at
        if changed or now - self._said_at >= REPEAT_S:
            self._said, self._said_at = status, now
            return status is not Status.OK
        return False
