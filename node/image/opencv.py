"""Imports OpenCV without its log output. Every capture module imports `cv2` from here, so that a
computer without OpenCV's libraries gets a one-line error with its fix."""

import contextlib
import ctypes
import os

from node.errors import SourceError
from node.image.libraries import loaded_libraries
from node.image.limits import limits

# OpenCV and its FFmpeg print to stderr by themselves; failures are reported as exceptions of this
# package.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET

try:
    import cv2
except ImportError as error:
    missing = "libGL.so.1" if "libGL" in str(error) else str(error)
    raise SourceError(
        f"OpenCV cannot be loaded: {missing} is missing on this computer",
        fix="install it with "
        "'apt-get install libgl1 libglib2.0-0', or use the build that needs no display: "
        "'pip uninstall opencv-python' and then 'pip install opencv-python-headless'",
    ) from error


def limit_buffers() -> None:
    """Limits each buffer of FFmpeg, for pictures that claim a huge size and for packets without
    end. OpenCV offers no such setting, so the limit is set in each loaded libavutil. Call it again
    after FFmpeg libraries were loaded."""
    max_bytes = limits().max_buffer_bytes
    for library in loaded_libraries("libavutil"):
        with contextlib.suppress(AttributeError):
            library.av_max_alloc(ctypes.c_size_t(max_bytes))


limit_buffers()

__all__ = ["cv2", "limit_buffers"]
