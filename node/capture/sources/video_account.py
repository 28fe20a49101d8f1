"""VideoAccount: what went into the decoder of a video track, what came out, and what is missing."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.capture.sources.file_length import FileLength

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_PICTURE_A_PACKET = frozenset({"av1", "ffv1", "h264", "hevc", "mjpeg", "prores", "vp9"})
"""Codecs of which each packet contains one picture, interlaced video excepted."""
WHOLE_INDEX = "mov,mp4,m4a,3gp,3g2,mj2"
"""Format whose index lists every picture."""
_CLAIMS_DURATION = frozenset({"flv", "asf", "matroska,webm"})
"""Formats whose header claims a duration, and whose readers take damage for the end."""
_DURATION_SLACK_S = 0.5


class VideoAccount:
    """Counts for one track of an open file.

    Args:
        file: the file.
        length: what it claims about itself.
        container: the open file.
        stream: the track.

    Attributes:
        needs_every_track: `packet` needs the packets of all tracks, since a claimed duration is
            that of the longest.
        failures: pictures that are damaged.
        dependent: pictures skipped since they refer to a damaged one.
        leading: packets before the first key frame. They refer to pictures that the file lacks, as
            in a stream that was recorded from its middle on.
        broken: why reading the file ended before its end; None if it did not.
    """

    def __init__(
        self, file: Path, length: FileLength, container: "InputContainer", stream: "VideoStream"
    ) -> None:
        self._file = file
        self._length = length
        self._format = container.format.name
        self.needs_every_track = self._format in _CLAIMS_DURATION
        self._index = stream.index
        self._entries = stream.index_entries
        self._claimed_s = (container.duration or 0) / 1e6
        self._start_s = (container.start_time or 0) / 1e6
        self._one_each = stream.codec_context.codec.canonical_name in _PICTURE_A_PACKET
        self._first_key_pts = -math.inf
        self._packets = self._sent = self._returned = 0
        self._end_s = 0.0
        self._first_reason = ""
        self.has_key = False
        self.failures = self.dependent = self.leading = 0
        self.broken: str | None = None

    def packet(self, packet: "Packet[Any]") -> None:
        """Counts a packet, of any track."""
        if self.needs_every_track and packet.pts is not None and packet.time_base:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self._end_s = max(self._end_s, float(end) - self._start_s)
        if packet.stream_index != self._index or (packet.pts is None and not packet.size):
            return
        self._packets += 1
        if packet.is_keyframe and not self.has_key:
            self.has_key = True
            self._first_key_pts = -math.inf if packet.pts is None else packet.pts
        if not self.has_key:
            self.leading += 1
        elif packet.size and not packet.is_discard:
            self._sent += packet.pts is None or packet.pts >= self._first_key_pts

    def decoded(self, frame: "VideoFrame") -> None:
        """Counts a picture that left the decoder."""
        self._returned += 1
        self._one_each = self._one_each and not frame.interlaced_frame

    def damaged(self, reason: str) -> None:
        """Counts damage, except before the first key frame, where nothing can be decoded."""
        if self.has_key:
            self._first_reason = self._first_reason or reason
            self.failures += 1

    @property
    def without_picture(self) -> int:
        """Packets that no picture came of; 0 where that is normal. Complete at the end."""
        return max(0, self._sent - self._returned) if self._one_each else 0

    def damage(self) -> Iterator[str]:
        """Yields what was skipped so far, in words."""
        if self.failures:
            yield f"{self.failures} damaged ({self._first_reason})"
        if self.dependent:
            yield f"{self.dependent} after a damaged one up to a key frame"

    def _actual_bytes(self) -> int | None:
        try:
            return self._file.stat().st_size
        except OSError:
            return None  # removed or renamed while it was read

    def missing_end(self) -> Iterator[str]:
        """Yields what the file lacks of what it claims, in words, once its end was reached."""
        actual, claimed = self._actual_bytes(), self._length.claimed_bytes
        if claimed is not None and actual is not None and actual < claimed:
            yield f"it is cut off, or still being written: {actual} of {claimed} bytes are there"
        elif self._format == WHOLE_INDEX and self._packets < len(self._entries):
            yield f"{self._packets} of {len(self._entries)} pictures in its index are there"
        elif self._format in _CLAIMS_DURATION and self._end_s + _DURATION_SLACK_S < self._claimed_s:
            yield f"it ends at {self._end_s:.1f} s of {self._claimed_s:.1f} s"
        if self.broken is not None:
            yield self.broken
        elif not self.failures and self.without_picture:
            yield f"{self.without_picture} without a picture"
