"""Chunks of an MCAP file: unpacks a chunk, checks its structure, and takes its records apart."""

import io
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Message, Schema

from perception_client.recordings.limits import MIB, max_chunk_bytes, max_chunk_mb
from perception_client.recordings.unpack import COMPRESSIONS, unpacked

MOST_RECORDS = 500_000
"""Most records of one chunk: in memory a record is far larger than the shortest on disk."""
_MOST_RATIO = 1024
"""A chunk that claims to unpack to more than this many times its size is damaged or hostile."""
RECORD_HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
"""Channel, sequence, log time, publish time."""
_A_NAME = re.compile(r"[a-z0-9_.-]{1,16}")


class UnsupportedChunkError(Exception):
    """A chunk that is intact as far as one can tell, and that this reader does not read."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix


@dataclass(frozen=True, slots=True)
class ChunkAt:
    """Position of a chunk, or of messages that lie in no chunk."""

    offset: int
    """Of its record in the file, in bytes."""
    start_ns: int
    """First log time in it."""
    end_ns: int
    """Last log time in it."""
    loose_bytes: int = 0
    """Length of a run of records that lie in no chunk; 0 for a chunk."""
    channels: frozenset[int] = frozenset()
    """Numbers of its channels, as the index of this node's writer lists them; empty if unknown."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The records of a chunk whose structure is valid. counts: its messages by channel id."""

    data: bytes
    definitions: list[Channel | Schema] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    start_ns: int = 0
    end_ns: int = 0

    def messages(self, wants: Callable[[int], bool]) -> list[Message]:
        """The messages of the channels, by id, that `wants` accepts, in their order."""
        return [
            Message(channel, log_ns, self.data[begin + MESSAGE_HEAD.size : end], publish_ns, number)
            for opcode, begin, end in _records(self.data)
            if opcode == Opcode.MESSAGE
            for channel, number, log_ns, publish_ns in [MESSAGE_HEAD.unpack_from(self.data, begin)]
            if wants(channel)
        ]


def read_contents(stream: IO[bytes], at: ChunkAt) -> Contents:
    """Reads and checks a chunk.

    Raises UnsupportedChunkError, and any other exception for a damaged chunk.
    """
    stream.seek(at.offset)
    data = _read(stream, at.loose_bytes) if at.loose_bytes else _unpacked_chunk(stream)
    definitions: list[Channel | Schema] = []
    counts: Counter[int] = Counter()
    start_ns, end_ns = 1 << 64, 0
    for opcode, begin, end in _records(data):
        if opcode == Opcode.MESSAGE:
            channel, _, log_ns, _ = MESSAGE_HEAD.unpack_from(data, begin)
            counts[channel] += 1
            start_ns, end_ns = min(start_ns, log_ns), max(end_ns, log_ns)
        elif opcode in (Opcode.CHANNEL, Opcode.SCHEMA):
            definitions.append(read_definition(opcode, data[begin:end]))
    return Contents(data, definitions, counts, min(start_ns, end_ns), end_ns)


def read_definition(opcode: int, content: bytes) -> Channel | Schema:
    """Reads a channel or schema. Raises any exception for damaged bytes."""
    stream = ReadDataStream(io.BytesIO(content))
    read = Schema.read if opcode == Opcode.SCHEMA else Channel.read
    definition: Channel | Schema = read(stream)
    return definition


def _unpacked_chunk(stream: IO[bytes]) -> bytes:
    opcode, length = RECORD_HEAD.unpack(stream.read(RECORD_HEAD.size))
    if opcode != Opcode.CHUNK:
        raise ValueError("the index points to a record that is no chunk")
    chunk = Chunk.read(ReadDataStream(io.BytesIO(_read(stream, length))))
    claimed, packed = chunk.uncompressed_size, len(chunk.data)
    if claimed > max_chunk_bytes():
        most = _MOST_RATIO * packed if chunk.compression else packed
        if claimed > most:
            raise ValueError(_too_long(claimed))
    check_length(claimed)
    if chunk.compression not in COMPRESSIONS and _A_NAME.fullmatch(chunk.compression):
        raise UnsupportedChunkError(
            f"a chunk is compressed with {chunk.compression!r}, which is not supported",
            f"convert the file to one of: {', '.join(filter(None, COMPRESSIONS))}",
        )
    data = unpacked(chunk.compression, chunk.data, claimed)
    if chunk.uncompressed_crc and zlib.crc32(data) != chunk.uncompressed_crc:
        raise ValueError("its checksum is wrong")
    return data


def _read(stream: IO[bytes], length: int) -> bytes:
    if stream.seek(0, io.SEEK_CUR) + length > _size(stream):
        raise EOFError("the file ends in it")
    check_length(length)
    return stream.read(length)


def _size(stream: IO[bytes]) -> int:
    position = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(position)
    return size


def check_length(count: int) -> None:
    """Raises UnsupportedChunkError for more bytes than limits.max_chunk_mb."""
    if count > max_chunk_bytes():
        raise UnsupportedChunkError(_too_long(count), "raise it if the recording is real")


def _too_long(count: int) -> str:
    return f"a chunk of {count / MIB:.0f} MiB is longer than limits.max_chunk_mb = {max_chunk_mb()}"


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields opcode, begin and end of each record's content. Raises ValueError where a record does
    not fit, UnsupportedChunkError for too many records."""
    position, count = 0, 0
    while position < len(data):
        if len(data) - position < RECORD_HEAD.size:
            raise ValueError("it ends within a record")
        opcode, length = RECORD_HEAD.unpack_from(data, position)
        begin = position + RECORD_HEAD.size
        position = begin + length
        count += 1
        if count > MOST_RECORDS:
            raise UnsupportedChunkError(
                f"a chunk of more than {MOST_RECORDS} records", "write it in smaller chunks"
            )
        if position > len(data) or (opcode == Opcode.MESSAGE and length < MESSAGE_HEAD.size):
            raise ValueError(f"a record of {length} bytes in a chunk of {len(data)}")
        yield opcode, begin, position
