"""Opens video files with PyAV, and chooses the track that shows the film."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from node.capture.sources.file_length import FileLength, claimed_length
from node.config.redact import redacted
from node.errors import CHECK_NAME, PictureError, SourceError
from node.image.limits import check_pixels, limits
from node.image.opencv import limit_buffers
from perception_client.paths import absolute

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

FALLBACK_FPS = 30.0
"""Rate of a file whose header contains none or an implausible one (0, or over 1,000)."""
_NOT_READ = frozenset(
    {"applehttp", "concat", "dash", "hls", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub"}
    | {"image2", "lavfi", "tty", "avisynth", "vapoursynth", "webm_dash_manifest"}
)
"""Formats of FFmpeg that name other files or addresses, or are programs, or in which any text is a
video."""
_MOST_PROBED = 2000
"""Packets at the start of a file by which a track with a single picture is recognised."""
_SMALL = 4
"""A track with at most this fraction of the largest track's pixels is a preview of it."""


def checked_length(file: Path) -> FileLength:
    """What the file claims about itself. Raises SourceError for a file that no decoder needs to
    see."""
    if importlib.util.find_spec("av") is None:
        raise SourceError(
            f"{file}: videos need the package av, which is not installed", fix="pip install av"
        )
    if not file.exists():
        raise SourceError(
            f"{redacted(str(file))}: there is no such file or folder",
            fix=CHECK_NAME,
        )
    if not file.is_file():
        raise SourceError(f"{file} is neither a file nor a folder; a camera is /dev/videoN")
    try:
        if not file.stat().st_size:
            raise SourceError(f"{file} is empty (0 bytes)", fix="was it copied completely?")
        return claimed_length(file)
    except OSError as error:
        raise SourceError(f"{file} cannot be read: {error.strerror}") from error


def open_container(file: Path, length: FileLength) -> "InputContainer":
    """Opens a file of which `length` is claimed. Raises SourceError."""
    import av

    limit_buffers()
    try:
        return av.open(str(absolute(file)), options=_options())
    except (av.FFmpegError, ValueError) as error:
        if not length.has_index:
            raise SourceError(
                f"{file}: its index is missing (moov), since it is cut off or still being written",
                fix="end the recording, or copy it again",
            ) from error
        raise _no_video(file) from error


def _options() -> dict[str, str]:
    """Options of FFmpeg by which a file opens no other one, and no address."""
    import av

    formats = sorted(av.formats_available - _NOT_READ)
    return {
        "max_pixels": str(limits().max_pixels),
        "protocol_whitelist": "file",
        "format_whitelist": ",".join(formats),
    }


def _no_video(file: Path) -> SourceError:
    return SourceError(
        f"{file} is not a video that can be read",
        fix=f"if it is one, {convert(file)}",
    )


def convert(file: Path) -> str:
    """The fix for a video that cannot be decoded, in words."""
    return f"convert it: ffmpeg -i {file.name} -c:v libx264 {file.stem}-h264.mp4"


def choose_track(file: Path, container: "InputContainer") -> "tuple[VideoStream, int]":
    """Returns the track to read, and how many tracks there are. Raises SourceError."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        others = sorted({str(stream.type) for stream in container.streams})
        cover = " and a cover picture" if container.streams.video else ""
        contents = ", ".join(kind for kind in others if kind != "video") or "nothing"
        raise SourceError(
            f"{file} has no video track; it holds {contents}{cover}", fix="name a video"
        )
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise SourceError(
            f"{file}: there is no decoder for its codec",
            fix=convert(file),
        )
    try:
        for stream in decodable:
            check_pixels(stream.codec_context.width, stream.codec_context.height)
    except PictureError as error:
        raise SourceError(f"{file}: {error.problem}", fix=error.fix) from None
    if len(decodable) == 1:
        return decodable[0], 1
    index = _best(decodable, _moving(file))
    return next(stream for stream in decodable if stream.index == index), len(decodable)


def _best(streams: "list[VideoStream]", moving: set[int]) -> int:
    """Index of the film: neither a single picture nor a preview, marked as default, largest,
    first."""
    films = [stream for stream in streams if stream.index in moving] or streams
    most = max(stream.width * stream.height for stream in films)
    films = [stream for stream in films if _SMALL * stream.width * stream.height > most]
    return min(
        films,
        key=lambda stream: (
            not stream.disposition & 1,  # AV_DISPOSITION_DEFAULT
            -stream.width * stream.height,
            stream.index,
        ),
    ).index


def _moving(file: Path) -> set[int]:
    """Indices of the tracks with more than one picture."""
    import av

    counts: dict[int, int] = {}
    try:
        with av.open(str(absolute(file)), options=_options()) as container:
            streams = container.streams.video
            for count, packet in enumerate(container.demux(*streams)):
                counts[packet.stream_index] = counts.get(packet.stream_index, 0) + bool(packet.size)
                if count > _MOST_PROBED:
                    break
    except av.FFmpegError:
        pass  # The reading of the chosen track reports it.
    return {index for index, count in counts.items() if count > 1}


def described(stream: "VideoStream", tracks: int) -> str:
    """The chosen track in words where the file has several; otherwise empty."""
    if tracks == 1:
        return ""
    return f" of video track {stream.index} ({stream.width}x{stream.height}), one of {tracks}"


def fps_of(stream: "VideoStream") -> float:
    """The rate of a track by the header, or FALLBACK_FPS."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if 0 < rate <= 1000 else FALLBACK_FPS
