"""VideoFileSource: reads a recorded video file frame by frame."""

import importlib.util
import time
from pathlib import Path
from typing import cast

from node.capture.sources.base import Picture, SourceFacts
from node.config.redact import redacted
from node.errors import PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.limits import check_pixels, limits
from node.image.opencv import cv2, limit_buffers
from perception_client.paths import absolute

SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mjpeg", ".mjpg"}
)
"""Suffixes of the videos found in a folder; a file that is named itself may have any suffix."""

FALLBACK_FPS = 30.0
"""Rate of a file whose header contains none or an implausible one (0, or over 1,000)."""


class VideoFileSource:
    """Reads a video file. Positions are the file's own presentation times, made strictly
    increasing; the rate and length in a header may be wrong.

    Args:
        file: the video.
        loop: restart at the end.
    """

    live = False

    def __init__(self, file: Path, *, loop: bool = False) -> None:
        self._file = file
        self._loop = loop
        self._capture = _open(file)
        header_fps = self._capture.get(cv2.CAP_PROP_FPS)
        self._step_ns = int(1e9 / (header_fps if 0 < header_fps <= 1000 else FALLBACK_FPS))
        self._claimed_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._frames_read = 0
        self._laps = 0
        self._last_ns: int | None = None
        self._base_ns = 0
        self.facts = SourceFacts(
            width=int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)) or None,
            height=int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) or None,
            fps=1e9 / self._step_ns,
        )

    def read(self) -> Picture | None:
        """As `Source.read`."""
        started_ns = time.monotonic_ns()
        decoded, image = self._capture.read()
        if not decoded and self._loop and self._frames_read:
            self._rewind()
            self._laps += 1
            decoded, image = self._capture.read()
        if not decoded:
            return None
        media_ns = self._position_ns()
        self._frames_read += 1
        capture_ns = time.monotonic_ns() - started_ns
        pixels = cast(Image, image)
        return Picture(
            pixels, Stamp.at_media(media_ns), media_ns, capture_ns, self._file, self._laps
        )

    def skip_to(self, media_ns: int) -> int:
        """As `Skips.skip_to`. Grabs the frames, which costs less than decoding them; a seek would
        depend on the header."""
        first = self._frames_read
        while self._is_before(media_ns) and self._capture.grab():
            self._position_ns()
            self._frames_read += 1
        return self._frames_read - first

    def _is_before(self, media_ns: int) -> bool:
        next_ns = 0 if self._last_ns is None else self._last_ns + self._step_ns
        return next_ns + self._step_ns < media_ns

    def summary(self) -> str | None:
        """As `Source.summary`; compares with the header's number of frames."""
        if (
            self._claimed_frames > 0
            and self._claimed_frames != self._frames_read
            and not self._loop
        ):
            return (
                f"{self._file}: {self._frames_read} frames read; the header claims "
                f"{self._claimed_frames}, the rest is not in the file or cannot be decoded"
            )
        return f"{self._file}: {self._frames_read} frames read"

    def close(self) -> None:
        """As `Source.close`."""
        self._capture.release()

    def _position_ns(self) -> int:
        position_ns = self._base_ns + round(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        if self._last_ns is None:
            self._last_ns = max(position_ns, 0)
        elif position_ns > self._last_ns:
            self._step_ns = position_ns - self._last_ns
            self._last_ns = position_ns
        else:
            # Some containers report 0 for their last frames.
            self._last_ns += self._step_ns
        return self._last_ns

    def _rewind(self) -> None:
        assert self._last_ns is not None
        self._capture.release()
        self._capture = _open(self._file)
        self._base_ns = self._last_ns + self._step_ns


def _open(file: Path) -> "cv2.VideoCapture":
    if not file.exists():
        raise SourceError(f"{redacted(str(file))}: there is no such file or folder")
    if not file.is_file():
        raise SourceError(f"{file} is neither a file nor a folder", fix="a camera is /dev/videoN")
    try:
        with file.open("rb") as opened:
            if not opened.read(1):
                raise SourceError(f"{file} is empty (0 bytes)", fix="was it copied completely?")
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}") from error
    _check_size(file)
    capture = cv2.VideoCapture(str(absolute(file)), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise SourceError(
            f"{file} is not a video that OpenCV can read",
            fix=f"if it is one, convert it: ffmpeg -i {file.name} -c:v libx264 {file.stem}.mp4",
        )
    return capture


def _check_size(file: Path) -> None:
    """Raises SourceError for a video whose header claims pictures above the limits, since OpenCV
    decodes some while it opens the file. Without the package av, and for larger pictures later in
    the video, the limit on OpenCV's buffers applies (node.image.opencv)."""
    if importlib.util.find_spec("av") is None:
        return
    import av  # Deferred: takes 0.1 s.

    limit_buffers()
    options = {"max_pixels": str(limits().max_pixels)}
    try:
        with av.open(str(file.absolute()), options=options) as container:
            for stream in container.streams.video:
                check_pixels(stream.codec_context.width, stream.codec_context.height)
    except PictureError as error:
        raise SourceError(f"{file}: {error}") from None
    except (av.FFmpegError, ValueError):
        # OpenCV reports what is wrong.
        return
