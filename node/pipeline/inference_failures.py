"""InferenceFailures: the frames that the model failed on, and when there are too many in a row."""

import logging
import re

from node.errors import FrameError, InferenceError, PerceptionError
from node.process.log_limit import LogLimit

log = logging.getLogger(__name__)

MAX_FAILURES = 10
"""Failures in a row that end the node: only a new process helps then."""
_LOG_PERIOD_S = 60.0
"""Shortest time between two lines for the same reason."""
_NUMBER = re.compile(r"-?\d[\d.]*(e[+-]?\d+)?")


class InferenceFailures:
    """Counts failures. The inference thread writes; any thread reads the attributes.

    lost_frames: frames without labels because the model failed. last_error: the newest failure,
    None before the first.
    """

    def __init__(self) -> None:
        self.lost_frames = 0
        self.last_error: str | None = None
        self._in_a_row = 0
        self._log_limit = LogLimit(_LOG_PERIOD_S)

    def note_success(self) -> None:
        """Ends a row of failures."""
        self._in_a_row = 0

    def note_rollback(self, reason: str) -> None:
        """Notes that the model was replaced by its predecessor instead of losing a frame."""
        self.last_error = reason

    def note_lost(self, camera: str, error: Exception) -> InferenceError | None:
        """Counts one lost frame. Returns the error that ends the node once the model has failed on
        `MAX_FAILURES` frames in a row, else None."""
        self.lost_frames += 1
        self._in_a_row += 1
        reason = str(error) if isinstance(error, PerceptionError) else repr(error)
        # Once for each reason, whose numbers differ from frame to frame, not once for each frame.
        suppressed = self._log_limit.admit(f"{camera} {_NUMBER.sub('#', reason)}")
        if suppressed is not None:
            more = f" ({suppressed} more frames before)" if suppressed else ""
            log.error("camera '%s': frame lost: %s%s", camera, reason, more)
        self.last_error = reason
        if self._in_a_row < MAX_FAILURES or isinstance(error, FrameError):
            return None
        fatal = InferenceError(
            f"the model failed on {self._in_a_row} frames in a row ({reason})",
            fix="the node ends, so that a supervisor restarts it",
        )
        fatal.__cause__ = error
        return fatal
