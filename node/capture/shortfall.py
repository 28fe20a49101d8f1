"""Shortfall: how many pictures of a stream could not be shown, and why."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from node.capture.backlog import MOST_LATE_NS

log = logging.getLogger(__name__)

Reason = Literal["late", "slow"]
_EXPLANATIONS: dict[Reason, str] = {
    "late": (
        "its pictures come late, in bursts or without pause, and can be older than {bound:.2g} s "
        "and a period; check network and server (a recorded file behind an address, and a server "
        "that sends only what changes, need discard_backlog = false)"
    ),
    "slow": "it is decoded more slowly than it comes; lower its size or rate, or free the CPU",
}
_BURSTS = (
    "its pictures come in bursts, one each {burst_s:.2g} s, and only those that are at most "
    "{bound:.2g} s and a period old are labelled; let the server send each picture at once, or set "
    "discard_backlog = false"
)
SPAN_S = 1.0
"""Interval over which pictures are counted."""
_MIN_FRACTION = 0.1
"""Fraction of the pictures of an interval; as many not shown make a shortfall."""
_LOG_EVERY_S = 60.0


class Shortfall:
    """Counts the pictures of one stream. Several threads may call it without a lock: a race can
    only miscount by a picture.

    Args:
        camera: name of the camera.
        burst_s: returns as `FallsShort.burst_s`.
    """

    def __init__(self, camera: str, burst_s: Callable[[], float | None] = lambda: None) -> None:
        self._camera = camera
        self._burst_s = burst_s
        self._began_s = time.monotonic()
        self._has_shown = False
        self._arrived = 0
        self._not_shown: dict[Reason, int] = {"late": 0, "slow": 0}
        self._reason: Reason | None = None
        self._valid_until_s = 0.0
        self._logged_s = -_LOG_EVERY_S

    @property
    def why(self) -> str | None:
        """Current problem of the stream and its fix; None during normal operation."""
        if self._reason is None or time.monotonic() > self._valid_until_s:
            return None
        return f"camera '{self._camera}': {self._explanation(self._reason)}"

    @property
    def complaint(self) -> str:
        """The problem and its fix when no picture can be shown at all."""
        return f"camera '{self._camera}': {self._explanation(self._reason or self._main_reason)}"

    def came(self) -> None:
        """Counts a picture that arrived."""
        now_s = time.monotonic()
        self._arrived += 1
        if now_s - self._began_s >= SPAN_S:
            self._end_interval(now_s)

    def shown(self) -> None:
        """Records that a picture was shown. The first call resets the counts: pictures sent at
        opening were taken before it, and are no shortfall."""
        if not self._has_shown:
            self._has_shown = True
            self._began_s, self._arrived, self._not_shown = (
                time.monotonic(),
                0,
                {"late": 0, "slow": 0},
            )

    def passed(self, pictures: int, reason: Reason) -> None:
        """Counts pictures that were not shown."""
        self._not_shown[reason] += pictures

    @property
    def _main_reason(self) -> Reason:
        return max(self._not_shown, key=lambda reason: self._not_shown[reason])

    def _explanation(self, reason: Reason) -> str:
        burst_s, bound_s = self._burst_s(), MOST_LATE_NS / 1e9
        if reason == "late" and burst_s is not None:
            return _BURSTS.format(burst_s=burst_s, bound=bound_s)
        return _EXPLANATIONS[reason].format(bound=bound_s)

    def _end_interval(self, now_s: float) -> None:
        reason = self._main_reason
        short = self._has_shown and sum(self._not_shown.values()) >= _MIN_FRACTION * self._arrived
        previous_reason, self._reason = self._reason, reason if short else None
        self._valid_until_s = now_s + 2 * SPAN_S
        self._began_s, self._arrived, self._not_shown = now_s, 0, {"late": 0, "slow": 0}
        if short and previous_reason is None and now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            log.warning(
                "camera '%s': pictures are dropped: %s", self._camera, self._explanation(reason)
            )
