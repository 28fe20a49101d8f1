"""JpegStream: a live stream of motion JPEG; decodes the newest picture and rejects damage."""

import time

from node.capture.backlog import BacklogMeter
from node.capture.handover import HandOver, NewestPicture
from node.capture.packets import PacketReader
from node.capture.rate import RateLimit
from node.capture.sources.base import Picture, SourceFacts
from node.config.schema import CameraConfig
from node.errors import PictureError
from node.image.frame import Image
from node.image.jpeg import START, decode_jpeg, holds_another
from node.image.opencv import cv2


class JpegStream:
    """An open `cv2.VideoCapture` of FFmpeg that delivers motion JPEG undecoded. Pictures above the
    rate limit, and those that a newer one replaces before decoding, are never decoded.

    Args:
        capture: the open stream, set to deliver undecoded pictures.
        label: start of each error message.
        config: the camera.
        facts: size and rate of the stream.
        limit: which pictures to decode.
        backlog_meter: measures the lateness of each picture.
    """

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        label: str,
        config: CameraConfig,
        facts: SourceFacts,
        limit: RateLimit,
        backlog_meter: BacklogMeter,
    ) -> None:
        self._label = label
        self.facts = facts
        hand_over = NewestPicture if config.discard_backlog else HandOver
        self._packets = PacketReader(
            capture, label, config.name, backlog_meter, hand_over, limit.wants
        )
        self._dropped: int | None = None

    @property
    def shortfall(self) -> str | None:
        """As `FallsShort.shortfall`."""
        return self._packets.shortfall.why

    def read(self) -> Picture | None:
        """As `Source.read`; never None."""
        packet = self._packets.take()
        # Pictures dropped before the first shown one were taken before the camera was opened.
        if self._dropped is not None:
            self._dropped += packet.dropped
        image = strictly_decoded(packet.data, self._label)
        self._packets.shown()
        dropped, self._dropped = self._dropped or 0, 0
        capture_ns = time.monotonic_ns() - packet.came_ns
        return Picture(image, packet.stamp, None, capture_ns, jpeg=packet.data, dropped=dropped)

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        self._packets.close()


def strictly_decoded(jpeg: bytes, label: str) -> Image:
    """Decodes one JPEG to [height, width, 3] uint8 BGR. Raises PictureError for damage, other data,
    and several pictures at once; the message starts with `label`."""
    if not jpeg.startswith(START):
        raise PictureError(f"{label} delivered a frame that is no JPEG")
    # The stream's lengths are wrong: the first picture may be seconds old.
    if holds_another(jpeg):
        raise PictureError(f"{label} delivered several pictures as one")
    try:
        return decode_jpeg(jpeg)
    except PictureError as error:
        raise PictureError(f"{label}: {error}") from error
