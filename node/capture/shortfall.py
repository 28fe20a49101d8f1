"""Shortfall: how many pictures of a stream could not be shown, and why."""

import logging
import time
from typing import Literal

from node.capture.backlog import MOST_LATE_NS

log = logging.getLogger(__name__)

Reason = Literal["late", "slow"]
_WHY: dict[Reason, str] = {
    "late": (
        "its pictures come late, or without pause, and can be older than {bound:.2g} s and a "
        "period; check network and server (a recorded file behind an address, and a server that "
        "sends only what changes, need discard_backlog = false)"
    ),
    "slow": "it is decoded more slowly than it comes; lower its size or rate, or free the CPU",
}
SPAN_S = 1.0
"""Interval over which pictures are counted."""
_SHARE = 0.1
"""Fraction of the pictures of an interval; as many not shown make a shortfall."""
_LOG_EVERY_S = 60.0


class Shortfall:
    """Counts the pictures of one stream. Several threads may call it without a lock: a race can
    only miscount by a picture.

    Args:
        camera: name of the camera.
    """

    def __init__(self, camera: str) -> None:
        self._camera = camera
        self._began_s = time.monotonic()
        self._begun = False
        self._came = 0
        self._passed: dict[Reason, int] = {"late": 0, "slow": 0}
        self._reason: Reason | None = None
        self._until_s = 0.0
        self._logged_s = -_LOG_EVERY_S

    @property
    def why(self) -> str | None:
        """Current problem of the stream and its fix; None during normal operation."""
        if self._reason is None or time.monotonic() > self._until_s:
            return None
        return f"camera '{self._camera}': {self._explanation(self._reason)}"

    @property
    def complaint(self) -> str:
        """The problem and its fix when no picture can be shown at all."""
        return f"camera '{self._camera}': {self._explanation(self._reason or self._main_reason)}"

    def came(self) -> None:
        """Counts a picture that arrived."""
        now_s = time.monotonic()
        self._came += 1
        if now_s - self._began_s >= SPAN_S:
            self._judge(now_s)

    def shown(self) -> None:
        """Records that a picture was shown. The first call resets the counts: pictures sent at
        opening were taken before it, and are no shortfall."""
        if not self._begun:
            self._begun = True
            self._began_s, self._came, self._passed = time.monotonic(), 0, {"late": 0, "slow": 0}

    def passed(self, pictures: int, reason: Reason) -> None:
        """Counts pictures that were not shown."""
        self._passed[reason] += pictures

    @property
    def _main_reason(self) -> Reason:
        return max(self._passed, key=lambda reason: self._passed[reason])

    def _explanation(self, reason: Reason) -> str:
        return _WHY[reason].format(bound=MOST_LATE_NS / 1e9)

    def _judge(self, now_s: float) -> None:
        reason = self._main_reason
        short = self._begun and sum(self._passed.values()) >= _SHARE * self._came
        before, self._reason = self._reason, reason if short else None
        self._until_s = now_s + 2 * SPAN_S
        self._began_s, self._came, self._passed = now_s, 0, {"late": 0, "slow": 0}
        if short and before is None and now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            log.warning(
                "camera '%s': pictures are dropped: %s", self._camera, self._explanation(reason)
            )
