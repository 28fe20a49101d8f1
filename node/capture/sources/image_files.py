"""Sources of image files: a file, a folder or a glob, in natural order."""

import glob
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from node.capture.sources.base import Picture, Report, SourceFacts
from node.capture.sources.skipped import Skipped
from node.config.redact import redacted
from node.errors import PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.jpeg import START, holds_another
from node.image.limits import check_bytes
from node.image.still import HEAD_BYTES, decode_frames, is_still
from perception_client.paths import expanded, matching, natural

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
)
_MOST_JPEG_BYTES = 64 << 20
"""Bytes within which the second picture of motion JPEG begins."""
UNREAD = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".exr", ".hdr", ".tga", ".psd", ".svg", ".dng"}
    | {".cr2", ".cr3", ".nef", ".arw"}
)
"""Pictures that the node does not read: one in a folder is reported, not passed over."""


class ImageFilesSource:
    """Reads image files in order, each with all its pictures. A file that cannot be read is
    reported, skipped and counted.

    Args:
        files: in order.
        fps: images a second on the media clock.
        loop: restart at the end.
        report: called once for each file that cannot be read.
    """

    live = False

    def __init__(
        self, files: list[Path], *, fps: float, loop: bool = False, report: Report
    ) -> None:
        self._files = files
        self._fps = fps
        self._loop = loop
        self._report = report
        self._pictures = self._lap()
        self._read = 0
        self._bad: set[Path] = set()
        self._skipped = Skipped()
        self.facts = SourceFacts(fps=fps)

    def read(self) -> Picture | None:
        """As `Source.read`; skips files that cannot be read."""
        picture = next(self._pictures, None)
        if picture is None and self._loop and self._read:
            self._pictures = self._lap()
            picture = next(self._pictures, None)
        return picture

    def summary(self) -> str | None:
        """As `Source.summary`."""
        read = f"{self._read} picture{'s' * (self._read != 1)} read"
        return read if self.skipped is None else f"{read}, {self.skipped}"

    @property
    def skipped(self) -> str | None:
        """As `Incomplete.skipped`."""
        if not self._skipped.count:
            return None
        return f"{self._skipped.count} of {len(self._files)} files skipped: {self._skipped.why}"

    def close(self) -> None:
        """As `Source.close`."""
        pass

    def _lap(self) -> Iterator[Picture]:
        for file in self._files:
            started_ns = time.monotonic_ns()
            try:
                for image in read_images(file):
                    media_ns = round(self._read * 1e9 / self._fps)
                    self._read += 1
                    capture_ns = time.monotonic_ns() - started_ns
                    yield Picture(image, Stamp.at_media(media_ns), media_ns, capture_ns, file)
                    started_ns = time.monotonic_ns()
            except SourceError as error:
                if file not in self._bad:
                    self._bad.add(file)
                    self._skipped.add(file, error)
                    self._report(f"{error}; skipped")


class ImageFile:
    """Reads one image file, without stamps or positions. `read` raises SourceError if the file
    cannot be read."""

    live = False

    def __init__(self, file: Path) -> None:
        self._file = file
        self._images = read_images(file)
        self.facts = SourceFacts()

    def read(self) -> Picture | None:
        """As `Source.read`."""
        started_ns = time.monotonic_ns()
        image = next(self._images, None)
        if image is None:
            return None
        return Picture(image, None, None, time.monotonic_ns() - started_ns, self._file)

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        pass


def find_image_files(source: str) -> list[Path] | None:
    """Returns the image files that a path or glob names, in natural order; None if it names none,
    such as a video file. Raises SourceError for a folder or glob without images."""
    path = expanded(source)
    check_reachable(path)
    if path.is_dir():
        files = [entry for entry in entries_of(path) if is_image_name(entry)]
        if not files:
            raise SourceError(f"{path} holds no pictures", fix=f"these are read: {ALL_READ}")
        return files
    if os.path.lexists(path):
        return [path] if is_image_file(path) else None
    if glob.has_magic(source):
        files = [entry for entry in matching(path) if is_image_name(entry)]
        if not files:
            raise SourceError(f"{redacted(source)}: no picture matches", fix="put a glob in quotes")
        return files
    return None


def check_reachable(path: Path) -> None:
    """Raises SourceError for a path that the system refuses to look at: too long, or in a folder
    that this user may not enter."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{redacted(str(path))} cannot be read: {reason}") from error


ALL_READ = ", ".join(sorted(SUFFIXES))


def entries_of(folder: Path) -> list[Path]:
    """Returns what a folder holds in natural order, without hidden entries, which other programs
    leave there. Raises SourceError for a folder that cannot be read."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{redacted(str(folder))} cannot be read: {error.strerror}") from error
    return sorted(entries, key=natural)


def is_image_name(path: Path) -> bool:
    """Whether the suffix of a file is that of an image."""
    return path.suffix.lower() in SUFFIXES | UNREAD and not os.path.isdir(path)


def is_image_file(path: Path) -> bool:
    """Whether a file is an image, by its suffix or by its content."""
    return is_image_name(path) or (is_still(head_of(path)) and not _is_motion_jpeg(path))


def _is_motion_jpeg(path: Path) -> bool:
    """Whether a file is a video that consists of JPEG pictures and nothing else."""
    start = head_of(path, _MOST_JPEG_BYTES)
    return start.startswith(START) and holds_another(start)


def head_of(path: Path, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of a regular file; empty for anything else, which opening could block."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def read_image(file: Path) -> Image:
    """Reads the first picture of an image file, as `read_images`. Raises SourceError."""
    return next(read_images(file))


def read_images(file: Path) -> Iterator[Image]:
    """Reads the pictures of an image file, as `decode_stills`.

    Raises:
        SourceError: the file cannot be read.
        PictureError: a picture cannot be decoded, or is larger than the limits.
    """
    return (image for image, _ in read_frames(file))


def read_frames(file: Path) -> Iterator[tuple[Image, float]]:
    """As `read_images`, each picture with the ms that it is to be shown, as `decode_frames`."""
    try:
        yield from decode_frames(_content(file))
    except PictureError as error:
        raise PictureError(f"{file}: {error.problem}", fix=error.fix) from error


def _content(file: Path) -> bytes:
    """Raises SourceError for a file that cannot be an image: opening a pipe would block without
    end."""
    shown = redacted(str(file))
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{shown} is not a regular file")
        if status.st_size == 0:
            raise SourceError(f"{shown} is empty (0 bytes)", fix="copy it again")
        check_bytes(status.st_size)
        return file.read_bytes()
    except FileNotFoundError:
        if file.is_symlink():
            raise SourceError(f"{shown}: the link leads to no file") from None
        raise SourceError(f"{shown}: there is no such file") from None
    except OSError as error:
        raise SourceError(f"{shown} cannot be read: {error.strerror}") from error
