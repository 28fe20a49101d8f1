"""Exports a recording as a video that browsers play."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from node.errors import OutputError, PictureError, SourceError
from node.image.frame import Image
from node.image.opencv import cv2
from node.process.output_files import unwritable, whole_file
from node.recording.export.overlay import draw
from node.recording.reader import Recording

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import OutputContainer

Progress = Callable[[float], None]

_TICK = Fraction(1, 1000)
"""Unit of the frames' times, in seconds: that of WebM."""
_USUAL_RATE = 30
"""Frames a second where the recording gives all the same time."""
_STEP_TICKS = 33
"""From a frame to the next one where the recording gives both the same time."""
_SMPTE_170M, _VIDEO_RANGE = 6, 1
"""Colours that a video declares (ITU-T H.273): those that the conversion to YUV makes."""


@dataclass(frozen=True, slots=True)
class _Encoder:
    """An encoder of FFmpeg under a permissive licence, and its options. bits_per_pixel: of a frame,
    for an encoder that needs a rate."""

    name: str
    options: dict[str, str] = field(default_factory=dict)
    bits_per_pixel: float = 0.0


_H264 = _Encoder("libopenh264", bits_per_pixel=0.1)
_VP9 = _Encoder(
    "libvpx-vp9",
    {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "28", "b": "0"},
)
_AV1 = _Encoder("libsvtav1", {"preset": "10", "crf": "32"})
_MPEG4 = _Encoder("mpeg4", bits_per_pixel=0.2)
"""No browser plays it; it is what the older containers have."""
_FORMATS: dict[str, tuple[str, tuple[_Encoder, ...]]] = {
    ".mp4": ("mp4", (_H264, _VP9, _AV1)),
    ".webm": ("webm", (_VP9, _AV1)),
    ".mkv": ("matroska", (_H264, _VP9, _AV1)),
    ".mov": ("mov", (_H264, _MPEG4)),
    ".avi": ("avi", (_MPEG4,)),
}
"""Container and encoders by suffix; the first encoder that this build of FFmpeg has is used. x264
is not among them: its licence is the GPL."""


def write_video(
    recording: Recording, to: Path, camera: str | None, progress: Progress = lambda done: None
) -> int:
    """Writes a video of one camera with its labels drawn, each frame at its time; an AVI, which has
    no times, at the mean rate.

    A frame without labels shows "not labelled".

    Args:
        recording: its frames and labels.
        to: the file; unchanged after an error.
        camera: its name; None for the first.
        progress: called with the share done, 0 to 1.

    Returns the number of frames. Raises SourceError for an unknown camera or one without readable
    frames, OutputError where the file cannot be written.
    """
    name = _camera(recording, camera)
    if to.suffix.lower() not in _FORMATS:
        raise OutputError(
            f"{to} cannot be written as a video", fix=f"name it {', '.join(_FORMATS)}"
        )
    moments = [frame.media_ns for frame in recording.frames() if frame.camera == name]
    if not moments:
        raise SourceError(f"{recording.paths[0]}: camera {name!r} has no frames")
    span_s = (max(moments) - min(moments)) / 1e9
    rate = Fraction((len(moments) - 1) / span_s if span_s > 0 else _USUAL_RATE)
    rate = min(max(rate.limit_denominator(1000), Fraction(1, 1000)), Fraction(1000))
    with whole_file(to) as beside:
        import av  # takes 0.1 s

        try:
            count = _write_frames(recording, to, beside, name, rate, progress)
        except (av.FFmpegError, OSError) as error:
            raise unwritable(to, error) from error
        _check_video(to, _frames_in(beside), count)
    return count


def _write_frames(
    recording: Recording, to: Path, beside: Path, name: str, rate: Fraction, progress: Progress
) -> int:
    """Writes the video to `beside`. to: the final path, for errors."""
    writer: _Writer | None = None
    duration_ns = max(recording.end_ns - recording.start_ns, 1)
    try:
        for frame, message in recording.labelled_frames():
            if frame.camera != name:
                continue
            try:
                drawn = draw(frame.image(), message)
            except PictureError as error:
                recording.note_problem(f"camera {name!r}: a frame is skipped: {error}")
                continue
            if writer is None:
                writer = _Writer(to, beside, drawn, rate)
            writer.write(drawn, frame.media_ns)
            progress(frame.media_ns / duration_ns)
        if writer is None:
            raise SourceError(f"{recording.paths[0]}: no frame of camera {name!r} can be decoded")
        writer.end()
    finally:
        if writer is not None:
            writer.close()
    return writer.count


class _Writer:
    """Writes frames of the size of the first. to: the final path, for errors. rate: the mean one,
    in frames a second. count: frames so far."""

    def __init__(self, to: Path, beside: Path, first: Image, rate: Fraction) -> None:
        import av

        container_format, encoders = _FORMATS[to.suffix.lower()]
        available = [encoder for encoder in encoders if encoder.name in av.codecs_available]
        if not available:
            names = ", ".join(encoder.name for encoder in encoders)
            raise OutputError(
                f"{to} cannot be written: FFmpeg was built here without the encoders {names}",
                fix="install the package av from its wheel",
            )
        encoder = available[0]
        # 4:2:0 has one colour for two by two pixels.
        self._size = first.shape[1] + first.shape[1] % 2, first.shape[0] + first.shape[0] % 2
        begins_with_index = {"movflags": "+faststart"} if container_format in ("mp4", "mov") else {}
        self._container: OutputContainer = av.open(
            str(beside), "w", format=container_format, options=begins_with_index
        )
        stream = self._container.add_stream(encoder.name, rate, options=encoder.options)
        self._stream: VideoStream = stream  # type: ignore[assignment]
        context = self._stream.codec_context
        context.width, context.height = self._size
        context.pix_fmt = "yuv420p"
        self._tick = 1 / rate if container_format == "avi" else _TICK
        context.time_base = self._tick
        context.colorspace, context.color_range = _SMPTE_170M, _VIDEO_RANGE
        if encoder.bits_per_pixel:
            context.bit_rate = round(encoder.bits_per_pixel * 30 * self._size[0] * self._size[1])
        self._first_ns: int | None = None
        self._newest = -1
        self.count = 0

    def write(self, drawn: Image, media_ns: int) -> None:
        """Adds a frame."""
        from av import VideoFrame

        if self._first_ns is None:
            self._first_ns = media_ns
        at = (media_ns - self._first_ns) // 1_000_000
        if self._tick != _TICK:
            at = self.count
        self._newest = at if at > self._newest else self._newest + _STEP_TICKS
        frame = VideoFrame.from_ndarray(self._sized(drawn), format="bgr24")
        frame.pts, frame.time_base = self._newest, self._tick
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.count += 1

    def _sized(self, drawn: Image) -> Image:
        width, height = self._size
        missing = height - drawn.shape[0], width - drawn.shape[1]
        if missing == (0, 0):
            return drawn
        if max(missing) <= 1 and min(missing) >= 0:
            padded = cv2.copyMakeBorder(drawn, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
            return np.asarray(padded, np.uint8)
        return np.asarray(cv2.resize(drawn, self._size), np.uint8)

    def end(self) -> None:
        """Writes what the encoder holds."""
        for packet in self._stream.encode(None):
            self._container.mux(packet)

    def close(self) -> None:
        """Ends the file."""
        self._container.close()


def _camera(recording: Recording, camera: str | None) -> str:
    if camera is None:
        return recording.cameras[0]
    if camera not in recording.cameras:
        raise SourceError(
            f"{recording.paths[0]}: no camera {camera!r}",
            fix=f"cameras: {', '.join(recording.cameras)}",
        )
    return camera


def _check_video(to: Path, written: int, count: int) -> None:
    """Raises OutputError where frames are missing from the file: FFmpeg does not report every full
    disk."""
    if written != count:
        raise OutputError(
            f"{to} cannot be written: {written} of {count} frames arrived in it",
            fix="is the disk full?",
        )


def _frames_in(file: Path) -> int:
    """Counts a video's frames one by one, without decoding: a header may promise more frames than
    follow."""
    import av

    try:
        with av.open(str(file)) as container:
            packets = container.demux(video=0)
            return sum(1 for packet in packets if packet.size and not packet.is_corrupt)
    except (av.FFmpegError, IndexError):  # no index, or no stream
        return 0
