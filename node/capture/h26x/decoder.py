"""VideoDecoder: decodes H.264 and H.265 and refuses what is damaged. OpenCV's decoder paints over
what is missing, and each picture that builds on such a one shows something that never was."""

import importlib.util
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from node.capture.h26x.annex_b import START_CODES, Codec, ParameterSets, has_picture_hash
from node.capture.h26x.h264 import FrameNumbers
from node.errors import PictureError
from node.image.frame import Image, Stamp
from node.image.limits import check_bytes, limits

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame
    from av.video.reformatter import VideoReformatter

_HEVC_MODULUS = 256
"""Of picture numbers in H.265 as most encoders write them (pic_order_cnt_lsb, 8 bits); the decoder
looks for the pictures that one builds on by them."""
_PADDING = bytes(1024)
"""Behind each picture, where the standards allow zeros: a decoder reads on behind one that was cut
off, and whether it notices must not hang on what the memory held there."""
MOST_WAITING = 16
"""Pictures that a decoder may hold back to put them in order: what both standards allow at most."""
_MOST_AHEAD = 8
"""Pictures that one may come ahead of in practice; one that never comes out is forgotten then."""


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """One picture as it came: its bytes (Annex B), when they came, whether a decoder can begin
    with it, and how many of the stream's periods after the one before."""

    data: bytes
    stamp: Stamp
    is_key: bool
    periods: float = 1.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that can be believed, and when its bytes came."""

    frame: "VideoFrame"
    stamp: Stamp


def can_decode() -> bool:
    """Whether the package `av` is here, which decodes."""
    return importlib.util.find_spec("av") is not None


class Decoder(Protocol):
    """Decodes one stream; used by one thread. header: parameter sets that do not come with the
    pictures (Annex B), or nothing."""

    def decode(self, coded: EncodedPacket) -> list[Decoded]:
        """The pictures that are ready now. Raises PictureError for what cannot be decoded."""
        ...

    def pixels(self, frame: "VideoFrame") -> Image:
        """[height, width, 3] uint8 BGR."""
        ...


class ConcealingDecoder:
    """Paints over what is missing, as players do."""

    def __init__(self, codec: Codec, header: bytes) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._packet = av.Packet
        self._errors = (av.FFmpegError,)
        self._context = av.CodecContext.create(codec, "r")
        self._context.thread_count = 1  # more would hold back a picture each
        self._context.options = {"max_pixels": str(limits().max_pixels)}
        if header:
            self._context.extradata = header
        self._reformatter = VideoReformatter()
        self._stamps = Stamps()

    def decode(self, coded: EncodedPacket) -> list[Decoded]:
        """The pictures that are ready now."""
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
        found = [(frame, self._stamps.of(frame.pts)) for frame in frames]
        return [Decoded(frame, stamp) for frame, stamp in found if stamp is not None]

    def pixels(self, frame: "VideoFrame") -> Image:
        """[height, width, 3] uint8 BGR."""
        return _bgr(self._reformatter, frame)


class Stamps:
    """When the pictures came that a decoder still holds back, by their numbers. A picture that came
    before the ones that are shown ahead of it was filmed after them, so theirs are no later than
    its own: stamps never go back, and are never too young."""

    def __init__(self) -> None:
        self._stamps: deque[tuple[int, Stamp]] = deque(maxlen=2 * MOST_WAITING)
        self._count = 0

    def add(self, stamp: Stamp) -> int:
        """The number of the next picture."""
        self._count += 1
        self._stamps.append((self._count, stamp))
        return self._count

    def clear(self) -> None:
        """What the decoder held back is lost."""
        self._stamps.clear()

    def of(self, number: int | None) -> Stamp | None:
        """Of a picture that comes out; None for one that is not known."""
        own = next((stamp for known, stamp in self._stamps if known == number), None)
        if own is None or number is None:
            return None
        ahead = [x for x in self._stamps if number - _MOST_AHEAD <= x[0] <= number]
        self._stamps.remove((number, own))
        return own if own.mono_ns is None else ahead[0][1]


class VideoDecoder:
    """Decodes one stream; used by one thread.

    From damage on nothing is believed until a picture that builds on no other. Damage is what the
    decoder says of a picture, in H.264 a gap in its frame numbers, in H.265 a checksum that is
    wrong or missing, where the stream has them. Other bytes that are wrong and can still be read as
    a picture cannot be told: neither standard asks for a checksum.

    header: parameter sets that do not come with the pictures (Annex B), or nothing.
    """

    def __init__(self, codec: Codec, header: bytes) -> None:
        import av  # takes 0.1 s, for those who read such a stream
        from av.video.reformatter import VideoReformatter

        self._packet = av.Packet
        self._errors = (av.FFmpegError,)
        self._codec: Codec = codec
        self._numbers = FrameNumbers() if codec == "h264" else None
        self._parameters = ParameterSets(codec)
        if header.startswith(START_CODES):
            self._parameters.keep(header)
            self._lost_pictures(header)
        self._context = _new_context(codec, bytes(self._parameters))
        self._reformatter = VideoReformatter()
        self._hashed = False
        self._stamps = Stamps()
        self._whole = False

    def decode(self, coded: EncodedPacket) -> list[Decoded]:
        """The pictures that are ready now, at most times one. Raises PictureError for damage, and
        for pictures that build on it."""
        lost = self._lost_pictures(coded.data) or coded.periods >= self._most_seen_lost()
        self._parameters.keep(coded.data)
        if coded.is_key and (lost or not self._whole):
            self._context = _new_context(self._codec, bytes(self._parameters))
            self._stamps.clear()
            self._whole = True
        elif lost:
            raise self._damage("pictures before this one were lost")
        if self._lacks_hash(coded.data):
            raise self._damage("a picture is damaged: its checksum is missing")
        if not self._whole:
            raise PictureError("waits for a picture that builds on no other")
        try:
            frames = self._decoded(coded.data, self._stamps.add(coded.stamp))
        except self._errors as error:
            raise self._damage(f"a picture is damaged: {error}") from error
        if any(frame.is_corrupt for frame in frames):
            raise self._damage("a picture is damaged")
        return [found for frame in frames if (found := self._stamped(frame)) is not None]

    def pixels(self, frame: "VideoFrame") -> Image:
        """[height, width, 3] uint8 BGR."""
        return _bgr(self._reformatter, frame)

    def _lost_pictures(self, data: bytes) -> bool:
        return self._numbers is not None and self._numbers.lost(data)

    def _most_seen_lost(self) -> float:
        """So many pictures in a row may go missing until their numbers begin anew, and tell nothing
        any more; a quarter less, since a stream's rate is not quite known."""
        return 0.75 * (self._numbers.modulus if self._numbers is not None else _HEVC_MODULUS)

    def _lacks_hash(self, data: bytes) -> bool:
        """Whether a picture has no checksum where those before it had one: it comes behind the
        picture, so what is cut off is the checksum first."""
        if self._codec != "hevc":
            return False
        hashed = has_picture_hash(data)
        lacks = self._hashed and not hashed
        self._hashed = self._hashed or hashed
        return lacks

    def _decoded(self, data: bytes, number: int) -> "list[VideoFrame]":
        check_bytes(len(data))
        packet = self._packet(data + _PADDING)
        packet.pts = packet.dts = number
        return self._context.decode(packet)

    def _stamped(self, frame: "VideoFrame") -> Decoded | None:
        """None for what was still held back from before the damage."""
        stamp = self._stamps.of(frame.pts)
        return None if stamp is None else Decoded(frame, stamp)

    def _damage(self, why: str) -> PictureError:
        self._whole = False
        return PictureError(why)


def _bgr(reformatter: "VideoReformatter", frame: "VideoFrame") -> Image:
    converted = reformatter.reformat(frame, format="bgr24", threads=1)
    return np.asarray(converted.to_ndarray(), np.uint8)


def _new_context(codec: Codec, parameters: bytes) -> "VideoCodecContext":
    """A decoder that knows of no picture yet. One that has met damage is never used again, not even
    flushed: FFmpeg leaves part of the damaged picture in the next one."""
    import av

    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    # Threads for whole pictures would hold back one each, and those for slices turn off the check
    # that finds damage.
    context.thread_count = 1
    # What a stream claims of its size is believed for each buffer of the decoder, twenty at most.
    context.options = {"max_pixels": str(limits().max_pixels)}
    if codec == "hevc":  # it marks no picture as damaged, and only says so when told to stop; where
        # pictures carry a checksum (most encoders send none) it is compared
        context.options = {**context.options, "err_detect": "crccheck+explode"}
    if parameters:
        context.extradata = parameters
    return context
