"""PictureScanner: finds whole pictures in the bytes of a live stream by the structure of the
pictures themselves. Boundaries and Content-Length headers of small cameras and proxies are often
missing or wrong, and a picture that ends at the next boundary would come a period late."""

import re
from collections import deque

from node.image.frame import Stamp
from node.image.limits import check_bytes

_JPEG, _PNG, _RIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF"
_START = re.compile(re.escape(_JPEG) + b"|" + re.escape(_PNG) + b"|" + _RIFF + rb"[\s\S]{4}WEBP")
_START_AFTER_DAMAGE = re.compile(rb"(?:\n|\xff\xd9)(?=" + _START.pattern + b")")
"""After damage, only what follows a line end or another picture begins a picture: the embedded
preview of the damaged picture is none."""
_MOST_START_BYTES = 13
"""Longest match of these patterns."""
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
"""JPEG markers without a segment: TEM and restart markers (ITU-T T.81, table B.1)."""
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
_AFTER_SCAN = re.compile(rb"\xff(?:[\xc4\xcc\xd9-\xdd\xfe]|\xd8(?=\xff))")
"""Markers that may follow a scan: tables, the next scan, a comment, the end; and the beginning of
another picture, where this one is cut off. Other bytes after FF are data of the scan, or damage
that the decoder detects."""
_PNG_CHUNK, _PNG_END = 12, b"IEND"
"""Bytes of a chunk besides its content: length, type, checksum (PNG specification, 5.3)."""
_REMEMBERED_BYTES = 4096


class _CutOffError(Exception):
    """A damaged picture. next_start: offset of the next one; None if it is not known."""

    def __init__(self, next_start: int | None) -> None:
        super().__init__()
        self.next_start = next_start


class PictureScanner:
    """Splits a stream of bytes into JPEG, PNG and WebP pictures. Not thread-safe.

    Attributes:
        other_bytes: bytes since the newest picture that belong to no picture.
        text: the beginning of those bytes.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fed = 0
        self._arrivals: deque[tuple[int, Stamp]] = deque()
        self._kind: bytes | None = None
        self._position = 0
        self._in_scan = False
        self._is_damaged = False
        self.other_bytes = 0
        self.text = b""

    @property
    def is_inside(self) -> bool:
        """Whether the beginning of a picture came, and not yet its end."""
        return self._kind is not None

    def feed(self, data: bytes, came: Stamp) -> list[tuple[bytes, Stamp]]:
        """Returns the pictures that are complete now, each with the arrival of its last byte: where
        one after damage begins may show only later. Empty bytes stand for a damaged picture.

        Args:
            data: the next bytes of the stream.
            came: their arrival.

        Raises:
            PictureError: a picture above limits.max_picture_mb.
        """
        self._buffer += data
        self._fed += len(data)
        self._arrivals.append((self._fed, came))
        pictures: list[tuple[bytes, Stamp]] = []
        while self._kind is not None or self._find_start():
            try:
                end = self._end()
            except _CutOffError as cut:
                pictures.append((b"", self._came_at(cut.next_start or 1)))
                self._next_picture(cut.next_start)
                continue
            if end is None:
                check_bytes(len(self._buffer))
                break
            pictures.append((bytes(self._buffer[:end]), self._came_at(end)))
            self._next_picture(end)
        return pictures

    def _came_at(self, end: int) -> Stamp:
        """Arrival of the byte before an offset of the buffer."""
        position = self._fed - len(self._buffer) + end
        while self._arrivals[0][0] < position:
            self._arrivals.popleft()
        return self._arrivals[0][1]

    def _next_picture(self, start: int | None) -> None:
        """Goes on at an offset; None: where the next picture begins is not known."""
        # The start of the damaged picture itself must not be found again.
        del self._buffer[: 1 if start is None else start]
        self._kind, self._is_damaged = None, start is None
        self.other_bytes, self.text = 0, b""

    def _find_start(self) -> bool:
        """Removes all before the next picture; returns whether one begins."""
        pattern = _START_AFTER_DAMAGE if self._is_damaged else _START
        match = pattern.search(self._buffer)
        if match is None:
            self._discard(max(0, len(self._buffer) - _MOST_START_BYTES))
            return False
        self._discard(match.end() if self._is_damaged else match.start())
        self._kind = next(start for start in (_JPEG, _PNG, _RIFF) if self._buffer.startswith(start))
        self._position = 2 if self._kind == _JPEG else len(_PNG)
        self._in_scan = self._is_damaged = False
        return True

    def _discard(self, count: int) -> None:
        self.other_bytes += count
        self.text += bytes(self._buffer[: min(count, _REMEMBERED_BYTES - len(self.text))])
        del self._buffer[:count]
        start = self._fed - len(self._buffer)
        while len(self._arrivals) > 1 and self._arrivals[0][0] <= start:
            self._arrivals.popleft()

    def _end(self) -> int | None:
        """Returns where the picture at the start of the buffer ends; None if more bytes are needed.
        Raises _CutOffError for a damaged picture."""
        if self._kind == _JPEG:
            return self._end_of_jpeg()
        return self._end_of_png() if self._kind == _PNG else self._end_of_webp()

    def _end_of_jpeg(self) -> int | None:
        while True:
            if self._in_scan and not self._pass_scan():
                return None
            buffer, position = self._buffer, self._position
            if len(buffer) < position + 2:
                return None
            marker = buffer[position + 1]
            if marker == _START_OF_IMAGE and buffer[position] == 0xFF:
                raise _CutOffError(position)
            if buffer[position] != 0xFF or marker == 0x00:
                raise _CutOffError(None)
            if marker == _END_OF_IMAGE:
                return position + 2
            if marker == 0xFF:  # a fill byte
                self._position += 1
            elif marker in _STANDALONE:
                self._position += 2
            else:
                # A segment: its length, which counts itself, follows the marker (B.1.1.4).
                if len(buffer) < position + 4:
                    return None
                after = position + 2 + int.from_bytes(buffer[position + 2 : position + 4], "big")
                if after < position + 4:
                    raise _CutOffError(None)
                if len(buffer) < after:
                    return None
                self._position, self._in_scan = after, marker == _START_OF_SCAN

    def _pass_scan(self) -> bool:
        """Moves to the marker after the data of a scan; returns whether it is there."""
        match = _AFTER_SCAN.search(self._buffer, self._position)
        if match is None:
            self._position = max(self._position, len(self._buffer) - 2)
            return False
        self._position, self._in_scan = match.start(), False
        return True

    def _end_of_png(self) -> int | None:
        while len(self._buffer) >= self._position + _PNG_CHUNK:
            header = self._buffer[self._position : self._position + 8]
            after = self._position + _PNG_CHUNK + int.from_bytes(header[:4], "big")
            if header[4:] == _PNG_END:
                return after
            if not header[4:].isalpha():
                raise _CutOffError(None)
            self._position = after
        return None

    def _end_of_webp(self) -> int | None:
        # The length of a RIFF file counts all after itself.
        end = 8 + int.from_bytes(self._buffer[4:8], "little")
        return end if len(self._buffer) >= end else None
