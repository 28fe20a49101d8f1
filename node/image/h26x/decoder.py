"""VideoDecoder: decodes H.264 and H.265 and rejects damaged pictures. OpenCV's decoder conceals
missing parts, and every picture that refers to a concealed one shows content that never existed."""

import importlib.util
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from node.errors import PictureError
from node.image.frame import Image, Stamp
from node.image.h26x.annex_b import START_CODES, Codec, ParameterSets, has_picture_hash
from node.image.h26x.h264 import FrameNumbers
from node.image.limits import check_bytes, limits
from node.image.video_frame import BgrConverter

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame

_HEVC_MODULUS = 256
"""Modulus of the picture numbers (pic_order_cnt_lsb) that most H.265 encoders write, 8 bits. The
decoder finds reference pictures by these numbers."""
PADDING = bytes(1024)
"""Zeros appended to each picture, which the standards allow: a decoder reads past the end of a
truncated picture, and without them, whether it reports the damage depends on the memory there."""
MOST_WAITING = 16
"""Pictures that a decoder may hold back for reordering: the maximum in both standards."""
_MOST_AHEAD = 8
"""Positions by which a picture may be reordered in practice; older entries are ignored."""


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """One coded picture.

    Attributes:
        data: its bytes (Annex B).
        stamp: arrival of the bytes.
        is_key: whether a decoder can start with it.
        periods: periods of the stream since the previous packet; infinite if packets between them
            are missing.
    """

    data: bytes
    stamp: Stamp
    is_key: bool
    periods: float = 1.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture without known damage, and the arrival of its bytes."""

    frame: "VideoFrame"
    stamp: Stamp


def can_decode() -> bool:
    """Whether the package `av`, which decodes, is installed."""
    return importlib.util.find_spec("av") is not None


class Decoder(Protocol):
    """Decodes one stream. Not thread-safe. An implementation is constructed with the codec and the
    header: parameter sets that are not in the stream (Annex B), or empty."""

    def decode(self, coded: EncodedPacket) -> list[Decoded]:
        """Decodes one packet and returns the pictures that are complete now. Raises PictureError
        for a packet that cannot be decoded."""
        ...

    def flush(self) -> list[Decoded]:
        """Returns the pictures that the decoder holds back for their order. The decoder then
        decodes no more."""
        ...

    def pixels(self, frame: "VideoFrame") -> Image:
        """Converts to [height, width, 3] uint8 BGR."""
        ...


class ConcealingDecoder:
    """Conceals missing parts, as video players do."""

    def __init__(self, codec: Codec, header: bytes) -> None:
        import av

        self._packet = av.Packet
        self._errors = (av.FFmpegError,)
        self._context = av.CodecContext.create(codec, "r")
        self._context.thread_count = 1  # Each further thread would hold back a picture.
        self._context.options = {"max_pixels": str(limits().max_pixels)}
        if header:
            self._context.extradata = header
        self._converter = BgrConverter()
        self._stamps = Stamps()

    def decode(self, coded: EncodedPacket) -> list[Decoded]:
        """As `Decoder.decode`."""
        check_bytes(len(coded.data))
        packet = self._packet(coded.data)
        packet.pts = packet.dts = self._stamps.add(coded.stamp)
        if coded.is_key and coded.periods == math.inf:
            self._context.flush_buffers()
            self._stamps.clear()
        try:
            frames = self._context.decode(packet)
        except self._errors as error:
            raise PictureError(f"a picture cannot be decoded: {error}") from error
        stamped = [(frame, self._stamps.of(frame.pts)) for frame in frames]
        return [Decoded(frame, stamp) for frame, stamp in stamped if stamp is not None]

    def flush(self) -> list[Decoded]:
        """As `Decoder.flush`."""
        try:
            frames = self._context.decode(None)
        except self._errors:
            return []
        stamped = [(frame, self._stamps.of(frame.pts)) for frame in frames]
        return [Decoded(frame, stamp) for frame, stamp in stamped if stamp is not None]

    def pixels(self, frame: "VideoFrame") -> Image:
        """As `Decoder.pixels`."""
        return self._converter.bgr(frame)


class Stamps:
    """Arrival stamps of the pictures that a decoder holds back, by number. A picture that arrived
    before the pictures displayed ahead of it was taken after them, so their stamps are no later
    than its own. Returned stamps never decrease, and are never later than the arrival of the
    picture."""

    def __init__(self) -> None:
        self._stamps: deque[tuple[int, Stamp]] = deque(maxlen=2 * MOST_WAITING)
        self._count = 0

    def add(self, stamp: Stamp) -> int:
        """Stores the stamp of the next picture and returns its number."""
        self._count += 1
        self._stamps.append((self._count, stamp))
        return self._count

    def clear(self) -> None:
        """Forgets the pictures that the decoder held back, which are lost."""
        self._stamps.clear()

    def of(self, number: int | None) -> Stamp | None:
        """Returns and removes the stamp of a picture that the decoder returns; None for an unknown
        number."""
        own_stamp = next(
            (stamp for stored_number, stamp in self._stamps if stored_number == number), None
        )
        if own_stamp is None or number is None:
            return None
        earlier = [entry for entry in self._stamps if number - _MOST_AHEAD <= entry[0] <= number]
        self._stamps.remove((number, own_stamp))
        return own_stamp if own_stamp.mono_ns is None else earlier[0][1]


class VideoDecoder:
    """Decodes one stream and rejects damage. Not thread-safe.

    After damage, every picture is rejected up to the next key frame. Detected damage: an error of
    the decoder, a gap in the frame numbers (H.264), and a wrong or missing checksum in streams that
    carry checksums (H.265). Wrong bytes that still form a valid picture are not detected: neither
    standard requires a checksum.

    Args:
        codec: of the stream.
        header: parameter sets that are not in the stream (Annex B), or empty.
    """

    def __init__(self, codec: Codec, header: bytes) -> None:
        import av  # Deferred: takes 0.1 s.

        self._packet = av.Packet
        self._errors = (av.FFmpegError,)
        self._codec: Codec = codec
        self._numbers = FrameNumbers() if codec == "h264" else None
        self._parameters = ParameterSets(codec)
        if header.startswith(START_CODES):
            self._parameters.keep(header)
            self._lost_pictures(header)
        self._context = _new_context(codec, bytes(self._parameters))
        self._converter = BgrConverter()
        self._hashed = False
        self._stamps = Stamps()
        self._undamaged = False

    def decode(self, coded: EncodedPacket) -> list[Decoded]:
        """As `Decoder.decode`; usually returns at most one picture. Raises PictureError for a
        damaged packet, and for those that depend on it."""
        lost = self._lost_pictures(coded.data) or coded.periods >= self._most_seen_lost()
        self._parameters.keep(coded.data)
        if coded.is_key and (lost or not self._undamaged):
            self._context = _new_context(self._codec, bytes(self._parameters))
            self._stamps.clear()
            self._undamaged = True
        elif lost:
            raise self._damage("pictures before this one were lost")
        if self._lacks_hash(coded.data):
            raise self._damage("a picture is damaged: its checksum is missing")
        if not self._undamaged:
            raise PictureError("waiting for a key frame")
        try:
            frames = self._decoded(coded.data, self._stamps.add(coded.stamp))
        except self._errors as error:
            raise self._damage(f"a picture is damaged: {error}") from error
        if any(frame.is_corrupt for frame in frames):
            raise self._damage("a picture is damaged")
        return [decoded for frame in frames if (decoded := self._stamped(frame)) is not None]

    def flush(self) -> list[Decoded]:
        """As `Decoder.flush`."""
        try:
            frames = self._context.decode(None) if self._undamaged else []
        except self._errors:
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        return [decoded for frame in whole if (decoded := self._stamped(frame)) is not None]

    def pixels(self, frame: "VideoFrame") -> Image:
        """As `Decoder.pixels`."""
        return self._converter.bgr(frame)

    def _lost_pictures(self, data: bytes) -> bool:
        return self._numbers is not None and self._numbers.lost(data)

    def _most_seen_lost(self) -> float:
        """Number of consecutive lost pictures after which the numbers wrap around and reveal
        nothing. Less a quarter, since the rate of a stream is not known exactly."""
        return 0.75 * (self._numbers.modulus if self._numbers is not None else _HEVC_MODULUS)

    def _lacks_hash(self, data: bytes) -> bool:
        """Whether a picture has no checksum although earlier pictures had one. The checksum follows
        the picture, so truncation removes the checksum first."""
        if self._codec != "hevc":
            return False
        hashed = has_picture_hash(data)
        lacks = self._hashed and not hashed
        self._hashed = self._hashed or hashed
        return lacks

    def _decoded(self, data: bytes, number: int) -> "list[VideoFrame]":
        check_bytes(len(data))
        packet = self._packet(data + PADDING)
        packet.pts = packet.dts = number
        return self._context.decode(packet)

    def _stamped(self, frame: "VideoFrame") -> Decoded | None:
        """None for a picture held back since before the damage."""
        stamp = self._stamps.of(frame.pts)
        return None if stamp is None else Decoded(frame, stamp)

    def _damage(self, reason: str) -> PictureError:
        self._undamaged = False
        return PictureError(reason)


def _new_context(codec: Codec, parameters: bytes) -> "VideoCodecContext":
    """Returns a decoder without state. A decoder that met damage is never reused, not even after a
    flush: FFmpeg keeps part of the damaged picture."""
    import av

    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    # Frame threads would hold back one picture each, and slice threads disable the check that finds
    # damage.
    context.thread_count = 1
    # Each of up to twenty buffers of the decoder is allocated by the size that the stream claims.
    context.options = {"max_pixels": str(limits().max_pixels)}
    if codec == "hevc":
        # FFmpeg marks no H.265 picture as damaged and reports damage only with `explode`;
        # `crccheck` compares the checksum of pictures that carry one (most encoders write none).
        context.options = {**context.options, "err_detect": "crccheck+explode"}
    if parameters:
        context.extradata = parameters
    return context
