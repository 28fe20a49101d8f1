"""Pacing: when the pictures of a file are released, and which frames a rate limit keeps."""

import threading
import time
from dataclasses import replace

from node.capture.sources.base import Incomplete, Picture, Source, SourceFacts
from node.image.frame import Stamp


class MediaClock:
    """Blocks until positions of a recording are due. The clock starts with the first picture. A
    reader that falls behind does not delay the clock.

    Args:
        speed: factor of the recording's own rate; 1.0 is realtime.
        stop: ends a wait when set.
    """

    def __init__(self, speed: float, stop: threading.Event) -> None:
        self._speed = speed
        self._stop = stop
        self._start: tuple[int, int] | None = None

    def wait_until(self, media_ns: int) -> None:
        """Blocks until `media_ns` is due or the stop event is set."""
        now_ns = time.monotonic_ns()
        if self._start is None:
            self._start = (now_ns, media_ns)
        start_ns, first_media_ns = self._start
        due_ns = start_ns + (media_ns - first_media_ns) / self._speed
        self._stop.wait(min(max(0.0, (due_ns - now_ns) / 1e9), threading.TIMEOUT_MAX))


class RateLimit:
    """Selects frames so that at most `max_fps` a second pass on average, regardless of jitter: a
    late frame does not delay the next. Any thread may change the rate.

    Args:
        max_fps: frames a second; None: all frames.
    """

    def __init__(self, max_fps: float | None) -> None:
        self._due_ns: int | None = None
        self.changed_ns: int | None = None
        """Time of the last `change`, CLOCK_MONOTONIC; None before the first."""
        self._set(max_fps)

    def change(self, max_fps: float | None) -> None:
        """Sets the rate from the next frame on."""
        self._set(max_fps)
        self.changed_ns = time.monotonic_ns()
        self._due_ns = None

    def _set(self, max_fps: float | None) -> None:
        self._period_ns = round(1e9 / max_fps) if max_fps else 0
        self.max_fps = max_fps

    def wants(self, stamp_ns: int) -> bool:
        """Whether to use a frame of this time, in ns on a monotonic clock."""
        due_ns = self._due_ns
        if due_ns is None:
            due_ns = stamp_ns
        if stamp_ns < due_ns:
            return False
        self._due_ns = max(due_ns + self._period_ns, stamp_ns)
        return True


class RealtimeSource:
    """Plays a file like a camera: at its own rate, each frame stamped on release.

    Args:
        source: the file.
        stop: ends a wait when set.
        limit: which frames to keep; None: all.
    """

    live = False

    def __init__(
        self, source: Source, stop: threading.Event, limit: RateLimit | None = None
    ) -> None:
        self._source = source
        self._clock = MediaClock(1.0, stop)
        self._limit = limit or RateLimit(None)
        self.facts: SourceFacts = source.facts

    def read(self) -> Picture | None:
        """As `Source.read`; blocks until the position of the picture is due."""
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
        """As `Source.summary`."""
        return self._source.summary()

    @property
    def skipped(self) -> str | None:
        """As `Incomplete.skipped`."""
        return self._source.skipped if isinstance(self._source, Incomplete) else None

    def close(self) -> None:
        """As `Source.close`."""
        self._source.close()
