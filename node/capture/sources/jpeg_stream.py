"""A live stream of motion JPEG, read as it comes; the newest picture is decoded, strictly."""

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
    """An open `cv2.VideoCapture` of FFmpeg that delivers motion JPEG undecoded. Pictures that are
    not wanted, or that a newer one follows before they are decoded, are never decoded."""

    live = True

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        who: str,
        config: CameraConfig,
        facts: SourceFacts,
        limit: RateLimit,
        arrivals: BacklogMeter,
    ) -> None:
        self._who = who
        self.facts = facts
        kept = NewestPicture if config.discard_backlog else HandOver
        self._packets = PacketReader(capture, who, config.name, arrivals, kept, limit.wants)
        self._dropped: int | None = None

    @property
    def shortfall(self) -> str | None:
        """As `FallsShort.shortfall`."""
        return self._packets.shortfall.why

    def read(self) -> Picture | None:
        packet = self._packets.take()
        if self._dropped is not None:  # else it was filmed before the camera was opened
            self._dropped += packet.dropped
        image = strictly_decoded(packet.data, self._who)
        self._packets.shown()
        dropped, self._dropped = self._dropped or 0, 0
        capture_ns = time.monotonic_ns() - packet.came_ns
        return Picture(image, packet.stamp, None, capture_ns, jpeg=packet.data, dropped=dropped)

    def summary(self) -> str | None:
        return None

    def close(self) -> None:
        self._packets.close()


def strictly_decoded(jpeg: bytes, who: str) -> Image:
    """[height, width, 3] uint8 BGR. Raises PictureError for what is no picture, damaged, or more
    than one. who: for its message."""
    if not jpeg.startswith(START):
        raise PictureError(f"{who} delivered a frame that is no JPEG")
    if holds_another(jpeg):  # a stream whose lengths are wrong: the first may be seconds old
        raise PictureError(f"{who} delivered several pictures as one")
    try:
        return decode_jpeg(jpeg)
    except PictureError as error:
        raise PictureError(f"{who}: {error}") from error
