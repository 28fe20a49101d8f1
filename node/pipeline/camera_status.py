"""The status of each camera, and when the status is due for publishing."""

import time

from perception_client.messages.kinds import Status

REPEAT_S = 1.0
"""Period at which a status other than `ok` is published while it lasts (wire format, schema 1)."""


def camera_status(*, is_open: bool, silent_s: float | None, stall_timeout_s: float) -> Status:
    """The status of a camera that is not paused.

    silent_s: seconds since the newest frame, or since the source was opened; None before that.
    """
    if not is_open or silent_s is None:
        return Status.NO_CAMERA
    return Status.STALLED if silent_s > stall_timeout_s else Status.OK


class StatusAnnouncer:
    """Remembers the last published status of one camera. `ok` is never announced: a labelled frame
    carries it."""

    def __init__(self) -> None:
        self._published: Status = Status.OK
        self._published_at = 0.0

    def due(self, status: Status, ok_at: float = 0.0) -> bool:
        """Whether `status` is due now: at its change, then once a second.

        ok_at: time of the newest labelled frame, on CLOCK_MONOTONIC in s. A frame that was in
        inference when its camera was lost is sent after the new status, which is then due again.
        """
        now = time.monotonic()
        changed = status is not self._published or ok_at > self._published_at
        if changed or now - self._published_at >= REPEAT_S:
            self._published, self._published_at = status, now
            return status is not Status.OK
        return False
