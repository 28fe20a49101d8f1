"""Sources of image files: a file, a folder or a glob, sorted by name."""

import glob
import math
import stat
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL import Image as PilImage

from node.capture.sources.base import Picture, Report, SourceFacts
from node.config.redact import redacted
from node.errors import PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.jpeg import check_scans
from node.image.limits import check_bytes, check_pixels, limits
from perception_client.paths import expanded

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"})
_PLUGINS = (
    BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile,
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)
_FORMATS = tuple(str(plugin.format) for plugin in _PLUGINS)
"""Only these formats are tried, whatever the file name: some others that Pillow supports run
programs (EPS)."""

# Pillow warns below limits.max_pixels.
warnings.filterwarnings("ignore", category=PilImage.DecompressionBombWarning)


class ImageFilesSource:
    """Reads image files in order. A file that cannot be read is reported, skipped and counted.

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
        self._next = 0
        self._read = 0
        self._bad: set[Path] = set()
        self.facts = SourceFacts(fps=fps)

    def read(self) -> Picture | None:
        """As `Source.read`; skips files that cannot be read."""
        while (file := self._next_file()) is not None:
            started_ns = time.monotonic_ns()
            try:
                image = read_image(file)
            except SourceError as error:
                if file not in self._bad:
                    self._bad.add(file)
                    self._report(f"{error}; skipped")
                continue
            media_ns = round(self._read * 1e9 / self._fps)
            self._read += 1
            capture_ns = time.monotonic_ns() - started_ns
            return Picture(image, Stamp.at_media(media_ns), media_ns, capture_ns, file)
        return None

    def skip_to(self, media_ns: int) -> int:
        """As `Skips.skip_to`."""
        skipped = min(math.ceil(media_ns * self._fps / 1e9 - 1e-6), len(self._files))
        self._next = self._read = skipped
        return skipped

    def summary(self) -> str | None:
        """As `Source.summary`."""
        bad = f", {len(self._bad)} skipped because they cannot be read" if self._bad else ""
        return f"{self._read} picture{'s' * (self._read != 1)} read{bad}"

    def close(self) -> None:
        """As `Source.close`."""
        pass

    def _next_file(self) -> Path | None:
        if self._next == len(self._files):
            if not self._loop or len(self._bad) == len(self._files):
                return None
            self._next = 0
        self._next += 1
        return self._files[self._next - 1]


class ImageFile:
    """Reads one photograph, without stamp or position. `read` raises SourceError if the file cannot
    be read."""

    live = False

    def __init__(self, file: Path) -> None:
        self._file: Path | None = file
        self.facts = SourceFacts()

    def read(self) -> Picture | None:
        """As `Source.read`: the image, then None."""
        if self._file is None:
            return None
        file, self._file = self._file, None
        started_ns = time.monotonic_ns()
        image = read_image(file)
        return Picture(image, None, None, time.monotonic_ns() - started_ns, file)

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        pass


def find_image_files(source: str) -> list[Path] | None:
    """Returns the image files that a path or glob names, sorted; None if it names none, such as a
    video file. Raises SourceError for a folder or glob without images."""
    path = expanded(source)
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if is_image_file(entry))
        if not files:
            raise SourceError(
                f"{path} holds no pictures", fix=f"these are read: {', '.join(sorted(SUFFIXES))}"
            )
        return files
    if path.exists():
        return [path] if is_image_file(path) else None
    if glob.has_magic(source):
        files = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
        files = [entry for entry in files if is_image_file(entry)]
        if not files:
            raise SourceError(f"{redacted(source)}: no picture matches", fix="put a glob in quotes")
        return files
    return None


def is_image_file(path: Path) -> bool:
    """Whether the suffix of a file is that of an image."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def read_image(file: Path) -> Image:
    """Reads an image file as [height, width, 3] uint8 BGR, rotated upright by its EXIF orientation.

    Uses Pillow, which rejects a truncated file; OpenCV fills the missing part with grey without an
    error.

    Raises:
        SourceError: the file cannot be read, or is larger than the limits (PictureError).
    """
    try:
        _check_file(file)
        _allow(limits().max_pixels)
        with PilImage.open(file, formats=_FORMATS) as opened:
            check_pixels(*opened.size)
            if opened.format in ("JPEG", "MPO"):
                check_scans(file.read_bytes(), *opened.size)
            upright = ImageOps.exif_transpose(opened)
            rgb = np.asarray(upright.convert("RGB"))
    except PictureError as error:
        raise PictureError(f"{file}: {error}") from None
    except FileNotFoundError:
        raise SourceError(f"{redacted(str(file))}: there is no such file") from None
    except UnidentifiedImageError:
        raise SourceError(f"{file} is not a picture that can be read") from None
    except PilImage.DecompressionBombError:
        raise PictureError(
            f"{file} claims more pixels than limits.max_pixels = {limits().max_pixels}",
            fix="raise it if the picture is real",
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError(f"{file} cannot be read: {error}") from error
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _check_file(file: Path) -> None:
    """Raises SourceError for a file that cannot be an image: opening a pipe would block without
    end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{file} is not a regular file")
    if status.st_size == 0:
        raise SourceError(f"{file} is empty (0 bytes)")
    check_bytes(status.st_size)


def _allow(pixels: int) -> None:
    """Lifts Pillow's own limit to `pixels`. The limit is global to the process, so it is never
    lowered."""
    if PilImage.MAX_IMAGE_PIXELS is not None and pixels > PilImage.MAX_IMAGE_PIXELS:
        PilImage.MAX_IMAGE_PIXELS = pixels
