"""ChunkedFile: reads one MCAP file chunk by chunk, with or without an index, even if it is cut off
or damaged. It reads what is readable, and reports the rest as problems."""

import io
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Message, Metadata, Schema
from mcap.summary import Summary
from mcap.writer import MCAP0_MAGIC

from perception_client.errors import SourceError
from perception_client.recordings.chunks import (
    MESSAGE_HEAD,
    RECORD_HEAD,
    ChunkAt,
    Contents,
    UnsupportedChunkError,
    check_length,
    read_contents,
    read_definition,
)
from perception_client.recordings.limits import max_chunk_bytes

METADATA = "perception-node"
MOST_PROBLEMS = 100
"""Most problems that are listed one by one."""
_OVERLAP = "too many of its chunks overlap in time; some records come too late"
MOST_DEFINITION_BYTES = 1024 * 1024
"""Longest schema or channel outside the chunks that is loaded."""
LOOSE_BYTES = 1 << 20
"""Messages outside of chunks are read in runs of this many bytes."""
_FOOTER = struct.Struct("<BQQQI")
_DAMAGE = (Exception,)
"""On damaged bytes the library may raise any exception."""

Wants = Callable[[Channel], bool]


class UnreadableFileError(SourceError):
    """A file that is no recording, or in which nothing is readable."""


@dataclass(slots=True)
class ChunkedFile:
    """Content of one file."""

    path: Path
    whole: bool
    """The file's writer ended it properly."""
    chunks: list[ChunkAt] = field(default_factory=list)
    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    metadata: dict[str, Mapping[str, str]] = field(default_factory=dict)
    cut: str | None = None
    """Why the file is not whole, in words, where its end is missing."""
    damage: list[str] = field(default_factory=list)
    """Unreadable parts, in words; grows while the file is read."""
    unknown: dict[int, int] = field(default_factory=dict)
    """Number of messages of undefined channels, by the offset of their chunk; grows as well."""

    @property
    def start_ns(self) -> int:
        """First log time; 0 in a file without messages."""
        return min((at.start_ns for at in self.chunks if at.end_ns), default=0)

    @property
    def end_ns(self) -> int:
        """Last log time; 0 in a file without messages."""
        return max((at.end_ns for at in self.chunks), default=0)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is missing or unreadable so far, in words."""
        return (*(() if self.cut is None else (self.cut,)), *self.losses)

    @property
    def losses(self) -> tuple[str, ...]:
        """What is there and was skipped so far, in words."""
        count = sum(self.unknown.values())
        if not count:
            return tuple(self.damage)
        skipped = f"{count} messages of unknown channels are skipped"
        return (*self.damage, f"{self.path}: {skipped}; their definition is damaged or missing")

    def messages(
        self, stream: IO[bytes], at: ChunkAt, wants: Wants = lambda channel: True
    ) -> list[Message]:
        """The messages of a chunk in their order; empty for a damaged chunk.

        wants: which channels are read. Raises SourceError for a chunk that is not supported.
        """
        contents = self.contents(stream, at)
        self.count_unknown(at, contents.counts)
        channel_ids = {number for number, channel in self.channels.items() if wants(channel)}
        return contents.messages(channel_ids.__contains__)

    def contents(self, stream: IO[bytes], at: ChunkAt) -> Contents:
        """The records of a chunk, including those of channels that are unknown (so far); none of a
        damaged chunk. Raises SourceError for a chunk that is not supported."""
        try:
            contents = read_contents(stream, at)
        except UnsupportedChunkError as error:
            raise SourceError(f"{self.path}: {error.problem}", fix=error.fix) from None
        except _DAMAGE as error:
            lost_s = (at.end_ns - at.start_ns) / 1e9
            lost = f"{lost_s:.1f} s" if lost_s else "records"
            problem = f"{self.path}: {lost} at byte {at.offset} are damaged and skipped"
            add_problem(self.damage, f"{problem} ({_short(error)})")
            return Contents(b"")
        for record in contents.definitions:
            if isinstance(record, Channel):
                self.channels[record.id] = record
            else:
                self.schemas[record.id] = record
        return contents

    def count_unknown(self, at: ChunkAt, of_channel: Mapping[int, int]) -> None:
        """Counts the skipped messages of a chunk. of_channel: its messages by channel id."""
        count = sum(n for channel, n in of_channel.items() if channel not in self.channels)
        self.unknown.pop(at.offset, None)
        if count:
            self.unknown[at.offset] = count

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
                raise UnreadableFileError(
                    f"{path} is empty (0 bytes)", fix="was it copied completely?"
                )
            if head != MCAP0_MAGIC:
                raise UnreadableFileError(f"{path} is not an MCAP recording")
            return _indexed(path, stream) or _scanned(path, stream)
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _indexed(path: Path, stream: IO[bytes]) -> ChunkedFile | None:
    """Opens a file by the index at its end; None without a valid index of chunks."""
    try:
        if not _summary_start(stream):
            return None
        stream.seek(0)
        reader = SeekingReader(stream, record_size_limit=max_chunk_bytes())
        summary = reader.get_summary()
        if summary is None or not summary.chunk_indexes:
            return None
        file = ChunkedFile(path, whole=True)
        file.channels, file.schemas = dict(summary.channels), dict(summary.schemas)
        file.metadata = {record.name: record.metadata for record in reader.iter_metadata()}
        own = METADATA in file.metadata
        file.chunks = [
            ChunkAt(
                index.chunk_start_offset,
                index.message_start_time,
                index.message_end_time,
                channels=frozenset(index.message_index_offsets if own else ()),
            )
            for index in summary.chunk_indexes
        ]
        if not own:  # the node's own writer has its index complete
            _complete(file, stream, summary)
        return file
    except _DAMAGE:
        return None


def _complete(file: ChunkedFile, stream: IO[bytes], summary: Summary) -> None:
    """Adds what the format does not require of an index: messages outside of chunks, chunks without
    an index, and the definitions of channels. Raises any exception."""
    walk = _Walk(file, stream)
    end = len(MCAP0_MAGIC)
    for index in sorted(summary.chunk_indexes, key=lambda index: index.chunk_start_offset):
        walk.read(end, index.chunk_start_offset)
        end = index.chunk_start_offset + index.chunk_length + index.message_index_length
    walk.read(end, stream.seek(0, io.SEEK_END))
    walk.learn_copies()
    named = {number for index in summary.chunk_indexes for number in index.message_index_offsets}
    if summary.statistics is not None:
        named |= summary.statistics.channel_message_counts.keys()
    for at in file.chunks:
        if _is_defined(file, named):
            break
        file.contents(stream, at)
    walk.add_to_file()


def _is_defined(file: ChunkedFile, named: set[int]) -> bool:
    """Whether all channels that the index names, or at least one where it names none, are known,
    with their schemas."""
    schemas = {channel.schema_id for channel in file.channels.values()} - {0}
    channels_known = named <= file.channels.keys() if named else bool(file.channels)
    return channels_known and schemas <= file.schemas.keys()


def _summary_start(stream: IO[bytes]) -> int | None:
    """Where the index begins, 0 for a complete file without an index; None where the file is cut
    off, or its index does not match the checksum (MCAP specification, "Footer")."""
    end = stream.seek(0, io.SEEK_END) - len(MCAP0_MAGIC)
    stream.seek(max(end - _FOOTER.size, 0))
    raw = stream.read(_FOOTER.size)
    if len(raw) < _FOOTER.size or stream.read() != MCAP0_MAGIC:
        return None
    opcode, length, start, _, crc = _FOOTER.unpack(raw)
    if opcode != Opcode.FOOTER or length != 20 or not 0 <= start < end:
        return None
    if crc == 0 or start == 0:  # not computed
        return int(start)
    if end - start > max_chunk_bytes():
        return None
    stream.seek(start)
    summed = stream.read(end - start - 4)
    return int(start) if zlib.crc32(summed) == crc else None


def _scanned(path: Path, stream: IO[bytes]) -> ChunkedFile:
    """Opens a file by reading all of it, up to the end or the cut."""
    file = ChunkedFile(path, whole=False)
    size = stream.seek(0, io.SEEK_END)
    is_complete = _summary_start(stream) is not None
    walk = _Walk(file, stream)
    end = walk.read(len(MCAP0_MAGIC), size)
    walk.learn_copies()
    walk.add_to_file()
    file.whole = is_complete and walk.has_ended
    if not file.chunks and not (file.whole and not file.problems):
        raise _nothing_in(file)
    if not file.whole:
        problem = f"{path} has no valid index"
        if not walk.has_ended and end < size:
            problem += f"; {size - end} bytes at its end cannot be read: it was cut off"
        file.cut = f"{problem}; repair it with: perception-node recover {path}"
    return file


class _Walk:
    """Goes through the records of a file one by one, and notes what lies where.

    has_ended: the end of the data section was met.
    """

    def __init__(self, file: ChunkedFile, stream: IO[bytes]) -> None:
        self._file = file
        self._stream = stream
        self._copies: Counter[tuple[int, bytes]] = Counter()
        self._counts: dict[ChunkAt, Counter[int]] = {}
        self._run: _Run | None = None
        self.has_ended = False

    def read(self, begin: int, end: int) -> int:
        """Reads the records in [begin, end). Returns where it stopped: at the end of the data
        section, or at a damaged record."""
        offset = begin
        while not self.has_ended and offset + RECORD_HEAD.size <= end:
            self._stream.seek(offset)
            opcode, length = RECORD_HEAD.unpack(self._stream.read(RECORD_HEAD.size))
            following = offset + RECORD_HEAD.size + length
            if opcode == Opcode.DATA_END:
                self.has_ended = True
                break
            if following > end or not 1 <= opcode < 0x80:
                break
            self._note(opcode, offset, length)
            offset = following
        self._end_run()
        return offset

    def _note(self, opcode: int, offset: int, length: int) -> None:
        following = offset + RECORD_HEAD.size + length
        if opcode == Opcode.MESSAGE and length >= MESSAGE_HEAD.size:
            self._note_message(offset, following)
            return
        if opcode == Opcode.CHUNK:
            contents = self._file.contents(self._stream, ChunkAt(offset, 0, 0))
            if contents.counts:  # the chunk's head has times as well, but no checksum
                at = ChunkAt(offset, contents.start_ns, contents.end_ns)
                self._counts[at] = contents.counts
        elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and length <= MOST_DEFINITION_BYTES:
            self._copies[opcode, self._stream.read(length)] += 1
        elif opcode == Opcode.METADATA and length <= MOST_DEFINITION_BYTES:
            _read_metadata(self._file, self._stream)
        self._end_run()

    def _note_message(self, offset: int, following: int) -> None:
        channel, _, log_ns, _ = MESSAGE_HEAD.unpack(self._stream.read(MESSAGE_HEAD.size))
        try:
            check_length(following - offset)
        except UnsupportedChunkError as error:
            raise SourceError(f"{self._file.path}: {error.problem}", fix=error.fix) from None
        if self._run is not None and following - self._run.offset > LOOSE_BYTES:
            self._end_run()
        if self._run is None:
            self._run = _Run(offset, log_ns, log_ns, following)
        run = self._run
        run.start_ns, run.end_ns = min(run.start_ns, log_ns), max(run.end_ns, log_ns)
        run.end = following
        run.counts[channel] += 1

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            at = ChunkAt(run.offset, run.start_ns, run.end_ns, run.end - run.offset)
            self._counts[at] = run.counts

    def learn_copies(self) -> None:
        """Adds definitions from outside the chunks, for channels that no readable chunk defines.
        These copies have no checksum: the most frequent one counts."""
        for (opcode, content), _ in self._copies.most_common():
            try:
                self._file.learn_missing(read_definition(opcode, content))
            except _DAMAGE as error:
                problem = f"{self._file.path}: a definition is damaged ({_short(error)})"
                add_problem(self._file.damage, problem)

    def add_to_file(self) -> None:
        """Adds the chunks with messages of known channels, and counts the other messages."""
        for at, counts in self._counts.items():
            self._file.count_unknown(at, counts)
            if counts.keys() & self._file.channels:
                self._file.chunks.append(at)


@dataclass(slots=True)
class _Run:
    """Messages that follow each other outside of chunks. offset, end: in the file, in bytes."""

    offset: int
    start_ns: int
    end_ns: int
    end: int
    counts: Counter[int] = field(default_factory=Counter)


def _nothing_in(file: ChunkedFile) -> SourceError:
    why = "; ".join(file.problems) or (
        "it was cut off or damaged before the end of its first chunk"
    )
    return UnreadableFileError(f"{file.path} holds nothing that can be read: {why}")


def read_metadata(path: Path) -> dict[str, Mapping[str, str]]:
    """The metadata at the head of a file, without the rest of it: empty where the file begins with
    other records. Raises SourceError where the file cannot be read."""
    file = ChunkedFile(path, whole=False)
    offset = len(MCAP0_MAGIC)
    with opened(path) as stream:
        while True:
            stream.seek(offset)
            head = stream.read(RECORD_HEAD.size)
            opcode, length = RECORD_HEAD.unpack(head) if len(head) == RECORD_HEAD.size else (0, 0)
            if opcode not in (Opcode.HEADER, Opcode.METADATA) or length > MOST_DEFINITION_BYTES:
                return file.metadata
            if opcode == Opcode.METADATA:
                _read_metadata(file, stream)
            offset += RECORD_HEAD.size + length


def _read_metadata(file: ChunkedFile, stream: IO[bytes]) -> None:
    try:
        metadata = Metadata.read(ReadDataStream(stream))
    except _DAMAGE as error:
        add_problem(file.damage, f"{file.path}: its metadata are damaged ({_short(error)})")
        return
    file.metadata[metadata.name] = metadata.metadata


def _short(error: Exception) -> str:
    first = str(error).splitlines()
    return (first[0] if first else type(error).__name__)[:120]


def add_problem(problems: list[str], problem: str) -> None:
    """Adds a new problem. The list is for people: after MOST_PROBLEMS only a note follows."""
    if problem in problems or len(problems) > MOST_PROBLEMS:
        return
    problems.append(problem if len(problems) < MOST_PROBLEMS else "and further problems")


def in_log_order(
    file: ChunkedFile, start_ns: int, end_ns: int, wants: Wants = lambda channel: True
) -> Iterator[Message]:
    """Yields the messages of [start_ns, end_ns), of the channels that `wants` accepts, sorted by
    log time.

    Chunks whose index lists none of these channels are not read. Chunks may overlap a little;
    overlapping messages wait in memory, up to the length of two chunks. Raises SourceError where
    the file was deleted meanwhile.
    """
    chunks = sorted(
        (
            at
            for at in file.chunks
            if at.end_ns >= start_ns and at.start_ns < end_ns and _may_hold(file, at, wants)
        ),
        key=lambda at: (at.start_ns, at.offset),
    )
    waiting: list[Message] = []
    with opened(file.path) as stream:
        for at, following in itertools.zip_longest(chunks, chunks[1:]):
            waiting += file.messages(stream, at, wants)
            waiting.sort(key=lambda message: message.log_time)  # stable: ties stay as written
            safe_ns = end_ns if following is None else following.start_ns
            if sum(len(message.data) for message in waiting) > 2 * max_chunk_bytes():
                safe_ns = end_ns
                add_problem(file.damage, f"{file.path}: {_OVERLAP}")
            ready = [
                message for message in waiting if message.log_time < safe_ns or following is None
            ]
            waiting = waiting[len(ready) :]
            yield from (message for message in ready if start_ns <= message.log_time < end_ns)


def _may_hold(file: ChunkedFile, at: ChunkAt, wants: Wants) -> bool:
    """Whether a chunk may have messages of wanted channels. Its index may be missing, and channels
    may be defined in it alone."""
    known = [file.channels.get(number) for number in at.channels]
    return not known or any(channel is None or wants(channel) for channel in known)


def opened(path: Path) -> IO[bytes]:
    """Opens a file again. Raises SourceError where it was deleted meanwhile."""
    try:
        return path.open("rb")
    except OSError as error:
        raise SourceError(
            f"{path} can no longer be read: {error.strerror}", fix="was it deleted meanwhile?"
        ) from error
