"""VideoFileSource: reads a recorded video file frame by frame."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from node.capture.sources.base import Picture, SourceFacts
from node.capture.sources.video_container import convert
from node.capture.sources.video_track import VideoTrack
from node.errors import SourceError
from node.image.frame import Stamp
from node.image.video_frame import BgrConverter, shown_size

if TYPE_CHECKING:
    from av import VideoFrame

SUFFIXES = frozenset(
    {
        *(".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".mjpeg"),
        *(".mjpg", ".3gp", ".asf", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".mts"),
        *(".mxf", ".obu", ".ogv", ".vob", ".wmv", ".y4m"),
    }
)
"""Suffixes of the videos found in a folder; a file that is named itself may have any suffix."""


class VideoFileSource:
    """Reads a video file. Positions are the file's own presentation times, made strictly
    increasing; the rate and length in a header may be wrong.

    Args:
        file: the video.
        loop: restart at the end.
        conceal: show damaged pictures as well.

    Raises SourceError for a file without a picture that can be decoded.
    """

    live = False

    def __init__(self, file: Path, *, loop: bool = False, conceal: bool = False) -> None:
        self._file = file
        self._loop = loop
        self._conceal = conceal
        self._frames_read = 0
        self._laps = 0
        self._last_ns: int | None = None
        self._base_ns = 0
        self._skipped: str | None = None
        self._converter = BgrConverter()
        self._track = self._opened()
        self._step_ns = int(1e9 / self._track.fps)
        assert self._next is not None
        height, width = shown_size(self._next)
        self.facts = SourceFacts(width=width, height=height, fps=self._track.fps)

    def read(self) -> Picture | None:
        """As `Source.read`."""
        started_ns = time.monotonic_ns()
        if self._next is None and self._loop:
            self._rewind()
        frame = self._take()
        if frame is None:
            return None
        media_ns = self._position_ns(frame)
        image = self._converter.bgr(frame)
        capture_ns = time.monotonic_ns() - started_ns
        return Picture(
            image, Stamp.at_media(media_ns), media_ns, capture_ns, self._file, self._laps
        )

    def skip_to(self, media_ns: int) -> int:
        """As `Skips.skip_to`. Decodes the frames without converting them; a seek would depend on
        the file's index."""
        first = self._frames_read
        while self._next is not None and (self._track.position_ns(self._next) or 0) < media_ns:
            self._position_ns(self._next)
            self._take()
        return self._frames_read - first

    def summary(self) -> str | None:
        """As `Source.summary`; compares with the header's number of frames."""
        read = f"{self._file}: {self._frames_read} frames read{self._track.description}"
        if self._track.leading:
            read += f", {self._track.leading} before the first key frame cannot be decoded"
        claimed = self._track.claimed_frames
        if claimed and claimed != self._frames_read and not self._loop and self.skipped is None:
            return f"{read}; the header claims {claimed}, which are not in the file"
        return read

    @property
    def skipped(self) -> str | None:
        """As `Incomplete.skipped`."""
        return self._skipped or self._track.skipped

    def close(self) -> None:
        """As `Source.close`."""
        self._track.close()

    def _opened(self) -> VideoTrack:
        """Opens the file and decodes its first frame. Raises SourceError without one."""
        track = VideoTrack(self._file, conceal=self._conceal)
        self._next = track.read()
        if self._next is None:
            reasons = ", ".join(track.problems) or "it contains none"
            track.close()
            raise SourceError(
                f"{self._file}: no picture in it can be decoded ({track.codec}: {reasons})",
                fix=convert(self._file),
            )
        return track

    def _take(self) -> "VideoFrame | None":
        """Returns the next frame, and decodes the one after it."""
        frame = self._next
        if frame is not None:
            self._frames_read += 1
            self._next = self._track.read()
        return frame

    def _position_ns(self, frame: "VideoFrame") -> int:
        position_ns = self._track.position_ns(frame)
        if self._last_ns is None:
            self._last_ns = max(position_ns or 0, 0)
        elif position_ns is not None and self._base_ns + position_ns > self._last_ns:
            self._step_ns = self._base_ns + position_ns - self._last_ns
            self._last_ns = self._base_ns + position_ns
        else:
            # Some containers have no time for some frames.
            self._last_ns += self._step_ns
        return self._last_ns

    def _rewind(self) -> None:
        assert self._last_ns is not None
        self._skipped = self.skipped
        self._track.close()
        self._track = self._opened()
        self._base_ns = self._last_ns + self._step_ns
        self._laps += 1
