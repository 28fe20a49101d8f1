"""A live stream of H.264 or H.265, read as it comes and decoded here, so that damage is found."""

import logging
import time
from collections import deque
from typing import get_args

from node.capture.annex_b import Codec
from node.capture.arrivals import Arrivals
from node.capture.coded_video import Coded, Decoded, VideoDecoder, can_decode
from node.capture.pacing import RateLimit
from node.capture.source import Picture, SourceFacts
from node.config import CameraConfig
from node.errors import PictureError, SourceError
from node.frame import Stamp
from node.opencv import cv2

log = logging.getLogger(__name__)


class CodedStream:
    """An open `cv2.VideoCapture` of FFmpeg that delivers undecoded pictures.

    The stamp is taken when a picture's bytes are there, before they are decoded. OpenCV's own
    decoder would hold one picture back for each core, and stamp what it gives with that later time.
    """

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        who: str,
        facts: SourceFacts,
        codec: Codec,
        limit: RateLimit,
        arrivals: Arrivals,
    ) -> None:
        self._capture = capture
        self._who = who
        self._limit = limit
        self._arrivals = arrivals
        self.facts = facts
        self._decoder = VideoDecoder(codec, _header(capture))
        self._ready: deque[Decoded] = deque()

    def read(self) -> Picture | None:
        while True:
            decoded = self._next()
            assert decoded.stamp.mono_ns is not None
            if self._limit.wants(decoded.stamp.mono_ns):
                image = self._decoder.pixels(decoded.frame)
                capture_ns = time.monotonic_ns() - decoded.stamp.mono_ns
                return Picture(image, decoded.stamp, None, capture_ns)

    def summary(self) -> str | None:
        return None

    def close(self) -> None:
        self._capture.release()

    def _next(self) -> Decoded:
        """The next picture that can be believed and came just now; each one has to be decoded,
        wanted or not."""
        while not self._ready:
            asked_ns = time.monotonic_ns()
            data, stamp, is_key = self._coded()
            assert stamp.mono_ns is not None
            arrival = self._arrivals.next(asked_ns, stamp.mono_ns)
            try:
                decoded = self._decoder.decode(Coded(data, stamp, is_key, arrival.periods))
            except PictureError as error:
                raise PictureError(f"{self._who}: {error}") from error
            self._ready.extend([] if arrival.old else decoded)
        return self._ready.popleft()

    def _coded(self) -> tuple[bytes, Stamp, bool]:
        try:
            grabbed = self._capture.grab()
            stamp = Stamp.now()
            taken, data = self._capture.retrieve() if grabbed else (False, None)
        except cv2.error as error:
            raise SourceError(f"{self._who} failed in OpenCV: {error.err}") from error
        if not taken or data is None:
            raise SourceError(f"{self._who} stopped delivering frames")
        is_key = bool(self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        return data.tobytes(), stamp, is_key


def codec_of(fourcc: str | None, config: CameraConfig) -> Codec | None:
    """Which codec a stream is to be decoded with here; None where OpenCV is to do it."""
    codec: Codec | None = next((x for x in get_args(Codec) if x == fourcc), None)
    if codec is None or not config.detect_damage:
        return None
    if not can_decode():
        log.warning(
            "camera '%s': damaged pictures of %s are not found without the package av; install it, "
            "or write detect_damage = false",
            config.name,
            codec,
        )
        return None
    return codec


def _header(capture: "cv2.VideoCapture") -> bytes:
    """The parameter sets that a stream's description carries: an RTSP camera may send them there
    only."""
    place = int(capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX))
    taken, data = capture.retrieve(flag=place)
    return data.tobytes() if taken and data is not None else b""
