"""ChunkedFile: one MCAP file, chunk by chunk, also where it is cut off or damaged: what can be read
is read, and what cannot is said."""

import io
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, Message, Metadata, Schema
from mcap.writer import MCAP0_MAGIC

from node.errors import SourceError
from node.image.limits import MIB, limits
from node.recording.unpack import unpacked

MOST_PROBLEMS = 100
"""More than so many are not told one by one."""
_OVERLAP = "its chunks are of the same time, more than is kept; some records come too late"
MOST_RECORDS = 100_000
"""Of one chunk: a record takes far more memory than the shortest has bytes. Ours have hundreds."""
MOST_DEFINITION_BYTES = 1024 * 1024
"""Longest schema or channel outside the chunks that is loaded."""
_RECORD_HEAD = struct.Struct("<BQ")
_FOOTER = struct.Struct("<BQQQI")


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """Where a chunk is: offset of its record in bytes, and the times in it, in ns."""

    offset: int
    start_ns: int
    end_ns: int


@dataclass(slots=True)
class ChunkedFile:
    """What a file holds. whole: it has a good index, so it was ended properly.

    told: what of it cannot be read, in words; unknown: messages of channels that nothing defines,
    by the offset of their chunk. Both grow while it is read.
    """

    path: Path
    whole: bool
    chunks: list[ChunkAt] = field(default_factory=list)
    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    unknown: dict[int, int] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read so far, in words."""
        count = sum(self.unknown.values())
        if not count:
            return tuple(self.told)
        left_out = f"{count} messages of unknown channels are left out"
        return (*self.told, f"{self.path}: {left_out}; what defines those is damaged or missing")

    def messages(self, stream: IO[bytes], at: ChunkAt) -> list[Message]:
        """The messages of a chunk in their order; none where it is damaged."""
        found = self.all_messages(stream, at)
        self.count_unknown(at, Counter(x.channel_id for x in found))
        return [x for x in found if x.channel_id in self.channels]

    def all_messages(self, stream: IO[bytes], at: ChunkAt) -> list[Message]:
        """As `messages`, with those of channels that are not known, or not yet."""
        try:
            records = _records(stream, at.offset)
        except _DAMAGE as error:
            lost_s = (at.end_ns - at.start_ns) / 1e9
            lost = f"{lost_s:.1f} s" if lost_s else "records"
            where = f"{self.path}: {lost} at byte {at.offset} are damaged and left out"
            add_problem(self.told, f"{where} ({_short(error)})")
            return []
        self._learn(records)
        return [x for x in records if isinstance(x, Message)]

    def count_unknown(self, at: ChunkAt, of_channel: Mapping[int, int]) -> None:
        """Notes how many messages of a chunk are left out, of those it has of each channel."""
        count = sum(n for channel, n in of_channel.items() if channel not in self.channels)
        self.unknown.pop(at.offset, None)
        if count:
            self.unknown[at.offset] = count

    def _learn(self, records: list[object]) -> None:
        for record in records:
            if isinstance(record, Channel):
                self.channels[record.id] = record
            elif isinstance(record, Schema):
                self.schemas[record.id] = record

    def learn_missing(self, record: Channel | Schema) -> None:
        """Takes a definition of what no chunk has defined."""
        if isinstance(record, Channel):
            self.channels.setdefault(record.id, record)
        else:
            self.schemas.setdefault(record.id, record)


def open_chunked(path: Path) -> ChunkedFile:
    """What an MCAP file holds. Raises SourceError where it is none, or nothing can be read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(len(MCAP0_MAGIC))
            if not head:
                raise SourceError(f"{path} is empty (0 bytes); was it copied completely?")
            if head != MCAP0_MAGIC:
                raise SourceError(f"{path} is not an MCAP recording")
            return _indexed(path, stream) or _scanned(path, stream)
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


_DAMAGE = (Exception,)
"""The library raises whatever the bytes make it stumble over."""


def _indexed(path: Path, stream: IO[bytes]) -> ChunkedFile | None:
    """By the index at the end; None where there is no good one."""
    try:
        if not _summary_is_sound(stream):
            return None
        stream.seek(0)
        reader = SeekingReader(stream, record_size_limit=limits().max_chunk_bytes)
        summary = reader.get_summary()
        if summary is None:
            return None
        file = ChunkedFile(path, whole=True)
        file.channels, file.schemas = dict(summary.channels), dict(summary.schemas)
        file.chunks = [
            ChunkAt(x.chunk_start_offset, x.message_start_time, x.message_end_time)
            for x in summary.chunk_indexes
        ]
        if not file.chunks and summary.statistics and summary.statistics.message_count:
            return None  # not chunked, or not indexed
        file.metadata = {x.name: x.metadata for x in reader.iter_metadata()}
        return file
    except _DAMAGE:
        return None


def _summary_is_sound(stream: IO[bytes]) -> bool:
    """Whether the file has its end, and the index there its checksum (MCAP, "Footer")."""
    end = stream.seek(0, io.SEEK_END) - len(MCAP0_MAGIC)
    stream.seek(max(end - _FOOTER.size, 0))
    raw = stream.read(_FOOTER.size)
    if len(raw) < _FOOTER.size or stream.read() != MCAP0_MAGIC:
        return False
    opcode, length, start, _, crc = _FOOTER.unpack(raw)
    if opcode != Opcode.FOOTER or length != 20 or not 0 < start < end:
        return False
    if crc == 0:  # not computed
        return True
    if end - start > limits().max_chunk_bytes:
        return False
    stream.seek(start)
    summed = stream.read(end - start - 4)
    return bool(zlib.crc32(summed) == crc)


def _scanned(path: Path, stream: IO[bytes]) -> ChunkedFile:
    """By reading all of it, up to where it is cut off."""
    file = ChunkedFile(path, whole=False)
    of_channel: dict[ChunkAt, Counter[int]] = {}
    copies: Counter[tuple[int, bytes]] = Counter()
    size = stream.seek(0, io.SEEK_END)
    offset = len(MCAP0_MAGIC)
    while offset + _RECORD_HEAD.size <= size:
        stream.seek(offset)
        opcode, length = _RECORD_HEAD.unpack(stream.read(_RECORD_HEAD.size))
        following = offset + _RECORD_HEAD.size + length
        if opcode == Opcode.DATA_END:
            break
        if following > size or not 1 <= opcode < 0x80:
            break
        if opcode == Opcode.CHUNK:
            found = file.all_messages(stream, ChunkAt(offset, 0, 0))
            if found:  # its head has times as well, but no checksum
                times = [x.log_time for x in found]
                at = ChunkAt(offset, min(times), max(times))
                of_channel[at] = Counter(x.channel_id for x in found)
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and length <= MOST_DEFINITION_BYTES:
            copies[opcode, stream.read(length)] += 1
        elif opcode == Opcode.METADATA and length <= MOST_DEFINITION_BYTES:
            _read_metadata(file, stream)
        offset = following
    _learn_copies(file, copies)
    for at, counted in of_channel.items():
        file.count_unknown(at, counted)
    file.chunks = [at for at, counted in of_channel.items() if counted.keys() & file.channels]
    if not file.chunks:
        raise _nothing_in(file)
    told = f"{path} has no good index"
    if offset < size:
        told += f"; {size - offset} bytes at its end cannot be read: it was cut off"
    file.told.append(f"{told}; repair it with: perception-node recover {path}")
    return file


def _learn_copies(file: ChunkedFile, copies: Counter[tuple[int, bytes]]) -> None:
    """Takes from the definitions outside the chunks what is in no chunk that can be read. They have
    no checksum: of copies that differ, the commonest is believed."""
    for (opcode, content), _ in copies.most_common():
        stream = ReadDataStream(io.BytesIO(content))
        try:
            file.learn_missing((Schema if opcode == Opcode.SCHEMA else Channel).read(stream))
        except _DAMAGE as error:
            add_problem(file.told, f"{file.path}: a definition is damaged ({_short(error)})")


def _nothing_in(file: ChunkedFile) -> SourceError:
    why = "; ".join(file.problems) or (
        "it was cut off or damaged before the end of its first half second, or its records are in "
        "no chunks"
    )
    return SourceError(f"{file.path} holds nothing that can be read: {why}")


def _read_metadata(file: ChunkedFile, stream: IO[bytes]) -> None:
    try:
        metadata = Metadata.read(ReadDataStream(stream))
    except _DAMAGE as error:
        file.told.append(f"{file.path}: its metadata are damaged ({_short(error)})")
        return
    file.metadata[metadata.name] = metadata.metadata


def _records(stream: IO[bytes], offset: int) -> list[object]:
    """All that is in a chunk. Raises whatever damage raises."""
    stream.seek(offset)
    head = stream.read(_RECORD_HEAD.size)
    opcode, length = _RECORD_HEAD.unpack(head)
    if opcode != Opcode.CHUNK:
        raise ValueError("no chunk is where the index says")
    _check_length(length)
    body = stream.read(length)
    if len(body) < length:
        raise EOFError("the file ends in it")
    chunk = Chunk.read(ReadDataStream(io.BytesIO(body)))
    _check_length(chunk.uncompressed_size)
    data = unpacked(chunk.compression, chunk.data, chunk.uncompressed_size)
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("its checksum is wrong")
    return list(_records_in(data))


def _check_length(count: int) -> None:
    if count > limits().max_chunk_bytes:
        raise ValueError(
            f"a chunk of {count / MIB:.0f} MiB is longer than limits.max_chunk_mb = "
            f"{limits().max_chunk_mb}; raise it if it is real"
        )


def _records_in(data: bytes) -> Iterator[object]:
    """The messages and definitions of an unpacked chunk; other records are passed over."""
    stream, count = ReadDataStream(io.BytesIO(data)), 0
    while stream.count < len(data):
        opcode, length = stream.read1(), stream.read8()
        count += 1
        if count > MOST_RECORDS:
            raise ValueError(f"a chunk of more than {MOST_RECORDS} records")
        if length > len(data):
            raise ValueError(f"a record of {length} bytes in a chunk of {len(data)}")
        if opcode == Opcode.MESSAGE:
            yield Message.read(stream, length)
        elif opcode == Opcode.CHANNEL:
            yield Channel.read(stream)
        elif opcode == Opcode.SCHEMA:
            yield Schema.read(stream)
        else:
            stream.read(length)


def _short(error: Exception) -> str:
    first = str(error).splitlines()
    return (first[0] if first else type(error).__name__)[:120]


def add_problem(problems: list[str], told: str) -> None:
    """Adds what was not said yet. They are for people: a few are told, and that there are more."""
    if told in problems or len(problems) > MOST_PROBLEMS:
        return
    problems.append(told if len(problems) < MOST_PROBLEMS else "and more that is not told")


def in_log_order(file: ChunkedFile, start_ns: int, end_ns: int) -> Iterator[Message]:
    """The messages of [start_ns, end_ns), by log time. Chunks may overlap a little; what waits in
    memory is what overlaps, up to the length of two chunks. Raises SourceError where the file has
    gone meanwhile."""
    chunks = sorted(
        (x for x in file.chunks if x.end_ns >= start_ns and x.start_ns < end_ns),
        key=lambda x: (x.start_ns, x.offset),
    )
    waiting: list[Message] = []
    with opened(file.path) as stream:
        for at, after in itertools.zip_longest(chunks, chunks[1:]):
            waiting += file.messages(stream, at)
            waiting.sort(key=lambda x: x.log_time)  # stable: ties stay in the order of writing
            safe_ns = end_ns if after is None else after.start_ns
            if sum(len(x.data) for x in waiting) > 2 * limits().max_chunk_bytes:
                safe_ns = end_ns
                add_problem(file.told, f"{file.path}: {_OVERLAP}")
            ready = [x for x in waiting if x.log_time < safe_ns or after is None]
            waiting = waiting[len(ready) :]
            yield from (x for x in ready if start_ns <= x.log_time < end_ns)


def opened(path: Path) -> IO[bytes]:
    """A file that was there before. Raises SourceError where it has gone meanwhile."""
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(
            f"{path} can no more be read: {error.strerror}; was it deleted meanwhile?"
        ) from error
