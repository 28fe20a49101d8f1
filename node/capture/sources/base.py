"""Source: what a camera, a stream, a video and a folder of pictures have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from node.image.frame import Image, Stamp


@dataclass(frozen=True, slots=True)
class Picture:
    """What a source read: a frame that does not know its number yet.

    image: [height, width, 3] uint8, BGR. capture_ns: from the stamp to the decoded image.
    lap: how often a recording that loops began again. jpeg: the bytes it came in, if JPEG.
    dropped: pictures that were given up before it, since the one before.
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
    """What the source turned out to be, None where it does not say.

    differences: each setting that was asked for and not given, in words.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None
    differences: tuple[str, ...] = ()


class Source(Protocol):
    """An open source. Opening is its constructor's work, which raises SourceError.

    live: frames come when they come and are lost if nobody takes them; a source that is not live
    has an end, and waits.
    """

    live: bool
    facts: SourceFacts

    def read(self) -> Picture | None:
        """The next picture; None at the end. Blocks. Raises SourceError when a camera fails."""
        ...

    def summary(self) -> str | None:
        """At the end: what was really read, in words; None when there is nothing to say."""
        ...

    def close(self) -> None:
        """Gives the device or file back."""
        ...


@runtime_checkable
class Skips(Protocol):
    """A source that can pass over frames for less than it takes to read them."""

    def skip_to(self, media_ns: int) -> int:
        """Before the first `read`: passes over frames that lie before a position, and never over
        one that does not; how many that were."""
        ...


@runtime_checkable
class FallsShort(Protocol):
    """A source that may deliver less than it gets. Any thread may ask."""

    @property
    def shortfall(self) -> str | None:
        """Why pictures are passed over now, and what to do; None while all is well."""
        ...


Report = Callable[[str], None]
"""Told in one line about a picture that could not be read and was left out."""
