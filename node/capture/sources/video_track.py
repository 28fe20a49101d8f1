"""VideoTrack: the frames of a video file, decoded, and what of the file they leave out."""

import os
from collections import deque
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.capture.sources.damage import DamageFilter
from node.capture.sources.video_account import WHOLE_INDEX, VideoAccount
from node.capture.sources.video_container import (
    checked_length,
    choose_track,
    described,
    fps_of,
    open_container,
)
from node.image.h26x.decoder import PADDING
from node.image.h26x.h264 import FrameNumbers
from node.image.limits import limits

if TYPE_CHECKING:
    from av import Packet, VideoFrame

_CAREFUL = {"hevc": "crccheck+explode", "mjpeg": "explode"}
"""Error detection of codecs whose decoders conceal damage without marking the picture."""
_MOST_THREADS = 16
"""FFmpeg's own limit; its own choice, one more than processors, only costs time."""
_STRICT = "crccheck+explode"
_ANNEX_B = frozenset({"mpegts", "h264", "hevc"})
"""Formats of H.264 and H.265 that can lose whole pictures, which only the numbers in H.264 show,
and the end of one, behind which a decoder reads on."""


class VideoTrack:
    """The frames of one track, in order of presentation. Not thread-safe.

    After damage, every picture up to the next key frame is skipped: they refer to a picture that
    never was.

    Several threads decode, strictly: they mark no damage reliably, and stop at what is none. At the
    first sign of damage the file is decoded again, up to there and on from there, by one thread. So
    the same frames come on every computer.

    Args:
        file: the video.
        conceal: return damaged pictures as well, as video players do.

    Attributes:
        fps: rate by the header, or FALLBACK_FPS.
        codec: its name.
        description: the track in words where the file has several; otherwise empty.
        claimed_frames: number of frames by the header; 0 if it claims none, and where the index of
            the file is the truth.

    Raises SourceError for a file that cannot be opened or has no video that can be decoded.
    """

    def __init__(self, file: Path, *, conceal: bool = False) -> None:
        self._file = file
        self._conceal = conceal
        self._careful = False
        self._returned = 0
        self._closed = False
        self._skipped_at_close: str | None = None
        self._open()

    def read(self) -> "VideoFrame | None":
        """Returns the next frame; None at the end."""
        frame = self._next()
        self._returned += frame is not None
        return frame

    def position_ns(self, frame: "VideoFrame") -> int | None:
        """Returns the position of a frame from the start of its track; None for a
        frame without a time."""
        if frame.pts is None:
            return None
        seconds, ticks, start = self._clock
        return (2_000_000_000 * (frame.pts - start) * seconds + ticks) // (2 * ticks)

    @property
    def leading(self) -> int:
        """As `VideoAccount.leading`."""
        return self._account.leading

    @property
    def problems(self) -> list[str]:
        """What could not be read so far, in words."""
        return [
            *self._account.damage(),
            *(self._account.missing_end() if self._ended and not self._ready else ()),
        ]

    @property
    def skipped(self) -> str | None:
        """As `Incomplete.skipped`."""
        if self._closed:
            return self._skipped_at_close
        problems = ", ".join(self.problems)
        if not problems:
            return None
        return f"{self._file}: not read as a whole: {problems}; copy or record it again"

    def close(self) -> None:
        """Closes the file."""
        if not self._closed:
            self._skipped_at_close, self._closed = self.skipped, True
            self._release()

    def _open(self) -> None:
        length = checked_length(self._file)
        self._container = open_container(self._file, length)
        try:
            stream, tracks = choose_track(self._file, self._container)
        except BaseException:
            self._container.close()
            raise
        # An open container owns the stream, so what is needed after closing is copied here.
        self._stream, self._format = stream, self._container.format.name
        # Integers, since a fraction for each frame takes a tenth of its decoding.
        base = stream.time_base or Fraction(1, 1)
        self._clock = base.numerator, base.denominator, stream.start_time or 0
        self.codec = stream.codec_context.codec.canonical_name
        self.fps, self.description = fps_of(stream), described(stream, tracks)
        self.claimed_frames = 0 if self._format == WHOLE_INDEX else stream.frames
        self._account = VideoAccount(self._file, length, self._container, stream)
        self._configure()
        self._annex_b = self._format in _ANNEX_B and self.codec in ("h264", "hevc")
        self._filter = None if self._conceal else self._new_filter()
        self._packets = self._demuxed()
        self._ready: deque[VideoFrame] = deque()
        self._ended = False

    def _new_filter(self) -> DamageFilter:
        numbers = FrameNumbers() if self._annex_b and self.codec == "h264" else None
        # In a transport stream a mark stands for a gap that may be elsewhere.
        return DamageFilter(
            self._account, numbers, exact=self._format != "mpegts", follow=self._careful
        )

    def _configure(self) -> None:
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = (
            1 if self._careful else min(_MOST_THREADS, len(os.sched_getaffinity(0)))
        )
        context.copy_opaque = self._careful
        context.options = {"max_pixels": str(limits().max_pixels)}
        level = _CAREFUL.get(self.codec) if self._careful else _STRICT
        if level is not None and not self._conceal:
            context.options = {**context.options, "err_detect": level}

    def _release(self) -> None:
        self._ready.clear()
        self._packets.close()
        self._container.close()

    def _next(self) -> "VideoFrame | None":
        while not self._ready and not self._ended:
            self._decode(next(self._packets, None))
            damaged = self._account.failures or (self._ended and self._account.without_picture)
            if damaged and not (self._careful or self._conceal):
                self._begin_again()
        return self._ready.popleft() if self._ready else None

    def _begin_again(self) -> None:
        """Continues behind the frames that were returned, carefully."""
        self._release()
        self._careful = True
        self._open()
        for _ in range(self._returned):
            self._next()

    def _demuxed(self) -> "Generator[Packet[Any], None, None]":
        import av

        streams = () if self._account.needs_every_track else (self._stream,)
        try:
            for packet in self._container.demux(*streams):
                self._account.packet(packet)
                # An empty packet would end the decoder, and stands for a picture left out.
                if packet.size and packet.stream is self._stream:
                    yield self._padded(packet) if self._annex_b else packet
        except av.FFmpegError as error:
            self._account.broken = f"reading fails there: {error.strerror}"

    def _padded(self, packet: "Packet[Any]") -> "Packet[Any]":
        import av

        # A packet of given bytes would need the lock of Python where a thread of the decoder frees
        # it, while closing the decoder keeps the lock and waits for the thread.
        padded: Packet[Any] = av.Packet(packet.size + len(PADDING))
        padded.update(bytes(packet) + PADDING)
        padded.pts, padded.dts, padded.time_base = packet.pts, packet.dts, packet.time_base
        padded.is_keyframe, padded.is_corrupt = packet.is_keyframe, packet.is_corrupt
        return padded

    def _decode(self, packet: "Packet[Any] | None") -> None:
        import av

        self._ended = packet is None
        if packet is not None and self._filter is not None and not self._filter.passes(packet):
            return
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError as error:
            if self._filter is not None:
                self._filter.reject(error.strerror or str(error))
            return
        for frame in frames:
            self._account.decoded(frame)
            if self._filter is None or self._filter.shows(frame):
                self._ready.append(frame)
