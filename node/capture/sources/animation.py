"""AnimationSource: reads an animated picture (GIF, WebP, PNG) frame by frame, like a video. FFmpeg
has no decoder for animated WebP."""

import time
from pathlib import Path

from PIL import Image as PilImage

from node.capture.sources.base import Picture, SourceFacts
from node.capture.sources.image_files import read_frames
from node.errors import SourceError
from node.image.frame import Image, Stamp
from node.image.limits import limits

_FORMATS = ("GIF", "PNG", "WEBP")
_SHORTEST_MS, _DEFAULT_MS = 11, 100
"""A frame that claims less time than the first lasts for the second, as in browsers."""


class AnimationSource:
    """Reads an animated picture. Each frame lasts as long as the file claims.

    Args:
        file: the picture.
        loop: restart at the end; how often the file itself asks for it does not count.

    Raises SourceError for a file without a picture that can be decoded.
    """

    live = False

    def __init__(self, file: Path, *, loop: bool = False) -> None:
        self._file = file
        self._loop = loop
        self._frames = read_frames(file)
        self._first: tuple[Image, float] | None = next(self._frames)
        self._read = self._laps = self._media_ns = 0
        self._failure: str | None = None
        image, claimed_ms = self._first
        self.facts = SourceFacts(
            width=image.shape[1], height=image.shape[0], fps=1e9 / _duration_ns(claimed_ms)
        )

    def read(self) -> Picture | None:
        """As `Source.read`."""
        started_ns = time.monotonic_ns()
        frame = self._next()
        if frame is None and self._loop:
            self._laps += 1
            self._frames = read_frames(self._file)
            frame = self._next()
        if frame is None:
            return None
        image, claimed_ms = frame
        media_ns = self._media_ns
        self._media_ns += _duration_ns(claimed_ms)
        self._read += 1
        capture_ns = time.monotonic_ns() - started_ns
        return Picture(
            image, Stamp.at_media(media_ns), media_ns, capture_ns, self._file, self._laps
        )

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return f"{self._file}: {self._read} frames read"

    @property
    def skipped(self) -> str | None:
        """As `Incomplete.skipped`."""
        return self._failure

    def close(self) -> None:
        """As `Source.close`."""

    def _next(self) -> tuple[Image, float] | None:
        """Returns the next frame; None at the end, or at damage, which is noted."""
        frame, self._first = self._first, None
        if frame is not None:
            return frame
        try:
            return next(self._frames, None)
        except SourceError as error:
            fix = "" if error.fix else "; copy it again"
            self._failure = f"{error}{fix}"
            return None


def is_animated(file: Path) -> bool:
    """Whether a file is a picture with several frames, by its content. False for a file that cannot
    be read."""
    try:
        # Pillow reads some formats as a whole, whatever their size.
        if not file.is_file() or file.stat().st_size > limits().max_picture_bytes:
            return False
        with PilImage.open(file, formats=_FORMATS) as opened:
            return bool(getattr(opened, "is_animated", False))
    except Exception:  # whatever a decoder raises; reading the file reports it
        return False


def _duration_ns(claimed_ms: float) -> int:
    shown_ms = claimed_ms if claimed_ms >= _SHORTEST_MS else _DEFAULT_MS
    return round(1e6 * shown_ms)
