"""AnimationSource: reads an animated picture (GIF, WebP, PNG) frame by frame, like a video. FFmpeg
has no decoder for animated WebP."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image as PilImage

from node.capture.sources.base import Picture, SourceFacts
from node.capture.sources.image_files import read_images
from node.errors import SourceError
from node.image.frame import Image, Stamp

_FORMATS = ("GIF", "PNG", "WEBP")
_SHORTEST_MS, _DEFAULT_MS = 11, 100
"""A frame that claims less time than the first lasts for the second, as in browsers."""
_MOST_PADDING = 1024
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, PilImage.DecompressionBombError)
"""Exceptions of Pillow for a file that it cannot read."""


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
        self._durations_ns = _durations_ns(file)
        self._images = read_images(file)
        self._first: Image | None = next(self._images)
        self._read = self._laps = self._media_ns = 0
        self._failure: str | None = None
        self.facts = SourceFacts(
            width=self._first.shape[1],
            height=self._first.shape[0],
            fps=1e9 * len(self._durations_ns) / sum(self._durations_ns),
        )

    def read(self) -> Picture | None:
        """As `Source.read`."""
        started_ns = time.monotonic_ns()
        image = self._next()
        if image is None and self._loop:
            self._laps += 1
            self._images = read_images(self._file)
            image = self._next()
        if image is None:
            return None
        media_ns = self._media_ns
        self._media_ns += self._durations_ns[self._read % len(self._durations_ns)]
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

    def _next(self) -> Image | None:
        """Returns the next frame; None at the end, or at damage, which is noted."""
        image, self._first = self._first, None
        if image is not None:
            return image
        try:
            image = next(self._images, None)
        except SourceError as error:
            self._failure = f"{error}; copy it again"
            return None
        if image is None and not _has_end(self._file):
            self._failure = f"{self._file} is cut off: its end mark is missing; copy it again"
        return image


def is_animated(file: Path) -> bool:
    """Whether a file is a picture with several frames, by its content. False for a file that cannot
    be read."""
    try:
        if not file.is_file():
            return False
        with PilImage.open(file, formats=_FORMATS) as opened:
            return bool(getattr(opened, "is_animated", False))
    except _DAMAGE:
        return False


def _durations_ns(file: Path) -> list[int]:
    """How long each frame lasts; at least one."""
    durations_ns = []
    try:
        with PilImage.open(file, formats=_FORMATS) as opened:
            for duration_ms in _durations_ms(opened):
                shown_ms = duration_ms if duration_ms >= _SHORTEST_MS else _DEFAULT_MS
                durations_ns.append(round(1e6 * shown_ms))
    except _DAMAGE:
        pass  # The decoding of the frames reports it.
    return durations_ns or [round(1e6 * _DEFAULT_MS)]


def _durations_ms(opened: PilImage.Image) -> Iterator[float]:
    for index in itertools.count():
        opened.seek(index)  # raises EOFError behind the last
        if opened.format == "WEBP":
            opened.load()  # sets the duration
        yield opened.info.get("duration") or 0.0


def _has_end(file: Path) -> bool:
    """Whether a GIF ends as it has to (GIF89a, 27); Pillow takes any end for that of a frame. True
    for other formats."""
    with file.open("rb") as opened:
        if opened.read(3) != b"GIF":
            return True
        opened.seek(max(0, file.stat().st_size - _MOST_PADDING))
        return opened.read().rstrip(b"\0\r\n").endswith(b";")
