"""Annex B byte streams of H.264 and H.265: units (NAL units), each after a start code. Keeps the
parameter sets, without which a new decoder cannot read a picture, and detects pictures of H.265
that carry a checksum."""

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
"""Types of parameter sets, each before the types that refer to it."""
_MOST_KEPT = 64
"""Most parameter sets kept: a stream has two or three, and the bound keeps memory constant for one
that sends new ones without end."""


_SUFFIX_SEI, _PICTURE_HASH = 40, 132  # H.265, table 7-1 and D.2.1


def units(data: bytes) -> Iterator[bytes]:
    """Yields the units in `data` without their start codes and trailing zeros (B.1.1,
    trailing_zero_8bits). No unit is empty."""
    starts = [start_code.end() for start_code in _START_CODE.finditer(data)]
    for start, end in itertools.pairwise([*starts, len(data) + len(_START_CODE.pattern)]):
        unit = data[start : end - len(_START_CODE.pattern)].rstrip(b"\0")
        if unit:
            yield unit


def has_picture_hash(data: bytes) -> bool:
    """Whether a coded picture of H.265 carries its checksum (decoded picture hash, D.3.19)."""
    return any(
        unit[0] >> 1 & 0x3F == _SUFFIX_SEI and unit[2:3] == bytes([_PICTURE_HASH])
        for unit in units(data)
    )


class ParameterSets:
    """The newest parameter sets of one stream. Not thread-safe.

    Args:
        codec: of the stream.
    """

    def __init__(self, codec: Codec) -> None:
        self._is_h264 = codec == "h264"
        self._kinds = _PARAMETERS[codec]
        self._kept: dict[bytes, None] = {}

    def keep(self, data: bytes) -> None:
        """Stores the parameter sets in the units of a picture. A repeated set counts as new."""
        for unit in units(data):
            if self._kind(unit) in self._kinds:
                self._kept.pop(unit, None)
                self._kept[unit] = None
        while len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def __bytes__(self) -> bytes:
        """All stored sets as an Annex B byte stream: sets that others refer to first, and within a
        type the oldest first, since the newest with an id is in force."""
        ordered = sorted(self._kept, key=lambda unit: self._kinds.index(self._kind(unit)))
        return b"".join(START_CODES[0] + unit for unit in ordered)

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 0x1F if self._is_h264 else unit[0] >> 1 & 0x3F
