"""From what a user writes as a source to the open source."""

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


def is_live(source: str) -> bool:
    """Whether a source is a camera or a stream, which may be missing now and there later."""
    if source.startswith("file://"):
        return False
    return source.isdecimal() or source.startswith(("/dev/", "gst:")) or "://" in source


def open_source(config: CameraConfig, limit: RateLimit | None = None) -> Source:
    """Opens the source of a camera. Raises SourceError, its message naming the source.

    limit: which frames of a live source are decoded; None: as the configuration says.
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
    """Raises SourceError for a source that is certain not to open: a file that is not there or
    cannot be read, a required camera that is missing. Quick, for use before a model is loaded."""
    if not is_live(config.source):
        open_source(config).close()
    elif config.source.startswith("gst:"):
        check_gstreamer(config)
    elif config.at_start == "require" and "://" not in config.source:
        check_device(config)


def open_file(file: Path) -> Source:
    """Opens one photograph, at no known time, or one video. Raises SourceError."""
    return ImageFile(file) if is_image_file(file) else VideoFileSource(file)
