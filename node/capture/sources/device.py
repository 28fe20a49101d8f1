"""Live sources: cameras of this computer, stream addresses and GStreamer pipelines, by OpenCV."""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

from node.capture.backlog import BacklogMeter
from node.capture.h26x.stream import H26xStream, codec_of
from node.capture.handover import USELESS, USELESS_NS
from node.capture.rate import RateLimit
from node.capture.shortfall import Shortfall
from node.capture.sleep_meter import SleepMeter
from node.capture.sources.base import Picture, Source, SourceFacts
from node.capture.sources.jpeg_stream import JpegStream, strictly_decoded
from node.config.redact import redacted
from node.config.schema import CameraConfig
from node.errors import BacklogError, PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.jpeg import START
from node.image.limits import check_pixels
from node.image.opencv import cv2

STREAM_TIMEOUT_S = 10.0
"""How long a stream may take for one picture, the first as well, or two of its own periods."""
_OLDEST_DRIVER_STAMP_NS = 10_000_000_000


class LiveSource:
    """An open `cv2.VideoCapture` that delivers frames of now.

    The stamp is taken between `grab`, which waits for the frame, and `retrieve`, which decodes it.
    V4L2 drivers stamp the buffer themselves; that stamp is used where it is plausible.

    Motion JPEG is taken as it comes and decoded here: OpenCV's decoders fill what is missing with
    pixels of their own, and say nothing.
    """

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        who: str,
        config: CameraConfig,
        limit: RateLimit | None = None,
        arrivals: BacklogMeter | None = None,
    ) -> None:
        self._capture = capture
        self._who = who
        self._arrivals = arrivals
        self._limit = limit or RateLimit(config.max_fps)
        self._shortfall = Shortfall(config.name)
        self._meter: SleepMeter | None = None
        self._dropped: int | None = None
        self._driver_stamps = capture.getBackendName() == "V4L2"
        self.facts = _negotiate(capture, config)
        self._undecoded = self.facts.pixel_format == "MJPG" and _ask_for_bytes(capture, True)

    def read(self) -> Picture | None:
        try:
            grabbed, stamp = self._grab()
        except cv2.error as error:
            raise SourceError(f"{self._who} failed in OpenCV: {error.err}") from error
        if not grabbed:
            raise SourceError(f"{self._who} stopped delivering frames")
        try:
            decoded, image = self._capture.retrieve()
        except cv2.error as error:
            raise PictureError(
                f"{self._who} delivered a frame that OpenCV cannot decode: {error.err}"
            ) from error
        if not decoded or image is None:
            raise PictureError(f"{self._who} delivered a frame that cannot be decoded")
        image, jpeg = self._pixels(cast(Image, image))
        assert stamp.mono_ns is not None
        capture_ns = time.monotonic_ns() - stamp.mono_ns
        dropped, self._dropped = self._dropped or 0, 0
        self._shortfall.shown()
        return Picture(image, stamp, None, capture_ns, jpeg=jpeg, dropped=dropped)

    @property
    def shortfall(self) -> str | None:
        """As `FallsShort.shortfall`."""
        return self._shortfall.why

    def summary(self) -> str | None:
        return None

    def close(self) -> None:
        self._capture.release()
        if self._meter is not None:
            self._meter.close()

    def _pixels(self, retrieved: Image) -> tuple[Image, bytes | None]:
        """The picture, and the JPEG that it was. Raises PictureError."""
        if not self._undecoded:
            return retrieved, None
        if retrieved.ndim == 3 and retrieved.shape[2] == 3:  # decoded all the same
            self._undecoded = False
            return retrieved, None
        jpeg = retrieved.tobytes()
        if not jpeg.startswith(START):
            self._undecoded = not _ask_for_bytes(self._capture, False)
            raise PictureError(f"{self._who} delivered a frame that is no JPEG")
        return strictly_decoded(jpeg, self._who), jpeg

    def _grab(self) -> tuple[bool, Stamp]:
        """The next frame that is wanted; those before it are never decoded."""
        began_ns, passed = time.monotonic_ns(), 0
        if self._meter is None:  # of the thread that reads
            self._meter = SleepMeter()
        meter = self._meter
        while True:
            before_ns = meter.slept_ns()
            grabbed = self._capture.grab()
            stamp = self._stamp()
            came_ns = stamp.mono_ns
            assert came_ns is not None
            if not grabbed:
                return False, stamp
            if self._arrivals is not None:
                arrival = self._arrivals.next(meter.slept_ns() - before_ns, came_ns)
                self._shortfall.came()
                if arrival.old:
                    passed += 1
                    self._pass_over(passed, came_ns - began_ns)
                    continue
                stamp = replace(stamp, uncertainty_ns=arrival.late_ns)
            if self._limit.wants(came_ns):
                return True, stamp

    def _pass_over(self, passed: int, for_ns: int) -> None:
        """Counts a frame, but for those before the first that was shown. Raises BacklogError where
        all were passed over for a second."""
        self._shortfall.passed(1, "late")
        if self._dropped is not None:
            self._dropped += 1
        if passed >= USELESS and for_ns >= USELESS_NS:
            raise BacklogError(self._shortfall.complaint)

    def _stamp(self) -> Stamp:
        if self._driver_stamps:
            # OpenCV's V4L2 back end reports v4l2_buffer.timestamp, CLOCK_MONOTONIC in ms.
            driver_ns = int(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if 0 <= time.monotonic_ns() - driver_ns < _OLDEST_DRIVER_STAMP_NS:
                return Stamp.from_driver(driver_ns)
        return Stamp.now()


def check_device(config: CameraConfig) -> Path:
    """The device file of a camera number or /dev path. Raises SourceError where it is missing or
    this user may not open it."""
    device = Path(f"/dev/video{config.source}" if config.source.isdecimal() else config.source)
    who = f"camera '{config.name}': {redacted(str(device))}"
    if not device.exists():
        raise SourceError(f"{who} does not exist; cameras here: {cameras_here()}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(
            f"{who} may not be opened by this user; add it to the video group: "
            f"sudo usermod -aG video {os.environ.get('USER', '$USER')}, then log in again"
        )
    return device


def open_device(config: CameraConfig, limit: RateLimit | None = None) -> LiveSource:
    """The camera with a number or a /dev path. Raises SourceError."""
    device = check_device(config)
    who = f"camera '{config.name}': {redacted(str(device))}"
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise SourceError(
            f"{who} cannot be opened as a camera; is another program using it, or is it the "
            f"metadata device of a camera? cameras here: {cameras_here()}"
        )
    return LiveSource(capture, who, config, limit)


def open_url(config: CameraConfig, limit: RateLimit | None = None) -> Source:
    """The stream at an address, decoded here where that finds damage. Raises SourceError."""
    who = f"camera '{config.name}': {redacted(config.source)}"
    opened_ns = time.monotonic_ns()
    capture = cv2.VideoCapture(
        config.source,
        cv2.CAP_FFMPEG,
        [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            timeout_ms(config),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            timeout_ms(config),
            cv2.CAP_PROP_N_THREADS,
            1,  # each further thread of OpenCV's decoder would hold one picture back
        ],
    )
    if not capture.isOpened():
        raise SourceError(
            f"{who} cannot be opened; check that the server runs and that address, user and "
            "password are right"
        )
    _check_size(capture, who)
    limit = limit or RateLimit(config.max_fps)
    arrivals = BacklogMeter(_fps(capture), discard=config.discard_backlog, opened_ns=opened_ns)
    codec, fourcc = codec_of(_fourcc(capture), config), _fourcc(capture)
    if codec is not None and _ask_for_bytes(capture, True):
        facts = _negotiate(capture, config)
        return H26xStream(capture, who, config, facts, codec, limit, arrivals)
    if fourcc == "MJPG" and _ask_for_bytes(capture, True):
        facts = _negotiate(capture, config)
        return JpegStream(capture, who, config, facts, limit, arrivals)
    return LiveSource(capture, who, config, limit, arrivals)


def timeout_ms(config: CameraConfig) -> int:
    """How long FFmpeg waits for a picture of a stream, in ms."""
    period_s = 1 / config.fps if config.fps else 0.0
    return round(1000 * max(STREAM_TIMEOUT_S, config.stall_timeout_s, 2 * period_s))


def check_gstreamer(config: CameraConfig) -> None:
    """Raises SourceError where this OpenCV cannot run pipelines."""
    if not has_gstreamer():
        raise SourceError(
            f"camera '{config.name}': {redacted(config.source)}: this OpenCV "
            f"({cv2.__version__}) was built without GStreamer; use a device or URL, or install an "
            "OpenCV built with -D WITH_GSTREAMER=ON"
        )


def open_gstreamer(config: CameraConfig, limit: RateLimit | None = None) -> LiveSource:
    """The pipeline behind `gst:`, which ends in an appsink. Raises SourceError."""
    pipeline = config.source.removeprefix("gst:").strip()
    who = f"camera '{config.name}': {redacted(config.source)}"
    check_gstreamer(config)
    opened_ns = time.monotonic_ns()
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise SourceError(
            f"{who} does not start; try it with gst-launch-1.0, and end it with "
            "'! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1'"
        )
    _check_size(capture, who)
    arrivals = BacklogMeter(_fps(capture), discard=config.discard_backlog, opened_ns=opened_ns)
    return LiveSource(capture, who, config, limit, arrivals)


def _check_size(capture: "cv2.VideoCapture", who: str) -> None:
    """Raises SourceError for a stream that claims larger pictures than the limits."""
    width, height = (capture.get(x) for x in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    try:
        check_pixels(int(width), int(height))
    except PictureError as error:
        capture.release()
        raise SourceError(f"{who}: {error}") from None


def has_gstreamer() -> bool:
    """Whether this OpenCV can run GStreamer pipelines."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def cameras_here() -> str:
    """The camera devices of this computer in words."""
    devices = sorted(Path("/dev").glob("video*"))
    return ", ".join(str(device) for device in devices) or "none"


def _negotiate(capture: "cv2.VideoCapture", config: CameraConfig) -> SourceFacts:
    """Asks for the configured format and says what was given instead."""
    if config.fourcc:  # first: it decides which sizes and rates there are
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
    for setting, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, config.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, config.height),
        (cv2.CAP_PROP_FPS, config.fps),
        (cv2.CAP_PROP_BUFFERSIZE, 1),  # a longer buffer only makes frames older
    ):
        if value is not None:
            capture.set(setting, value)
    given = SourceFacts(
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)) or None,
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) or None,
        fps=_fps(capture),
        pixel_format=_fourcc(capture),
    )
    asked = (
        ("width", config.width, given.width),
        ("height", config.height, given.height),
        ("fps", config.fps, given.fps),
        ("fourcc", config.fourcc, given.pixel_format),
    )
    differences = tuple(
        f"{name} {wanted} asked for, {got if got is not None else 'unknown'} given"
        for name, wanted, got in asked
        if wanted is not None and wanted != got
    )
    return SourceFacts(given.width, given.height, given.fps, given.pixel_format, differences)


def _ask_for_bytes(capture: "cv2.VideoCapture", wanted: bool) -> bool:
    """Whether a capture now delivers each picture as the bytes it comes in (not `wanted`: as
    pixels)."""
    if capture.getBackendName() == "FFMPEG":
        return bool(capture.set(cv2.CAP_PROP_FORMAT, -1)) if wanted else False
    if capture.getBackendName() == "V4L2":
        return bool(capture.set(cv2.CAP_PROP_CONVERT_RGB, int(not wanted)))
    return False


def _fps(capture: "cv2.VideoCapture") -> float | None:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None


def _fourcc(capture: "cv2.VideoCapture") -> str | None:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    with contextlib.suppress(ValueError, OverflowError):
        text = code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ")
        return text if text.isprintable() and text else None
    return None
