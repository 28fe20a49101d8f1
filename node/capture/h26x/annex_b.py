"""Annex B, the way in which H.264 and H.265 travel: units one after the other, each behind a start
code. Keeps the parameter sets, without which a decoder that starts anew cannot read a picture, and
tells which pictures of H.265 carry a checksum."""

import itertools
import re
from collections.abc import Iterator
from typing import Literal

Codec = Literal["h264", "hevc"]
START_CODES = (b"\0\0\0\1", b"\0\0\1")
_START_CODE = re.compile(b"\0\0\1")
_PARAMETERS: dict[Codec, tuple[int, ...]] = {
    "h264": (7, 13, 15, 8),  # H.264, table 7-1
    "hevc": (32, 33, 34),  # H.265, table 7-1
}
"""Kinds of parameter sets, each before those that refer to it."""
_MOST_KEPT = 64
"""Parameter sets; a stream has two or three, and one that sends ever new ones grows nothing."""


_SUFFIX_SEI, _PICTURE_HASH = 40, 132  # H.265, table 7-1 and D.2.1


def units(data: bytes) -> Iterator[bytes]:
    """The units of some bytes, without their start codes and the zeros that may follow each (B.1.1,
    trailing_zero_8bits); none of them is empty."""
    starts = [found.end() for found in _START_CODE.finditer(data)]
    for start, end in itertools.pairwise([*starts, len(data) + len(_START_CODE.pattern)]):
        unit = data[start : end - len(_START_CODE.pattern)].rstrip(b"\0")
        if unit:
            yield unit


def has_picture_hash(data: bytes) -> bool:
    """Whether a picture of H.265 comes with its checksum (decoded picture hash, D.3.19)."""
    return any(
        unit[0] >> 1 & 0x3F == _SUFFIX_SEI and unit[2:3] == bytes([_PICTURE_HASH])
        for unit in units(data)
    )


class ParameterSets:
    """The newest parameter sets of one stream. Used by one thread."""

    def __init__(self, codec: Codec) -> None:
        self._is_h264 = codec == "h264"
        self._kinds = _PARAMETERS[codec]
        self._kept: dict[bytes, None] = {}

    def keep(self, data: bytes) -> None:
        """Takes them out of a picture's units; one that is sent again counts as new."""
        for unit in units(data):
            if self._kind(unit) in self._kinds:
                self._kept.pop(unit, None)
                self._kept[unit] = None
        while len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def __bytes__(self) -> bytes:
        """All of them, those first to which others refer, and of a kind the oldest: the newest of a
        number is the one in force."""
        ordered = sorted(self._kept, key=lambda unit: self._kinds.index(self._kind(unit)))
        return b"".join(START_CODES[0] + unit for unit in ordered)

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 0x1F if self._is_h264 else unit[0] >> 1 & 0x3F
