"""OpenCV, loaded once and quietly: every module that captures takes `cv2` from here, so that a
computer without its libraries gets one line with the mend and not a traceback."""

import os

from node.errors import SourceError

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

__all__ = ["cv2"]
