"""OpenCV, loaded once and quietly: every module that captures takes `cv2` from here, so that a
computer without its libraries gets one line with the mend and not a traceback."""

import contextlib
import ctypes
import os
from pathlib import Path

from node.errors import SourceError
from node.image.limits import limits

# OpenCV and its FFmpeg print to stderr on their own; failures reach the user as our errors.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET

try:
    import cv2
except ImportError as error:
    missing = "libGL.so.1" if "libGL" in str(error) else str(error)
    raise SourceError(
        f"OpenCV cannot be loaded: {missing} is missing on this computer; install it with "
        "'apt-get install libgl1 libglib2.0-0', or use the build that needs no display: "
        "'pip uninstall opencv-python' and then 'pip install opencv-python-headless'"
    ) from error


def limit_buffers() -> None:
    """No buffer of FFmpeg is longer: not for a picture that claims to be huge, nor for a packet
    that never ends. OpenCV itself has no way to say so; its FFmpeg is asked, where it is a library
    of its own. Again for libraries that were loaded since."""
    most = limits().max_buffer_bytes
    with contextlib.suppress(OSError):  # /proc is not everywhere
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        found = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libavutil" in line}
        for library in found:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(library).av_max_alloc(ctypes.c_size_t(most))


limit_buffers()

__all__ = ["cv2", "limit_buffers"]
