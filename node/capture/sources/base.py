"""Source: the interface of cameras, streams, video files and image files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from node.image.frame import Image, Stamp


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as read from a source; a frame without its number.

    Attributes:
        image: [height, width, 3] uint8, BGR.
        stamp: when it was taken; None if unknown.
        media_ns: position in the recording, None for a live source and a photograph.
        capture_ns: time from the stamp to the decoded image.
        file: the file that it was read from, None for other sources.
        lap: how often a looping recording has restarted.
        jpeg: the JPEG bytes that it was decoded from, None for another format.
        dropped: pictures dropped since the previous one.
    """

    image: Image
    stamp: Stamp | None
    media_ns: int | None
    capture_ns: int
    file: Path | None = None
    lap: int = 0
    jpeg: bytes | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """Properties of an open source, each None if the source does not report it.

    Attributes:
        width: in pixels.
        height: in pixels.
        fps: reported rate, pictures a second.
        pixel_format: FOURCC.
        differences: each setting that the source did not accept, in words.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    differences: tuple[str, ...] = ()


class Source(Protocol):
    """An open source. The constructor opens it and raises SourceError on failure. Not thread-safe.

    Attributes:
        live: pictures arrive in real time and are lost unless they are read; a source that is not
            live has an end, and waits for its reader.
        facts: properties of the source.
    """

    live: bool
    facts: SourceFacts

    def read(self) -> Picture | None:
        """Returns the next picture, None at the end; blocks. Raises PictureError for a picture that
        cannot be decoded, BacklogError if only old pictures arrive, SourceError on failure of the
        source."""
        ...

    def summary(self) -> str | None:
        """Returns at the end what was read, in words; None for nothing to report."""
        ...

    def close(self) -> None:
        """Releases the device or file."""
        ...


@runtime_checkable
class Skips(Protocol):
    """A source that can skip frames at a lower cost than reading them."""

    def skip_to(self, media_ns: int) -> int:
        """Skips the frames before a position, never one at or after it. Only valid before the first
        `read`. Returns the number of skipped frames."""
        ...


@runtime_checkable
class Incomplete(Protocol):
    """A source that goes on behind pictures that cannot be read, or may end before its end."""

    @property
    def skipped(self) -> str | None:
        """What was skipped so far and why, in words; None where everything was read. Complete once
        `read` has returned None, and valid after `close`."""
        ...


@runtime_checkable
class FallsShort(Protocol):
    """A source that may return fewer pictures than it receives."""

    @property
    def shortfall(self) -> str | None:
        """Why pictures are dropped now, and the fix; None during normal operation. Any thread may
        read it."""
        ...

    @property
    def burst_s(self) -> float | None:
        """Seconds from burst to burst of a source whose pictures come several at once, then none
        for a while; None for another. Any thread may read it."""
        ...


Report = Callable[[str], None]
"""Called with one line for each image that could not be read and was skipped."""
