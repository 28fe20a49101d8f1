"""RecordingFile: one MCAP file that is being written. Readable up to its last chunk at any moment,
whatever ends the process."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mcap import records
from mcap.data_stream import RecordBuilder
from mcap.writer import CompressionType, Writer

from node import __version__
from node.recording.entry import Channel, Entry

CHUNK_BYTES = 1 << 20
"""A chunk is what is read at a time, and what a damaged byte costs."""
METADATA = "perception-node"
SYNC_S = 0.5
"""How often the file is brought to the disk: so much of it a power cut loses. Flash wears by it."""
MOST_SYNC_S = 2.0
"""How long the disk may take to bring the file to safety while more is written."""
LAST_SYNC_S = 0.5
"""How long an end waits for that. What is written by then is lost by a power cut only."""
REPEAT_S = 5.0
"""How often the file says anew what its channels are, in 13 kB: a file without its index can be
read where one copy of them can."""


def is_being_written(path: Path) -> bool:
    """Whether a RecordingFile has a file open, in any process. False where the file system has no
    locks, or the file cannot be opened."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class RecordingFile:
    """Used by one thread. Every method raises OSError where the disk does.

    It is locked while it is open (`is_being_written`), so that nobody replaces it meanwhile.

    Pictures are compressed already, so chunks are not: each is a copy of what came. Written chunks
    outlast this process; a thread brings them to the disk, where they outlast a power cut: an SD
    card, or a disk on which others write, takes seconds for that at times.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._stream = path.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._writer = Writer(
            self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE
        )
        self._writer.start(library=f"perception-node {__version__}")
        self._writer.add_metadata(METADATA, dict(about))
        self._schemas: dict[str, int] = {}
        self._channels: dict[Channel, int] = {}
        self._new_definitions = RecordBuilder()
        self._definitions = b""
        self._repeated_at = time.monotonic()
        self.first_ns: int | None = None
        self.last_ns = 0
        self._sync: threading.Thread | None = None
        self._sync_began = float("-inf")
        self._sync_error: OSError | None = None

    @property
    def bytes(self) -> int:
        """Bytes written so far, without the chunk in progress."""
        return self._stream.tell()

    def write(self, entries: Iterable[Entry]) -> None:
        """Adds entries; they are in the file at the next `flush`."""
        for entry in entries:
            self._writer.add_message(
                self._channel(entry.channel),
                entry.log_ns,
                entry.data,
                entry.publish_ns,
                entry.sequence,
            )
            self.first_ns = entry.log_ns if self.first_ns is None else self.first_ns
            self.last_ns = max(self.last_ns, entry.log_ns)

    def flush(self) -> None:
        """Ends the chunk in progress, writes it, and has it brought to the disk. Waits for a disk
        that is too slow for that."""
        self._writer.flush()  # type: ignore[no-untyped-call]
        self._repeat_definitions()
        self._raise_sync_error()
        busy = self._sync is not None and self._sync.is_alive()
        if time.monotonic() - self._sync_began < (MOST_SYNC_S if busy else SYNC_S):
            return  # a later flush brings this chunk too
        if self._sync is not None:
            self._sync.join()
            self._raise_sync_error()
        self._begin_sync()

    def _repeat_definitions(self) -> None:
        """Once more outside the chunks: without an index, a damaged chunk would cost every later
        message of the channels that it defines. New ones at once, all every REPEAT_S."""
        new = self._new_definitions.end()  # type: ignore[no-untyped-call]
        self._definitions += new
        due = time.monotonic() - self._repeated_at >= REPEAT_S
        if due:
            self._repeated_at = time.monotonic()
        self._stream.write(self._definitions if due else new)
        self._stream.flush()

    def _begin_sync(self) -> None:
        self._sync_began = time.monotonic()
        self._sync = threading.Thread(
            target=self._bring_to_disk, args=(self._stream.fileno(),), name="sync", daemon=True
        )
        self._sync.start()

    def _bring_to_disk(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self._sync_error = error  # raised by who writes

    def _raise_sync_error(self) -> None:
        error, self._sync_error = self._sync_error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Writes the index and brings all to the disk. After an OSError: lets go, and leaves what
        there is for `recover`."""
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._stream.flush()
            self._begin_sync()
            assert self._sync is not None
            self._sync.join(LAST_SYNC_S)
            self._raise_sync_error()
        finally:
            with contextlib.suppress(OSError):  # of a write that was reported already
                self._stream.close()

    def abandon(self) -> None:
        """Lets go of a file that can no more be written."""
        with contextlib.suppress(OSError):
            self._stream.close()

    def _channel(self, channel: Channel) -> int:
        known = self._channels.get(channel)
        if known is None:
            schema = self._schema(channel)
            known = self._writer.register_channel(channel.topic, channel.encoding, schema)
            self._channels[channel] = known
            records.Channel(known, channel.topic, channel.encoding, {}, schema).write(
                self._new_definitions
            )
        return known

    def _schema(self, channel: Channel) -> int:
        known = self._schemas.get(channel.name)
        if known is None:
            content, encoding = channel.schema, channel.schema_encoding
            known = self._writer.register_schema(channel.name, encoding, content)
            self._schemas[channel.name] = known
            records.Schema(known, content, encoding, channel.name).write(self._new_definitions)
        return known
