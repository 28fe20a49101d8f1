"""The length that a video file claims: a file that was cut off is shorter. A reader of frames takes
the last that it finds for the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # RFC 8794, 8.1; RFC 9559, 5.1
_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide")
_MOST_BOXES = 1_000_000


@dataclass(frozen=True, slots=True)
class FileLength:
    """What a file claims about itself.

    Attributes:
        claimed_bytes: its length; None if the format, or this file, claims none.
        has_index: whether the part is there without which no frame can be found.
    """

    claimed_bytes: int | None = None
    has_index: bool = True


def claimed_length(file: Path) -> FileLength:
    """Returns what the headers of a file claim; nothing for a format without such headers, and for
    a file that is still being written. Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(16)
        if head[4:8] in _FIRST_BOXES:
            return _of_boxes(opened, file.stat().st_size)
        if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"AVI ":
            return _of_riff(opened, file.stat().st_size)
        if head[:4] == _EBML:
            return _of_matroska(opened)
    return FileLength()


def _of_boxes(opened: BinaryIO, actual: int) -> FileLength:
    """MP4 and MOV: boxes, each with its size (ISO/IEC 14496-12, 4.2). A size of 0 means up to the
    end; what is no box, such as padding, ends the walk."""
    position, kinds = 0, set()
    for _ in range(_MOST_BOXES):
        opened.seek(position)
        head = opened.read(16)
        kind, size = head[4:8], int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if len(kind) < 4 or not (kind.isascii() and kind.decode("ascii").isprintable()):
            break
        kinds.add(kind)
        if size < 8:
            break
        position += size
        if position >= actual:
            break
    has_index = not kinds.isdisjoint((b"moov", b"moof"))
    return FileLength(position or None, has_index)


def _of_riff(opened: BinaryIO, actual: int) -> FileLength:
    """AVI: one chunk `RIFF`, in large files several (OpenDML). A size of 0 is of a file that is
    still being written."""
    position = 0
    while position < actual:
        opened.seek(position)
        head = opened.read(8)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):
            break
        position += 8 + size
    return FileLength(position or None)


def _of_matroska(opened: BinaryIO) -> FileLength:
    """Matroska and WebM: an EBML header, then one segment with its size."""
    opened.seek(len(_EBML))
    header = _vint(opened)
    if header is None:
        return FileLength()
    opened.seek(header, 1)
    if opened.read(len(_SEGMENT)) != _SEGMENT or (size := _vint(opened)) is None:
        return FileLength()
    return FileLength(opened.tell() + size)


def _vint(opened: BinaryIO) -> int | None:
    """Reads a size (RFC 8794, 4). None for an unknown one, as in a file that is being written."""
    first = opened.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    data = bytes([first[0] & (0xFF >> length)]) + opened.read(length - 1)
    value = int.from_bytes(data, "big")
    return None if value == (1 << 7 * length) - 1 else value
