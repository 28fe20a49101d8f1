"""H.264 frame numbers: tell that a picture was lost on the way. A decoder repeats the one before in
its place and says nothing; what comes after then stands on a picture that was never sent."""

from collections.abc import Iterator
from dataclasses import dataclass

from node.capture.h26x.annex_b import units

_SLICE, _KEY_SLICE, _SPS, _PPS = 1, 5, 7, 8
_HEADER_BYTES = 512
"""Of a unit that are looked at: what is read here comes first, and scaling lists take the most."""
_SLICE_HEADER_BYTES = 32
_WITH_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""profile_idc of the sequence parameter sets that say how chroma is coded (H.264, 7.3.2.1.1)."""


@dataclass(frozen=True, slots=True)
class _Sequence:
    """Of a sequence parameter set: how frame numbers are written, whether they may have gaps."""

    bits: int
    planes: bool
    gaps: bool


class FrameNumbers:
    """Follows `frame_num` (H.264, 7.4.3) through one stream. Used by one thread.

    It counts reference pictures modulo 16 to 65,536; that many lost at once do not show.
    """

    def __init__(self) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._reference: int | None = None
        self.modulus = 16
        """Numbers begin anew after so many reference pictures."""

    def lost(self, data: bytes) -> bool:
        """Whether reference pictures are missing between the picture before and this one, given as
        its units, each behind a start code (Annex B)."""
        for reference, kind, bits in _units(data):
            try:
                if kind == _SPS:
                    self._sequences.update([_sequence(bits)])
                elif kind == _PPS:
                    self._sequence_of[bits.exp_golomb()] = bits.exp_golomb()
                elif kind in (_SLICE, _KEY_SLICE):
                    return self._lost_before(kind == _KEY_SLICE, reference, bits)
            except IndexError:  # it ends too early: for the decoder to say
                continue
        return False

    def _lost_before(self, key: bool, reference: bool, bits: "_Bits") -> bool:
        bits.exp_golomb()  # first_mb_in_slice
        bits.exp_golomb()  # slice_type
        sequence = self._sequences.get(self._sequence_of.get(bits.exp_golomb(), -1))
        if sequence is None:
            return False
        self.modulus = 1 << sequence.bits
        if sequence.planes:
            bits.take(2)
        number, before = bits.take(sequence.bits), self._reference
        if reference:
            self._reference = number
        if key or before is None or sequence.gaps:
            return False
        return number not in (before, (before + 1) % self.modulus)


class _Bits:
    """Reads the bits of a unit, its emulation prevention bytes taken out."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._number = int.from_bytes(plain, "big")
        self._left = 8 * len(plain)

    def take(self, count: int) -> int:
        """The next bits as a number. Raises IndexError behind the end."""
        if count > self._left:
            raise IndexError(count)
        self._left -= count
        return (self._number >> self._left) & ((1 << count) - 1)

    def exp_golomb(self) -> int:
        """ue(v) of 9.1. Raises IndexError behind the end."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """se(v) of 9.1.1."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _units(data: bytes) -> Iterator[tuple[bool, int, _Bits]]:
    """Of each unit: whether others refer to it, its type, and its bits behind the header byte."""
    for unit in units(data):
        kind = unit[0] & 0x1F
        most = _SLICE_HEADER_BYTES if kind in (_SLICE, _KEY_SLICE) else _HEADER_BYTES
        yield bool(unit[0] & 0x60), kind, _Bits(unit[1:most])


def _sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """A sequence parameter set and its number (7.3.2.1.1)."""
    profile = bits.take(8)
    bits.take(16)
    number = bits.exp_golomb()
    planes = profile in _WITH_CHROMA and _pass_chroma(bits)
    frame_bits = bits.exp_golomb() + 4
    _pass_picture_order(bits)
    bits.exp_golomb()  # max_num_ref_frames
    return number, _Sequence(frame_bits, planes, gaps=bool(bits.take(1)))


def _pass_chroma(bits: _Bits) -> bool:
    """Whether the colour planes are coded apart."""
    chroma = bits.exp_golomb()
    planes = chroma == 3 and bool(bits.take(1))
    bits.exp_golomb()  # bit_depth_luma_minus8
    bits.exp_golomb()  # bit_depth_chroma_minus8
    bits.take(1)
    if bits.take(1):
        for place in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _pass_scaling_list(bits, 16 if place < 6 else 64)
    return planes


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _pass_picture_order(bits: _Bits) -> None:
    kind = bits.exp_golomb()
    if kind == 0:
        bits.exp_golomb()
    elif kind == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.exp_golomb(), 255)):
            bits.signed()
