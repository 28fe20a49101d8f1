"""Shortfall: how much of what a stream delivers had to be passed over, and why."""

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
"""Over which pictures are counted."""
_SHARE = 0.1
"""Of the pictures of such a time: as many passed over make a shortfall."""
_LOG_EVERY_S = 60.0


class Shortfall:
    """Counts the pictures of one stream. Several threads may note; safe since each note is small
    and none is decisive.

    camera: its name.
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
        """What is wrong with the stream now, and what to do; None while nothing is."""
        if self._reason is None or time.monotonic() > self._until_s:
            return None
        return f"camera '{self._camera}': {self._words(self._reason)}"

    @property
    def complaint(self) -> str:
        """The same where nothing can be shown at all."""
        return f"camera '{self._camera}': {self._words(self._reason or self._mostly)}"

    def came(self) -> None:
        """One more picture came."""
        now_s = time.monotonic()
        self._came += 1
        if now_s - self._began_s >= SPAN_S:
            self._judge(now_s)

    def shown(self) -> None:
        """One could be shown: what a stream sends at opening is of before, and no shortfall."""
        if not self._begun:
            self._begun = True
            self._began_s, self._came, self._passed = time.monotonic(), 0, {"late": 0, "slow": 0}

    def passed(self, pictures: int, reason: Reason) -> None:
        """So many of them were not shown."""
        self._passed[reason] += pictures

    @property
    def _mostly(self) -> Reason:
        return max(self._passed, key=lambda x: self._passed[x])

    def _words(self, reason: Reason) -> str:
        return _WHY[reason].format(bound=MOST_LATE_NS / 1e9)

    def _judge(self, now_s: float) -> None:
        reason = self._mostly
        short = self._begun and sum(self._passed.values()) >= _SHARE * self._came
        before, self._reason = self._reason, reason if short else None
        self._until_s = now_s + 2 * SPAN_S
        self._began_s, self._came, self._passed = now_s, 0, {"late": 0, "slow": 0}
        if short and before is None and now_s - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = now_s
            log.warning(
                "camera '%s': pictures are passed over: %s", self._camera, self._words(reason)
            )
