"""ChunkedFile: reads one MCAP file chunk by chunk, even if it is cut off or damaged. It reads what
is readable, and reports the rest as problems."""

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
"""Most problems that are listed one by one."""
_OVERLAP = "too many of its chunks overlap in time; some records come too late"
MOST_RECORDS = 100_000
"""Most records of one chunk: in memory a record is far larger than the shortest on disk. Chunks of
the node's recorder have hundreds."""
MOST_DEFINITION_BYTES = 1024 * 1024
"""Longest schema or channel outside the chunks that is loaded."""
_RECORD_HEAD = struct.Struct("<BQ")
_FOOTER = struct.Struct("<BQQQI")


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """Position of a chunk."""

    offset: int
    """Of its record in the file, in bytes."""
    start_ns: int
    """First log time in it."""
    end_ns: int
    """Last log time in it."""


@dataclass(slots=True)
class ChunkedFile:
    """Content of one file."""

    path: Path
    whole: bool
    """The file has a valid index, so its writer ended it properly."""
    chunks: list[ChunkAt] = field(default_factory=list)
    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    """Unreadable parts, in words; grows while the file is read."""
    unknown: dict[int, int] = field(default_factory=dict)
    """Number of messages of undefined channels, by the offset of their chunk; grows as well."""

    @property
    def problems(self) -> tuple[str, ...]:
        """The unreadable parts so far, in words."""
        count = sum(self.unknown.values())
        if not count:
            return tuple(self.told)
        skipped = f"{count} messages of unknown channels are skipped"
        return (*self.told, f"{self.path}: {skipped}; their definition is damaged or missing")

    def messages(self, stream: IO[bytes], at: ChunkAt) -> list[Message]:
        """The messages of a chunk in their order; empty for a damaged chunk."""
        messages = self.all_messages(stream, at)
        self.count_unknown(at, Counter(message.channel_id for message in messages))
        return [message for message in messages if message.channel_id in self.channels]

    def all_messages(self, stream: IO[bytes], at: ChunkAt) -> list[Message]:
        """The messages of a chunk, including those of channels that are unknown (so far)."""
        try:
            records = _records(stream, at.offset)
        except _DAMAGE as error:
            lost_s = (at.end_ns - at.start_ns) / 1e9
            lost = f"{lost_s:.1f} s" if lost_s else "records"
            problem = f"{self.path}: {lost} at byte {at.offset} are damaged and skipped"
            add_problem(self.told, f"{problem} ({_short(error)})")
            return []
        self._learn(records)
        return [record for record in records if isinstance(record, Message)]

    def count_unknown(self, at: ChunkAt, of_channel: Mapping[int, int]) -> None:
        """Counts the skipped messages of a chunk. of_channel: its messages by channel id."""
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
        """Adds a definition, unless a chunk has defined the same id."""
        if isinstance(record, Channel):
            self.channels.setdefault(record.id, record)
        else:
            self.schemas.setdefault(record.id, record)


def open_chunked(path: Path) -> ChunkedFile:
    """Opens an MCAP file. Raises SourceError for any other file, and where nothing is readable."""
    try:
        with path.open("rb") as stream:
            head = stream.read(len(MCAP0_MAGIC))
            if not head:
                raise SourceError(f"{path} is empty (0 bytes)", fix="was it copied completely?")
            if head != MCAP0_MAGIC:
                raise SourceError(f"{path} is not an MCAP recording")
            return _indexed(path, stream) or _scanned(path, stream)
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


_DAMAGE = (Exception,)
"""On damaged bytes the library may raise any exception."""


def _indexed(path: Path, stream: IO[bytes]) -> ChunkedFile | None:
    """Opens a file by the index at its end; None without a valid index."""
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
            ChunkAt(index.chunk_start_offset, index.message_start_time, index.message_end_time)
            for index in summary.chunk_indexes
        ]
        if not file.chunks and summary.statistics and summary.statistics.message_count:
            return None  # not chunked, or not indexed
        file.metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        return file
    except _DAMAGE:
        return None


def _summary_is_sound(stream: IO[bytes]) -> bool:
    """Whether the file is complete to its end, and its index matches the checksum (MCAP
    specification, "Footer")."""
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
    """Opens a file by reading all of it, up to the end or the cut."""
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
            messages = file.all_messages(stream, ChunkAt(offset, 0, 0))
            if messages:  # the chunk's head has times as well, but no checksum
                times = [message.log_time for message in messages]
                at = ChunkAt(offset, min(times), max(times))
                of_channel[at] = Counter(message.channel_id for message in messages)
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
    problem = f"{path} has no valid index"
    if offset < size:
        problem += f"; {size - offset} bytes at its end cannot be read: it was cut off"
    file.told.append(f"{problem}; repair it with: perception-node recover {path}")
    return file


def _learn_copies(file: ChunkedFile, copies: Counter[tuple[int, bytes]]) -> None:
    """Adds definitions from outside the chunks, for channels that no readable chunk defines. These
    copies have no checksum: the most frequent one counts."""
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
    """All records of a chunk. Raises any exception (`_DAMAGE`) for a damaged chunk."""
    stream.seek(offset)
    head = stream.read(_RECORD_HEAD.size)
    opcode, length = _RECORD_HEAD.unpack(head)
    if opcode != Opcode.CHUNK:
        raise ValueError("the index points to a record that is no chunk")
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
    """Yields the messages and definitions of an unpacked chunk; skips other records."""
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


def add_problem(problems: list[str], problem: str) -> None:
    """Adds a new problem. The list is for people: after MOST_PROBLEMS only a note follows."""
    if problem in problems or len(problems) > MOST_PROBLEMS:
        return
    problems.append(problem if len(problems) < MOST_PROBLEMS else "and further problems")


def in_log_order(file: ChunkedFile, start_ns: int, end_ns: int) -> Iterator[Message]:
    """Yields the messages of [start_ns, end_ns), sorted by log time.

    Chunks may overlap a little; overlapping messages wait in memory, up to the length of two
    chunks. Raises SourceError where the file was deleted meanwhile.
    """
    chunks = sorted(
        (at for at in file.chunks if at.end_ns >= start_ns and at.start_ns < end_ns),
        key=lambda at: (at.start_ns, at.offset),
    )
    waiting: list[Message] = []
    with opened(file.path) as stream:
        for at, following in itertools.zip_longest(chunks, chunks[1:]):
            waiting += file.messages(stream, at)
            waiting.sort(key=lambda message: message.log_time)  # stable: ties stay as written
            safe_ns = end_ns if following is None else following.start_ns
            if sum(len(message.data) for message in waiting) > 2 * limits().max_chunk_bytes:
                safe_ns = end_ns
                add_problem(file.told, f"{file.path}: {_OVERLAP}")
            ready = [
                message for message in waiting if message.log_time < safe_ns or following is None
            ]
            waiting = waiting[len(ready) :]
            yield from (message for message in ready if start_ns <= message.log_time < end_ns)


def opened(path: Path) -> IO[bytes]:
    """Opens a file again. Raises SourceError where it was deleted meanwhile."""
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(
            f"{path} can no longer be read: {error.strerror}", fix="was it deleted meanwhile?"
        ) from error
