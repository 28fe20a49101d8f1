"""Preview: small pictures of what was labelled, each with its message, made only while somebody
looks."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from node.image.frame import Image
from node.image.jpeg import encode_jpeg
from node.image.opencv import cv2
from perception_client.messages.codec import to_map
from perception_client.messages.kinds import LabelsMessage

QUALITY = 75


class Snapshot(Protocol):
    """A labelled frame and the message that tells of it."""

    @property
    def image(self) -> Image:
        """[height, width, 3] uint8 BGR."""
        ...

    @property
    def message(self) -> LabelsMessage:
        """As it was published."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the page. told: what goes with it, as JSON has it."""

    made_at: float
    told: dict[str, Any]
    jpeg: bytes


class Preview:
    """Shared by all who look, so that many cost no more than one.

    snapshot: asks for the next labelled frame of a camera. fps: most pictures a second of each
    camera; longest_px: of the longer side.
    """

    def __init__(
        self, snapshot: Callable[[str], "Future[Any]"], fps: float, longest_px: int
    ) -> None:
        self._snapshot = snapshot
        self._period_s = 1 / fps
        self._longest_px = longest_px
        self._lock = threading.Lock()
        self._newest: dict[str, Shown] = {}
        self._locks: dict[str, threading.Lock] = {}

    @property
    def period_s(self) -> float:
        """Shortest time between two pictures of a camera."""
        return self._period_s

    def picture(self, camera: str, timeout_s: float) -> Shown | None:
        """The newest picture, made now if the last one is older than a period; None where no frame
        is labelled in time. Blocks."""
        with self._lock:
            lock = self._locks.setdefault(camera, threading.Lock())
        with lock:
            newest = self._newest.get(camera)
            if newest is not None and time.monotonic() - newest.made_at < self._period_s * 0.5:
                return newest
            asked: Future[Any] = self._snapshot(camera)
            try:
                taken: Snapshot = asked.result(timeout_s)
            except TimeoutError:
                asked.cancel()
                return None
            shown = self._shown(taken)
            self._newest[camera] = shown
            return shown

    def _shown(self, taken: Snapshot) -> Shown:
        height, width = taken.image.shape[:2]
        scale = min(1.0, self._longest_px / max(height, width))
        small = taken.image
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            resized = cv2.resize(taken.image, size, interpolation=cv2.INTER_AREA)
            small = np.asarray(resized, np.uint8)
        message = to_map(taken.message)
        told = {
            key: message[key]
            for key in ("camera", "frame_id", "image", "labels", "detections", "areas")
        }
        told["kind"] = "picture"
        return Shown(time.monotonic(), told, encode_jpeg(small, QUALITY))
