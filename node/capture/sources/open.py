"""Opens the source that the `source` setting of a camera names."""

import logging
import os
import re
import urllib.parse
from pathlib import Path

from node.capture.rate import RateLimit
from node.capture.sources.animation import AnimationSource, is_animated
from node.capture.sources.base import Source
from node.capture.sources.demo import DemoSource
from node.capture.sources.device import (
    check_device,
    check_gstreamer,
    open_device,
    open_gstreamer,
)
from node.capture.sources.image_files import (
    ALL_READ,
    ImageFile,
    ImageFilesSource,
    find_image_files,
    head_of,
    is_image_file,
)
from node.capture.sources.video_file import SUFFIXES as VIDEO_SUFFIXES
from node.capture.sources.video_file import VideoFileSource
from node.config.schema import CameraConfig
from node.errors import SourceError
from perception_client.paths import expanded

log = logging.getLogger(__name__)

DEFAULT_PHOTO_FPS = 1.0
"""Images a second of a folder or glob without a configured rate."""


def is_live(source: str) -> bool:
    """Whether a source is a camera or stream, which may be unavailable for a time."""
    if source.startswith("file://"):
        return False
    return source.isdecimal() or source.startswith(("/dev/", "gst:")) or "://" in source


def open_source(config: CameraConfig, limit: RateLimit | None = None) -> Source:
    """Opens the source of a camera. Raises SourceError, whose message names the source.

    Args:
        config: the camera.
        limit: which frames of a live source are decoded; None: as configured.
    """
    source = config.source
    if source == "demo":
        return DemoSource()
    if source.startswith("gst:"):
        return open_gstreamer(config, limit)
    if is_live(source):
        if "://" not in source:
            return open_device(config, limit)
        from node.capture.sources.address import open_address  # imports requests

        return open_address(config, limit)
    files = _path_in(source)
    photos = find_image_files(files)
    if photos is not None and len(photos) == 1 and is_animated(photos[0]):
        return AnimationSource(photos[0], loop=config.loop)
    if photos is not None:
        fps = config.fps or DEFAULT_PHOTO_FPS
        return ImageFilesSource(photos, fps=fps, loop=config.loop, report=log.warning)
    return _open_video(expanded(files), loop=config.loop, conceal=not config.detect_damage)


def _path_in(source: str) -> str:
    """The path that a source names. An address of a file may have its special characters as
    escapes (`%20`), unless a file has this very name."""
    if not source.startswith("file://"):
        return source
    path = source.removeprefix("file://").removeprefix("localhost")
    return path if os.path.lexists(path) else urllib.parse.unquote(path)


def check_source(config: CameraConfig) -> None:
    """Raises SourceError for a source that certainly cannot be opened: a missing or unreadable
    file, a required camera that is missing. Fast enough to run before a model is loaded."""
    if not is_live(config.source):
        open_source(config).close()
    elif config.source.startswith("gst:"):
        check_gstreamer(config)
    elif config.at_start == "require" and "://" not in config.source:
        check_device(config)


def open_file(file: Path) -> Source:
    """Opens one photograph, without a stamp, one animated picture, or one video. Raises
    SourceError."""
    if is_animated(file):
        return AnimationSource(file)
    return ImageFile(file) if is_image_file(file) else _open_video(file)


def _open_video(file: Path, *, loop: bool = False, conceal: bool = False) -> VideoFileSource:
    """Raises SourceError also for a text, which FFmpeg would show as a video of a terminal."""
    head = head_of(file, _TEXT_BYTES)
    if file.suffix.lower() == ".mcap":
        raise SourceError(
            f"{file} is a recording", fix=f"label it with: perception-node replay {file}"
        )
    if _is_text(head) and not head.startswith(_RAW_VIDEO):
        if _LIST.match(head):
            raise SourceError(
                f"{file} is a list of other files, not a video",
                fix=f"name those, or join them: ffmpeg -i {file.name} -c copy {file.stem}.mkv",
            )
        raise SourceError(
            f"{file} is a text, neither a picture nor a video",
            fix=f"pictures end in {ALL_READ}, videos in {', '.join(sorted(VIDEO_SUFFIXES))}",
        )
    return VideoFileSource(file, loop=loop, conceal=conceal)


_TEXT_BYTES = 4096
_RAW_VIDEO = b"YUV4MPEG2"
_LIST = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:#EXTM3U|ffconcat|v=0|(?:<[?!][\s\S]*)?<(?:MPD|CompositionPlaylist)\b)"
)
"""Beginnings of playlists and session descriptions. FFmpeg would leave out what they lack, and wait
for more without end."""


def _is_text(head: bytes) -> bool:
    # The last character may be cut.
    text = head.decode("utf-8", errors="ignore")
    complete = len(head) - len(text.encode()) < 4
    return bool(head) and complete and all(char.isprintable() or char.isspace() for char in text)
