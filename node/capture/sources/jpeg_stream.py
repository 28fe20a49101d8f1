"""JpegStream: a live stream of pictures that are coded independently, mostly motion JPEG. Decodes
the newest picture and rejects damage."""

import time

from node.capture.backlog import BacklogMeter
from node.capture.handover import HandOver, NewestPicture
from node.capture.packets import CodedSource, PacketReader
from node.capture.rate import RateLimit
from node.capture.sources.base import Picture, SourceFacts
from node.config.schema import CameraConfig
from node.errors import PictureError
from node.image.frame import Image
from node.image.jpeg import START, decode_jpeg, holds_another
from node.image.orientation import AS_STORED, Orientation
from node.image.png_webp import OTHER_STARTS, decode_png_or_webp


class JpegStream:
    """An open stream of JPEG, PNG or WebP pictures. Pictures above the rate limit, and those that a
    newer one replaces before decoding, are never decoded.

    Args:
        source: the open stream.
        label: start of each error message.
        config: the camera.
        facts: size and rate of the stream.
        limit: which pictures to decode.
        backlog_meter: measures the lateness of each picture.
        orientation: of the pictures, by the stream's container.
    """

    live = True

    def __init__(
        self,
        source: CodedSource,
        label: str,
        config: CameraConfig,
        facts: SourceFacts,
        limit: RateLimit,
        backlog_meter: BacklogMeter,
        orientation: Orientation = AS_STORED,
    ) -> None:
        self._orientation = orientation
        self._label = label
        self.facts = facts
        hand_over = NewestPicture if config.discard_backlog else HandOver
        self._packets = PacketReader(source, config.name, backlog_meter, hand_over, limit.wants)
        self._dropped: int | None = None

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
        packet = self._packets.take()
        # Pictures dropped before the first shown one were taken before the camera was opened.
        if self._dropped is not None:
            self._dropped += packet.dropped
        is_jpeg = not packet.data.startswith(OTHER_STARTS)
        decode = strictly_decoded if is_jpeg else _other_decoded
        image = self._orientation.upright(decode(packet.data, self._label))
        self._packets.shown()
        dropped, self._dropped = self._dropped or 0, 0
        capture_ns = time.monotonic_ns() - packet.came_ns
        jpeg = packet.data if is_jpeg and self._orientation == AS_STORED else None
        return Picture(image, packet.stamp, None, capture_ns, jpeg=jpeg, dropped=dropped)

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        self._packets.close()


def strictly_decoded(jpeg: bytes, label: str) -> Image:
    """Decodes one JPEG to [height, width, 3] uint8 BGR. Raises PictureError for damage, other data,
    and several pictures at once; the message starts with `label`."""
    if not jpeg:
        raise PictureError(f"{label} delivered a damaged picture")
    if not jpeg.startswith(START):
        raise PictureError(f"{label} delivered a frame that is no JPEG")
    # The stream's lengths are wrong: the first picture may be seconds old.
    if holds_another(jpeg):
        raise PictureError(f"{label} delivered several pictures as one")
    try:
        return decode_jpeg(jpeg)
    except PictureError as error:
        raise PictureError(f"{label}: {error}") from error


def _other_decoded(data: bytes, label: str) -> Image:
    """As `strictly_decoded`, for PNG and WebP."""
    try:
        return decode_png_or_webp(data)
    except PictureError as error:
        raise PictureError(f"{label}: {error}") from error
