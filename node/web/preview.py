"""Preview: small pictures of the labelled frames, each with its labels, made only while the page
has viewers."""

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
    """A labelled frame and its message."""

    @property
    def image(self) -> Image:
        """[height, width, 3] uint8 BGR."""
        ...

    @property
    def message(self) -> LabelsMessage:
        """The message as it was published."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the page.

    made_at: time on CLOCK_MONOTONIC in s. content: the labels of the frame, ready for JSON. jpeg:
    the encoded picture.
    """

    made_at: float
    content: dict[str, Any]
    jpeg: bytes


class Preview:
    """Makes the pictures for all viewers, so that many viewers cost no more than one. Any
    thread."""

    def __init__(
        self, snapshot: Callable[[str], "Future[Any]"], fps: float, longest_px: int
    ) -> None:
        """snapshot: requests the next labelled frame of a camera. fps: highest rate of pictures of
        each camera. longest_px: length of the longer side."""
        self._snapshot = snapshot
        self._period_s = 1 / fps
        self._longest_px = longest_px
        self._lock = threading.Lock()
        self._newest: dict[str, Shown] = {}
        self._locks: dict[str, threading.Lock] = {}

    @property
    def period_s(self) -> float:
        """Shortest time between two pictures of a camera, in s."""
        return self._period_s

    def picture(self, camera: str, timeout_s: float) -> Shown | None:
        """The newest picture of a camera, at most half a period old; None where no frame is
        labelled within `timeout_s`. Blocks."""
        with self._lock:
            lock = self._locks.setdefault(camera, threading.Lock())
        with lock:
            newest = self._newest.get(camera)
            if newest is not None and time.monotonic() - newest.made_at < self._period_s * 0.5:
                return newest
            request: Future[Any] = self._snapshot(camera)
            try:
                snapshot: Snapshot = request.result(timeout_s)
            except TimeoutError:
                request.cancel()
                return None
            shown = self._shown(snapshot)
            self._newest[camera] = shown
            return shown

    def _shown(self, snapshot: Snapshot) -> Shown:
        height, width = snapshot.image.shape[:2]
        scale = min(1.0, self._longest_px / max(height, width))
        small = snapshot.image
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            resized = cv2.resize(snapshot.image, size, interpolation=cv2.INTER_AREA)
            small = np.asarray(resized, np.uint8)
        message = to_map(snapshot.message)
        content = {
            key: message[key]
            for key in ("camera", "frame_id", "image", "labels", "detections", "areas")
        }
        content["kind"] = "picture"
        return Shown(time.monotonic(), content, encode_jpeg(small, QUALITY))
