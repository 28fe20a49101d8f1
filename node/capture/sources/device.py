"""Live sources through OpenCV: local cameras, streams and GStreamer pipelines."""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

from node.capture.backlog import BacklogMeter
from node.capture.h26x.stream import H26xStream, codec_of
from node.capture.handover import USELESS, USELESS_NS
from node.capture.packets import OpenCvStream, timeout_ms
from node.capture.rate import RateLimit
from node.capture.shortfall import Shortfall
from node.capture.sleep_meter import SleepMeter
from node.capture.sources.base import Picture, Source, SourceFacts
from node.capture.sources.jpeg_stream import JpegStream, strictly_decoded
from node.capture.sources.open_failure import open_failure
from node.config.redact import redacted
from node.config.schema import CameraConfig
from node.errors import BacklogError, PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.jpeg import START
from node.image.limits import check_pixels
from node.image.opencv import cv2
from node.image.orientation import Orientation

_OLDEST_DRIVER_STAMP_NS = 10_000_000_000
"""Age above which a driver's stamp is implausible and ignored."""


class LiveSource:
    """An open `cv2.VideoCapture` that delivers current frames.

    The stamp is taken between `grab`, which waits for the frame, and `retrieve`, which decodes it.
    A V4L2 driver stamps the buffer itself; its stamp is used if it is plausible.

    Motion JPEG is decoded here, since OpenCV's decoders fill missing parts with invented pixels and
    report no error.

    Args:
        capture: the open camera or stream; this object releases it.
        label: start of each error message.
        config: the camera.
        limit: which frames to decode; None: as configured.
        backlog_meter: measures the lateness of each frame of a stream; None for a local camera.
    """

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        label: str,
        config: CameraConfig,
        limit: RateLimit | None = None,
        backlog_meter: BacklogMeter | None = None,
    ) -> None:
        self._capture = capture
        self._label = label
        self._backlog_meter = backlog_meter
        self._limit = limit or RateLimit(config.max_fps)
        self._shortfall = Shortfall(config.name, lambda: self.burst_s)
        self._meter: SleepMeter | None = None
        self._dropped: int | None = None
        self._driver_stamps = capture.getBackendName() == "V4L2"
        self.facts = _negotiate(capture, config)
        self._undecoded = self.facts.pixel_format == "MJPG" and _request_coded(capture, True)

    def read(self) -> Picture | None:
        """As `Source.read`; never None."""
        try:
            grabbed, stamp = self._grab()
        except cv2.error as error:
            raise SourceError(f"{self._label} failed in OpenCV: {error.err}") from error
        if not grabbed:
            raise SourceError(f"{self._label} stopped delivering frames")
        try:
            decoded, image = self._capture.retrieve()
        except cv2.error as error:
            raise PictureError(
                f"{self._label} delivered a frame that OpenCV cannot decode: {error.err}"
            ) from error
        if not decoded or image is None:
            raise PictureError(f"{self._label} delivered a frame that cannot be decoded")
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

    @property
    def burst_s(self) -> float | None:
        """As `FallsShort.burst_s`."""
        return self._backlog_meter.burst_s if self._backlog_meter is not None else None

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        self._capture.release()
        if self._meter is not None:
            self._meter.close()

    def _pixels(self, retrieved: Image) -> tuple[Image, bytes | None]:
        """Returns the image, and the JPEG bytes that it was decoded from, if any. Raises
        PictureError."""
        if not self._undecoded:
            return retrieved, None
        # The back end decoded it although it accepted the request for bytes.
        if retrieved.ndim == 3 and retrieved.shape[2] == 3:
            self._undecoded = False
            return retrieved, None
        jpeg = retrieved.tobytes()
        if not jpeg.startswith(START):
            self._undecoded = not _request_coded(self._capture, False)
            raise PictureError(f"{self._label} delivered a frame that is no JPEG")
        return strictly_decoded(jpeg, self._label), jpeg

    def _grab(self) -> tuple[bool, Stamp]:
        """Grabs the next frame that passes the rate limit and is not old; the others are never
        decoded. Returns whether that succeeded, and the stamp."""
        began_ns, dropped_frames = time.monotonic_ns(), 0
        # The meter measures the thread that constructs it.
        if self._meter is None:
            self._meter = SleepMeter()
        meter = self._meter
        while True:
            slept_before_ns = meter.slept_ns()
            grabbed = self._capture.grab()
            stamp = self._stamp()
            came_ns = stamp.mono_ns
            assert came_ns is not None
            if not grabbed:
                return False, stamp
            if self._backlog_meter is not None:
                arrival = self._backlog_meter.next(meter.slept_ns() - slept_before_ns, came_ns)
                self._shortfall.came()
                if arrival.old:
                    dropped_frames += 1
                    self._count_dropped(dropped_frames, came_ns - began_ns)
                    continue
                stamp = replace(stamp, uncertainty_ns=arrival.late_ns)
            if self._limit.wants(came_ns):
                return True, stamp

    def _count_dropped(self, dropped_frames: int, elapsed_ns: int) -> None:
        """Counts a dropped frame, except before the first shown one. Raises BacklogError if every
        frame of a second was dropped."""
        self._shortfall.passed(1, "late")
        if self._dropped is not None:
            self._dropped += 1
        if dropped_frames >= USELESS and elapsed_ns >= USELESS_NS:
            raise BacklogError(self._shortfall.complaint)

    def _stamp(self) -> Stamp:
        if self._driver_stamps:
            # OpenCV's V4L2 back end reports v4l2_buffer.timestamp, CLOCK_MONOTONIC in ms.
            driver_ns = int(self._capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            if 0 <= time.monotonic_ns() - driver_ns < _OLDEST_DRIVER_STAMP_NS:
                return Stamp.from_driver(driver_ns)
        return Stamp.now()


def device_file(config: CameraConfig) -> Path:
    """Returns the device file of a camera number or /dev path."""
    return Path(f"/dev/video{config.source}" if config.source.isdecimal() else config.source)


def check_device(config: CameraConfig) -> Path:
    """Returns the device file of a camera number or /dev path. Raises SourceError if it does not
    exist or the user may not open it."""
    device = device_file(config)
    label = f"camera '{config.name}': {redacted(str(device))}"
    if not device.exists():
        raise SourceError(f"{label} does not exist", fix=f"cameras here: {cameras_here()}")
    if not os.access(device, os.R_OK | os.W_OK):
        raise SourceError(
            f"{label} may not be opened by this user",
            fix="add it to the video group: "
            f"sudo usermod -aG video {os.environ.get('USER', '$USER')}, then log in again",
        )
    return device


def open_device(config: CameraConfig, limit: RateLimit | None = None) -> LiveSource:
    """Opens the local camera with a number or /dev path. Raises SourceError."""
    device = check_device(config)
    label = f"camera '{config.name}': {redacted(str(device))}"
    capture = cv2.VideoCapture(str(device), cv2.CAP_V4L2)
    if not capture.isOpened():
        raise SourceError(
            f"{label} cannot be opened as a camera",
            fix="is another program using it, or is it the "
            f"metadata device of a camera? cameras here: {cameras_here()}",
        )
    return LiveSource(capture, label, config, limit)


def open_url(config: CameraConfig, limit: RateLimit | None = None) -> Source:
    """Opens the stream at an address. H.264, H.265 and motion JPEG are decoded by this package
    where it can, since OpenCV reports no damage. Raises SourceError."""
    label = f"camera '{config.name}': {redacted(config.source)}"
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
            1,  # each further thread of OpenCV's decoder would hold back one picture
        ],
    )
    if not capture.isOpened():
        raise open_failure(label, config.source, opened_ns / 1e9, timeout_ms(config) / 1000)
    _check_size(capture, label)
    limit = limit or RateLimit(config.max_fps)
    backlog_meter = BacklogMeter(_fps(capture), discard=config.discard_backlog, opened_ns=opened_ns)
    codec, fourcc = codec_of(_fourcc(capture), config), _fourcc(capture)
    if codec is not None and _request_coded(capture, True):
        facts = _negotiate(capture, config)
        return H26xStream(
            capture, label, config, facts, codec, limit, backlog_meter, _orientation(capture)
        )
    if fourcc == "MJPG" and _request_coded(capture, True):
        facts = _negotiate(capture, config)
        source = OpenCvStream(capture, label, config)
        return JpegStream(source, label, config, facts, limit, backlog_meter, _orientation(capture))
    return LiveSource(capture, label, config, limit, backlog_meter)


def check_gstreamer(config: CameraConfig) -> None:
    """Raises SourceError if this build of OpenCV cannot run GStreamer pipelines."""
    if not has_gstreamer():
        raise SourceError(
            f"camera '{config.name}': {redacted(config.source)}: this OpenCV "
            f"({cv2.__version__}) was built without GStreamer",
            fix="use a device or URL, or install an OpenCV built with -D WITH_GSTREAMER=ON",
        )


def open_gstreamer(config: CameraConfig, limit: RateLimit | None = None) -> LiveSource:
    """Opens the pipeline after `gst:`, which has to end in an appsink. Raises SourceError."""
    pipeline = config.source.removeprefix("gst:").strip()
    label = f"camera '{config.name}': {redacted(config.source)}"
    check_gstreamer(config)
    opened_ns = time.monotonic_ns()
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        raise SourceError(
            f"{label} does not start",
            fix="try it with gst-launch-1.0, and end it with "
            "'! videoconvert ! video/x-raw,format=BGR ! appsink drop=1 max-buffers=1'",
        )
    _check_size(capture, label)
    backlog_meter = BacklogMeter(_fps(capture), discard=config.discard_backlog, opened_ns=opened_ns)
    return LiveSource(capture, label, config, limit, backlog_meter)


def _check_size(capture: "cv2.VideoCapture", label: str) -> None:
    """Raises SourceError if the stream claims pictures above the limits."""
    width, height = (
        capture.get(prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    try:
        check_pixels(int(width), int(height))
    except PictureError as error:
        capture.release()
        raise SourceError(f"{label}: {error}") from None


def has_gstreamer() -> bool:
    """Whether this build of OpenCV can run GStreamer pipelines."""
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def cameras_here() -> str:
    """The camera devices of this computer, for a message."""
    devices = sorted(Path("/dev").glob("video*"))
    return ", ".join(str(device) for device in devices) or "none"


def _negotiate(capture: "cv2.VideoCapture", config: CameraConfig) -> SourceFacts:
    """Requests the configured format and reports what the source accepted."""
    if config.fourcc:  # First, since it decides which sizes and rates are available.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
    for setting, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, config.width),
        (cv2.CAP_PROP_FRAME_HEIGHT, config.height),
        (cv2.CAP_PROP_FPS, config.fps),
        (cv2.CAP_PROP_BUFFERSIZE, 1),  # a longer buffer only makes frames older
    ):
        if value is not None:
            capture.set(setting, value)
    actual = SourceFacts(
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)) or None,
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)) or None,
        fps=_fps(capture),
        pixel_format=_fourcc(capture),
    )
    compared = (
        ("width", config.width, actual.width),
        ("height", config.height, actual.height),
        ("fps", config.fps, actual.fps),
        ("fourcc", config.fourcc, actual.pixel_format),
    )
    differences = tuple(
        f"{name} {requested} asked for, {received if received is not None else 'unknown'} given"
        for name, requested, received in compared
        if requested is not None and requested != received
    )
    return SourceFacts(actual.width, actual.height, actual.fps, actual.pixel_format, differences)


def _request_coded(capture: "cv2.VideoCapture", coded: bool) -> bool:
    """Requests coded bytes (`wanted`) or pixels for each picture; returns whether bytes are
    delivered."""
    if capture.getBackendName() == "FFMPEG":
        return bool(capture.set(cv2.CAP_PROP_FORMAT, -1)) if coded else False
    if capture.getBackendName() == "V4L2":
        return bool(capture.set(cv2.CAP_PROP_CONVERT_RGB, int(not coded)))
    return False


def _orientation(capture: "cv2.VideoCapture") -> Orientation:
    """Returns how the pictures of a stream have to be turned, and stops OpenCV from turning them:
    it turns undecoded bytes as well. OpenCV reports the angle of a display matrix, but not whether
    the matrix mirrors."""
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    return Orientation.of_turn(capture.get(cv2.CAP_PROP_ORIENTATION_META))


def _fps(capture: "cv2.VideoCapture") -> float | None:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= 1000 else None


def _fourcc(capture: "cv2.VideoCapture") -> str | None:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    with contextlib.suppress(ValueError, OverflowError):
        text = code.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ")
        return text if text.isprintable() and text else None
    return None
