"""Pacing: when a picture of a file comes out."""

import threading
import time
from dataclasses import replace

from node.capture.sources.base import Picture, Source, SourceFacts
from node.image.frame import Stamp


class MediaClock:
    """Waits until the moments of a recording, played at `speed` (1.0: its own rate).

    The clock starts with the first picture. A reader that falls behind is not waited for.
    """

    def __init__(self, speed: float, stop: threading.Event) -> None:
        self._speed = speed
        self._stop = stop
        self._start: tuple[int, int] | None = None

    def wait_until(self, media_ns: int) -> None:
        """Returns at `media_ns`, or as soon as the stop event is set."""
        now_ns = time.monotonic_ns()
        if self._start is None:
            self._start = (now_ns, media_ns)
        start_ns, first_media_ns = self._start
        due_ns = start_ns + (media_ns - first_media_ns) / self._speed
        self._stop.wait(min(max(0.0, (due_ns - now_ns) / 1e9), threading.TIMEOUT_MAX))


class RateLimit:
    """Chooses frames so that at most `max_fps` a second are wanted, None for all, on average and
    whatever the jitter: a frame that comes late does not put off the next. Any thread may change
    the rate."""

    def __init__(self, max_fps: float | None) -> None:
        self._due_ns: int | None = None
        self.changed_ns: int | None = None
        """When another rate was asked for, on CLOCK_MONOTONIC."""
        self._set(max_fps)

    def change(self, max_fps: float | None) -> None:
        """Another rate from the next frame on."""
        self._set(max_fps)
        self.changed_ns = time.monotonic_ns()
        self._due_ns = None

    def _set(self, max_fps: float | None) -> None:
        self._period_ns = round(1e9 / max_fps) if max_fps else 0
        self.max_fps = max_fps

    def wants(self, stamp_ns: int) -> bool:
        """Whether to use a frame of this moment, in ns on a clock that only grows."""
        due_ns = self._due_ns
        if due_ns is None:
            due_ns = stamp_ns
        if stamp_ns < due_ns:
            return False
        self._due_ns = max(due_ns + self._period_ns, stamp_ns)
        return True


class RealtimeSource:
    """A file played as if it were a camera: at its own rate, and stamped when it comes out."""

    live = False

    def __init__(
        self, source: Source, stop: threading.Event, limit: RateLimit | None = None
    ) -> None:
        self._source = source
        self._clock = MediaClock(1.0, stop)
        self._limit = limit or RateLimit(None)
        self.facts: SourceFacts = source.facts

    def read(self) -> Picture | None:
        picture = self._source.read()
        while picture is not None and not self._wants(picture):
            picture = self._source.read()
        if picture is None or picture.media_ns is None:
            return picture
        self._clock.wait_until(picture.media_ns)
        return replace(picture, stamp=Stamp.now(), capture_ns=0)

    def _wants(self, picture: Picture) -> bool:
        return picture.media_ns is None or self._limit.wants(picture.media_ns)

    def summary(self) -> str | None:
        return self._source.summary()

    def close(self) -> None:
        self._source.close()
