"""A live stream of H.264 or H.265, read as it comes and decoded here: damage is found, and
what waits to be decoded hides no age."""

import logging
import time
from collections import deque
from typing import get_args

from node.capture.backlog import MOST_LATE_NS, BacklogMeter
from node.capture.h26x.annex_b import Codec
from node.capture.h26x.decoder import (
    ConcealingDecoder,
    Decoded,
    Decoder,
    EncodedPacket,
    VideoDecoder,
    can_decode,
)
from node.capture.handover import HandOver, NewestKey
from node.capture.packets import PacketReader
from node.capture.rate import RateLimit
from node.capture.sources.base import Picture, SourceFacts
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.opencv import cv2

log = logging.getLogger(__name__)


_SHOWN_AT_LEAST_NS = 100_000_000
"""How often a picture is shown, where newer ones wait: what is only decoded costs less."""


class H26xStream:
    """An open `cv2.VideoCapture` of FFmpeg that delivers undecoded pictures.

    The stamp is taken when a picture's bytes are there, before they are decoded. OpenCV's own
    decoder would hold one picture back for each core, and stamp what it gives with that later time.
    """

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        who: str,
        config: CameraConfig,
        facts: SourceFacts,
        codec: Codec,
        limit: RateLimit,
        arrivals: BacklogMeter,
    ) -> None:
        self._who = who
        self._limit = limit
        self.facts = facts
        decoder = VideoDecoder if config.detect_damage else ConcealingDecoder
        self._decoder: Decoder = decoder(codec, _header(capture))
        kept = NewestKey if config.discard_backlog else HandOver
        self._every = not config.discard_backlog
        self._packets = PacketReader(capture, who, config.name, arrivals, kept)
        self._ready: deque[Decoded] = deque()
        self._dropped: int | None = None
        self._shown_ns = 0
        self._taken_ns = 0

    @property
    def shortfall(self) -> str | None:
        """As `FallsShort.shortfall`."""
        return self._packets.shortfall.why

    def read(self) -> Picture | None:
        while True:
            decoded = self._next()
            came_ns = decoded.stamp.mono_ns
            assert came_ns is not None
            if self._superseded():
                self._drop(1)
                self._packets.shortfall.passed(1, "slow")
            elif self._limit.wants(came_ns):
                return self._picture(decoded, came_ns)

    def summary(self) -> str | None:
        return None

    def close(self) -> None:
        self._packets.close()

    def _picture(self, decoded: Decoded, came_ns: int) -> Picture:
        image = self._decoder.pixels(decoded.frame)
        self._packets.shown()
        self._shown_ns = time.monotonic_ns()
        dropped, self._dropped = self._dropped or 0, 0
        return Picture(image, decoded.stamp, None, self._shown_ns - came_ns, dropped=dropped)

    def _next(self) -> Decoded:
        """The next picture that can be believed and came just now; each one has to be decoded,
        wanted or not."""
        while not self._ready:
            packet = self._packets.take()
            self._taken_ns = packet.came_ns
            self._drop(packet.dropped)
            if not packet.data:
                raise SourceError(f"{self._who} stopped delivering frames")
            try:
                decoded = self._decoder.decode(
                    EncodedPacket(packet.data, packet.stamp, packet.is_key, packet.periods)
                )
            except PictureError as error:
                raise PictureError(f"{self._who}: {error}") from error
            if packet.arrival.old:
                self._drop(1)
                self._packets.shortfall.passed(1, "late")
            else:
                self._ready.extend(decoded)
        return self._ready.popleft()

    def _superseded(self) -> bool:
        """Whether decoding is late, newer pictures wait, and one was shown just now. What a decoder
        holds back to put pictures in order does not count."""
        if self._every or not self._packets.waiting:
            return False
        now_ns = time.monotonic_ns()
        is_late = now_ns - self._taken_ns > MOST_LATE_NS
        return is_late and now_ns - self._shown_ns < _SHOWN_AT_LEAST_NS

    def _drop(self, pictures: int) -> None:
        """Counts them, but for those before the first that was shown: they were filmed before the
        camera was opened."""
        if self._dropped is not None:
            self._dropped += pictures


def codec_of(fourcc: str | None, config: CameraConfig) -> Codec | None:
    """Which codec a stream is to be decoded with here; None where OpenCV is to do it."""
    codec: Codec | None = next((x for x in get_args(Codec) if x == fourcc), None)
    if codec is None:
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
