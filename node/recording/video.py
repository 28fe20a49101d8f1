"""VideoTrack: the pictures of a recorded H.264 or H.265 video, of which each needs the pictures
before it, back to a key frame."""

from dataclasses import dataclass, field

from node.errors import PictureError
from node.image.frame import Image, Stamp
from node.image.h26x.annex_b import Codec, units
from node.image.h26x.decoder import Decoded, EncodedPacket, VideoDecoder
from node.image.jpeg import encode_jpeg
from node.image.limits import MIB

_QUALITY = 95
"""Of the JPEG that an export makes of a picture."""
_CODECS: dict[str, Codec] = {"h264": "h264", "h265": "hevc", "hevc": "hevc"}
_INTRA = (2, 4, 7, 9)
"""slice_type of slices I and SI (H.264, table 7-6)."""
_MOST_GROUP_BYTES = 256 * MIB
"""Longest group of pictures that is kept; a usual one is of a second or two."""


@dataclass(slots=True)
class _Group:
    """Coded pictures from a key frame on. size: in bytes."""

    codec: Codec
    packets: list[bytes] = field(default_factory=list)
    size: int = 0


@dataclass(frozen=True, slots=True)
class VideoPicture:
    """One picture of a video. group: None for a picture without a key frame before it."""

    track: "VideoTrack"
    group: _Group | None
    index: int

    def image(self) -> Image:
        """As `Picture.image`; quick where pictures are decoded in their order."""
        if self.group is None:
            raise PictureError("no key frame of the video comes before the picture")
        return self.track.decode(self.group, self.index)

    def jpeg(self) -> bytes:
        """As `Picture.jpeg`."""
        return encode_jpeg(self.image(), _QUALITY)


class VideoTrack:
    """The pictures of one channel. Not thread-safe."""

    def __init__(self) -> None:
        self._group: _Group | None = None
        self._decoding: _Decoding | None = None

    def add(self, name: str, data: bytes) -> VideoPicture | None:
        """The next picture. name: of the codec. None for a codec that is not decoded."""
        codec = _CODECS.get(name.lower())
        if codec is None:
            return None
        if _is_key(codec, data):
            self._group = _Group(codec)
        group = self._group
        if group is not None and group.size + len(data) > _MOST_GROUP_BYTES:
            group = self._group = None
        if group is None:
            return VideoPicture(self, None, 0)
        group.packets.append(data)
        group.size += len(data)
        return VideoPicture(self, group, len(group.packets) - 1)

    def decode(self, group: _Group, index: int) -> Image:
        """Decodes a picture. Raises PictureError."""
        decoding = self._decoding
        if decoding is None or not decoding.can_give(group, index):
            decoding = self._decoding = _Decoding(group)
        return decoding.image(index)


class _Decoding:
    """A decoder in the middle of a group of pictures."""

    def __init__(self, group: _Group) -> None:
        self._group = group
        self._decoder = VideoDecoder(group.codec, b"")
        self._next = 0
        self._flushed = False
        self._images: dict[int, Image | PictureError] = {}

    def can_give(self, group: _Group, index: int) -> bool:
        """Whether a picture is decoded, or follows those that are."""
        if group is not self._group:
            return False
        return index in self._images or (not self._flushed and index >= self._next)

    def image(self, index: int) -> Image:
        """Decodes up to a picture. A decoder that holds pictures back for their order gives them
        when it ends; the next picture then needs another decoder."""
        self._images = {key: image for key, image in self._images.items() if key >= index}
        while index not in self._images and self._next < len(self._group.packets):
            self._feed(index)
        if index not in self._images and not self._flushed:
            self._flushed = True
            self._keep(self._decoder.flush(), index)
        image = self._images.get(index)
        if image is None:
            raise PictureError("a picture of the video is damaged")
        if isinstance(image, PictureError):
            raise image
        return image

    def _feed(self, index: int) -> None:
        number, self._next = self._next, self._next + 1
        data = self._group.packets[number]
        try:
            decoded = self._decoder.decode(
                EncodedPacket(data, Stamp.at_media(number), is_key=number == 0)
            )
        except PictureError as error:
            self._images[number] = error
            return
        self._keep(decoded, index)

    def _keep(self, decoded: list[Decoded], first: int) -> None:
        """Converts the pictures from the index `first` on; the earlier ones are not asked for."""
        for picture in decoded:
            if picture.stamp.unix_ns >= first:
                self._images[picture.stamp.unix_ns] = self._decoder.pixels(picture.frame)


def _is_key(codec: Codec, data: bytes) -> bool:
    """Whether a decoder can begin with a coded picture: an IDR, or parameter sets with a picture of
    intra slices (H.264, table 7-1), or a picture for random access (H.265, table 7-1)."""
    kinds = [
        (unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F, unit) for unit in units(data)
    ]
    if codec == "hevc":
        return any(16 <= kind <= 21 for kind, _ in kinds)
    slices = [_slice_type(unit) for kind, unit in kinds if kind == 1]
    has_parameters = any(kind == 7 for kind, _ in kinds)
    return any(kind == 5 for kind, _ in kinds) or (
        has_parameters and bool(slices) and all(kind in _INTRA for kind in slices)
    )


def _slice_type(unit: bytes) -> int:
    """slice_type of a slice (H.264, 7.3.3): the second of two Exp-Golomb numbers."""
    bits = "".join(f"{byte:08b}" for byte in unit[1:16])
    for _ in range(2):
        zeros = len(bits) - len(bits.lstrip("0"))
        code, bits = bits[zeros : 2 * zeros + 1], bits[2 * zeros + 1 :]
    return int(code or "0", 2) - 1
