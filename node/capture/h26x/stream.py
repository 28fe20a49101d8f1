"""H26xStream: a live stream of H.264 or H.265 that is decoded here, to reject damage and to bound
the age of undecoded pictures."""

import logging
import time
from collections import deque
from typing import get_args

from node.capture.backlog import MOST_LATE_NS, BacklogMeter
from node.capture.handover import HandOver, NewestKey, Packet
from node.capture.packets import OpenCvStream, PacketReader
from node.capture.rate import RateLimit
from node.capture.sources.base import Picture, SourceFacts
from node.config.schema import CameraConfig
from node.errors import BacklogError, PictureError, SourceError
from node.image.h26x.annex_b import Codec
from node.image.h26x.decoder import (
    ConcealingDecoder,
    Decoded,
    Decoder,
    EncodedPacket,
    VideoDecoder,
    can_decode,
)
from node.image.opencv import cv2
from node.image.orientation import AS_STORED, Orientation

log = logging.getLogger(__name__)


_SHOWN_AT_LEAST_NS = 100_000_000
"""Longest time between two shown pictures while newer ones wait. Pictures that are only decoded
cost less."""


class H26xStream:
    """An open `cv2.VideoCapture` of FFmpeg that delivers undecoded pictures.

    The stamp is the arrival of a picture's bytes, before decoding. OpenCV's own decoder would hold
    back one picture for each core, and stamp pictures when they leave it.

    Args:
        capture: the open stream, set to deliver undecoded pictures.
        label: start of each error message.
        config: the camera.
        facts: size and rate of the stream.
        codec: of the stream.
        limit: which pictures to return.
        backlog_meter: measures the lateness of each picture.
        orientation: of the pictures, by the stream's container.
    """

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        label: str,
        config: CameraConfig,
        facts: SourceFacts,
        codec: Codec,
        limit: RateLimit,
        backlog_meter: BacklogMeter,
        orientation: Orientation = AS_STORED,
    ) -> None:
        self._label = label
        self._limit = limit
        self._orientation = orientation
        self.facts = facts
        decoder = VideoDecoder if config.detect_damage else ConcealingDecoder
        self._decoder: Decoder = decoder(codec, _header(capture))
        hand_over = NewestKey if config.discard_backlog else HandOver
        self._lossless = not config.discard_backlog
        source = OpenCvStream(capture, label, config)
        self._packets = PacketReader(source, config.name, backlog_meter, hand_over)
        self._ready: deque[Decoded] = deque()
        self._dropped: int | None = None
        self._shown_ns = 0
        self._arrival_ns = 0

    @property
    def shortfall(self) -> str | None:
        """As `FallsShort.shortfall`."""
        return self._packets.shortfall.why

    @property
    def burst_s(self) -> float | None:
        """As `FallsShort.burst_s`."""
        return self._packets.burst_s

    def read(self) -> Picture | None:
        """As `Source.read`; never None."""
        while True:
            decoded = self._next()
            arrival_ns = decoded.stamp.mono_ns
            assert arrival_ns is not None
            # Pictures that were sent out of order share one stamp, but not the packet that makes
            # them complete.
            if self._superseded():
                self._drop(1)
                self._packets.shortfall.passed(1, "slow")
            elif self._limit.wants(self._arrival_ns):
                return self._picture(decoded, arrival_ns)

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        self._packets.close()

    def _picture(self, decoded: Decoded, arrival_ns: int) -> Picture:
        image = self._orientation.upright(self._decoder.pixels(decoded.frame))
        self._packets.shown()
        self._shown_ns = time.monotonic_ns()
        dropped, self._dropped = self._dropped or 0, 0
        return Picture(image, decoded.stamp, None, self._shown_ns - arrival_ns, dropped=dropped)

    def _next(self) -> Decoded:
        """Returns the next decoded picture that is neither damaged nor old. Every packet has to be
        decoded, since later ones refer to it."""
        while not self._ready:
            packet = self._take()
            if packet is None:
                continue
            self._arrival_ns = packet.came_ns
            self._drop(packet.dropped)
            if not packet.data:
                raise SourceError(f"{self._label} stopped delivering frames")
            try:
                decoded = self._decoder.decode(
                    EncodedPacket(packet.data, packet.stamp, packet.is_key, packet.periods)
                )
            except PictureError as error:
                raise PictureError(f"{self._label}: {error}") from error
            if packet.arrival.old:
                self._drop(1)
                self._packets.shortfall.passed(1, "late")
            else:
                self._ready.extend(decoded)
        return self._ready.popleft()

    def _take(self) -> Packet | None:
        """Returns the next packet. None once at the end of the stream, if pictures that the decoder
        held back for their order are ready then, and not old."""
        try:
            return self._packets.take()
        except BacklogError:
            raise
        except SourceError:
            if time.monotonic_ns() - self._arrival_ns < MOST_LATE_NS or self._lossless:
                self._ready.extend(self._decoder.flush())
            if not self._ready:
                raise
            return None

    def _superseded(self) -> bool:
        """Whether decoding is late, newer packets wait, and a picture was shown recently. Pictures
        that the decoder holds back for reordering do not count."""
        if self._lossless or not self._packets.waiting:
            return False
        now_ns = time.monotonic_ns()
        is_late = now_ns - self._arrival_ns > MOST_LATE_NS
        return is_late and now_ns - self._shown_ns < _SHOWN_AT_LEAST_NS

    def _drop(self, pictures: int) -> None:
        """Counts dropped pictures, except those before the first shown one: these were taken before
        the camera was opened."""
        if self._dropped is not None:
            self._dropped += pictures


def codec_of(fourcc: str | None, config: CameraConfig) -> Codec | None:
    """Returns the codec that VideoDecoder has to decode; None if OpenCV decodes.

    Args:
        fourcc: of the stream, as OpenCV reports it.
        config: the camera.
    """
    codec: Codec | None = next(
        (candidate for candidate in get_args(Codec) if candidate == fourcc), None
    )
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
    """Returns the parameter sets in the stream's description: some RTSP cameras send them only
    there."""
    index = int(capture.get(cv2.CAP_PROP_CODEC_EXTRADATA_INDEX))
    retrieved, data = capture.retrieve(flag=index)
    return data.tobytes() if retrieved and data is not None else b""
