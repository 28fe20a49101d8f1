"""Reopening: when the next attempt to open a source that failed is due."""

import threading
import time
from collections.abc import Callable

from node.capture.sources.presence import Look, Presence
from node.errors import AccessError, SourceError

FIRST_BACKOFF_S = 0.1
"""Seconds from a failure to the first attempt."""
LONGEST_BACKOFF_S = 5.0
"""Most seconds between two attempts at a camera whose presence is unknown. A camera that refuses
this user is asked at doubling intervals up to this one: many block a user after a few failures."""
SHORT_OUTAGE_S = 60.0
"""Seconds during which an outage is expected to end soon."""
_LOOK_S = (0.1, 0.5)
"""Seconds from look to look, in a short and in a long outage."""
_ATTEMPT_S = (0.25, 1.0)
"""Least seconds between two attempts, in a short and in a long outage."""
_SHARE = (0.05, 0.01)
"""Most of one core that attempts may use, in a short and in a long outage."""
_WAITED_S = 1.0
"""An attempt that took longer waited for a camera that does not answer."""


class Reopening:
    """Paces the attempts of one outage after another. A look at the camera, where one is possible,
    replaces the attempts while the camera is away. After a look that found the camera and an
    attempt that failed all the same, attempts go on without looks: the camera may still be
    starting, or serve a single connection, which the look used up.

    Args:
        presence: how to look for the camera; None where that is impossible.
        stop: ends every wait when set.
        report: receives the error of a camera that is silent.
    """

    def __init__(
        self,
        presence: Presence | None,
        stop: threading.Event,
        report: Callable[[SourceError], None],
    ) -> None:
        self._presence = presence
        self._stop = stop
        self._report = report
        self._began_s: float | None = None
        self._refusal_s = FIRST_BACKOFF_S
        self._trusts_looks = True
        self._last_look: Look | None = None

    def end_outage(self) -> None:
        """Records that the camera delivered pictures since the last attempt."""
        self._began_s = None
        self._refusal_s = FIRST_BACKOFF_S
        self._trusts_looks, self._last_look = True, None

    def wait(self, error: SourceError, took_s: float, cpu_s: float) -> None:
        """Waits until the next attempt is due.

        Args:
            error: of the last attempt, or of the source that it opened.
            took_s: from the last attempt to the error.
            cpu_s: CPU time of this thread since then.
        """
        is_first, now_s = self._began_s is None, time.monotonic()
        if self._began_s is None:
            self._began_s = now_s
        if isinstance(error, AccessError):
            self._stop.wait(self._refusal_s)
            self._refusal_s = min(2 * self._refusal_s, LONGEST_BACKOFF_S)
            return
        if is_first:
            self._stop.wait(FIRST_BACKOFF_S)
        else:
            self._trusts_looks = took_s > _WAITED_S or (
                self._trusts_looks and self._last_look is not Look.THERE
            )
            pause_s = max(self._now(_ATTEMPT_S), cpu_s / self._now(_SHARE))
            self._stop.wait(min(pause_s, LONGEST_BACKOFF_S))
        if self._presence is not None and self._trusts_looks:
            self._await(self._presence)

    def _await(self, presence: Presence) -> None:
        """Looks until the camera is there, or an attempt would name a new reason."""
        while not self._stop.is_set():
            until_s = time.monotonic() + self._now(_LOOK_S)
            look = presence.look(self._now(_LOOK_S))
            is_new, self._last_look = look is not self._last_look, look
            if look is Look.THERE or (look is Look.ABSENT and is_new):
                break
            if is_new:
                problem, fix = presence.silence
                self._report(SourceError(problem, fix=fix))
            self._stop.wait(max(0.0, until_s - time.monotonic()))
        presence.close()

    def _now(self, short_and_long: tuple[float, float]) -> float:
        assert self._began_s is not None
        return short_and_long[time.monotonic() - self._began_s > SHORT_OUTAGE_S]
