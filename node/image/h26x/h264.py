"""H.264 frame numbers: detect lost pictures. A decoder replaces a lost picture with the previous
one without an error, and later pictures then refer to a picture that was never sent."""

from collections.abc import Iterator
from dataclasses import dataclass

from node.image.h26x.annex_b import units

_SLICE, _KEY_SLICE, _SPS, _PPS = 1, 5, 7, 8
_HEADER_BYTES = 512
"""Bytes of a unit that are parsed: all fields read here come first, and scaling lists take most of
them."""
_SLICE_HEADER_BYTES = 32
_WITH_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""profile_idc of the sequence parameter sets that contain the chroma format (H.264, 7.3.2.1.1)."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Fields of a sequence parameter set.

    Attributes:
        bits: length of `frame_num`.
        planes: colour planes are coded separately.
        gaps: gaps in `frame_num` are allowed.
    """

    bits: int
    planes: bool
    gaps: bool


class FrameNumbers:
    """Follows `frame_num` (H.264, 7.4.3) through one stream. Not thread-safe.

    `frame_num` counts reference pictures modulo 16 to 65,536. A loss of a multiple of the modulus
    is not detected.
    """

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._reference: int | None = None
        self.modulus = 16
        """Modulus of `frame_num` in the newest picture."""

    def lost(self, data: bytes) -> bool:
        """Whether reference pictures are missing between the previous picture and this one.

        Args:
            data: the units of a picture (Annex B).
        """
        for reference, kind, bits in _units(data):
            try:
                if kind == _SPS:
                    self._sequences.update([_sequence(bits)])
                elif kind == _PPS:
                    self._sequence_of[bits.exp_golomb()] = bits.exp_golomb()
                elif kind in (_SLICE, _KEY_SLICE):
                    return self._lost_before(kind == _KEY_SLICE, reference, bits)
            except IndexError:
                # Truncated: the decoder reports it.
                continue
        return False

    def _lost_before(self, is_key: bool, is_reference: bool, bits: "_Bits") -> bool:
        bits.exp_golomb()  # first_mb_in_slice
        bits.exp_golomb()  # slice_type
        sequence = self._sequences.get(self._sequence_of.get(bits.exp_golomb(), -1))
        if sequence is None:
            return False
        self.modulus = 1 << sequence.bits
        if sequence.planes:
            bits.take(2)
        number, previous = bits.take(sequence.bits), self._reference
        if is_reference:
            self._reference = number
        if is_key or previous is None or sequence.gaps:
            return False
        return number not in (previous, (previous + 1) % self.modulus)


class _Bits:
    """Reads the bits of a unit, after removing the emulation prevention bytes."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._number = int.from_bytes(plain, "big")
        self._left = 8 * len(plain)

    def take(self, count: int) -> int:
        """Returns the next `count` bits as a number. Raises IndexError past the end."""
        if count > self._left:
            raise IndexError(count)
        self._left -= count
        return (self._number >> self._left) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """Reads ue(v) (9.1). Raises IndexError past the end."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Reads se(v) (9.1.1). Raises IndexError past the end."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _units(data: bytes) -> Iterator[tuple[bool, int, _Bits]]:
    """Yields for each unit whether other pictures refer to it, its type, and the bits after its
    header byte."""
    for unit in units(data):
        kind = unit[0] & 0x1F
        end = _SLICE_HEADER_BYTES if kind in (_SLICE, _KEY_SLICE) else _HEADER_BYTES
        yield bool(unit[0] & 0x60), kind, _Bits(unit[1:end])


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """Returns the id of a sequence parameter set and its fields (7.3.2.1.1)."""
    profile = bits.take(8)
    bits.take(16)
    number = bits.exp_golomb()
    planes = profile in _WITH_CHROMA and _skip_chroma(bits)
    frame_bits = bits.exp_golomb() + 4
    _skip_picture_order(bits)
    bits.exp_golomb()  # max_num_ref_frames
    return number, _Sequence(frame_bits, planes, gaps=bool(bits.take(1)))


def _skip_chroma(bits: _Bits) -> bool:
    """Reads past the chroma fields; returns whether the colour planes are coded separately."""
    chroma = bits.exp_golomb()
    planes = chroma == 3 and bool(bits.take(1))
    bits.exp_golomb()  # bit_depth_luma_minus8
    bits.exp_golomb()  # bit_depth_chroma_minus8
    bits.take(1)
    if bits.take(1):
        for index in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return planes


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _skip_picture_order(bits: _Bits) -> None:
    kind = bits.exp_golomb()
    if kind == 0:
        bits.exp_golomb()
    elif kind == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.exp_golomb(), 255)):
            bits.signed()
