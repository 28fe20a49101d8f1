"""Opens the source that the `source` setting of a camera names."""

import logging
from pathlib import Path

from node.capture.rate import RateLimit
from node.capture.sources.base import Source
from node.capture.sources.demo import DemoSource
from node.capture.sources.device import (
    check_device,
    check_gstreamer,
    open_device,
    open_gstreamer,
    open_url,
)
from node.capture.sources.image_files import (
    ImageFile,
    ImageFilesSource,
    find_image_files,
    is_image_file,
)
from node.capture.sources.video_file import VideoFileSource
from node.config.schema import CameraConfig
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
        return open_url(config, limit) if "://" in source else open_device(config, limit)
    files = source.removeprefix("file://")
    photos = find_image_files(files)
    if photos is not None:
        fps = config.fps or DEFAULT_PHOTO_FPS
        return ImageFilesSource(photos, fps=fps, loop=config.loop, report=log.warning)
    return VideoFileSource(expanded(files), loop=config.loop)


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
    """Opens one photograph, without a stamp, or one video. Raises SourceError."""
    return ImageFile(file) if is_image_file(file) else VideoFileSource(file)
