"""RecordingFile: one MCAP file that is being written. Readable up to its last chunk at any moment,
whatever ends the process."""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from mcap import records
from mcap.data_stream import RecordBuilder
from mcap.writer import CompressionType, Writer

from node import __version__
from node.recording.records import Channel, Entry

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

MOST_LOOKED_AT_S = 0.5
"""How long a new file waits for others that look whether it is being written."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


def is_being_written(path: Path) -> bool:
    """Whether a RecordingFile has a file open, in any process. False where the file system has no
    locks, or the file cannot be opened."""
    try:
        with path.open("rb") as stream:
            return not _is_free(stream)
    except OSError:
        return False


def delete_unless_written(path: Path) -> bool:
    """Deletes a file, but not one that a RecordingFile has open, in any process; whether it was
    deleted. Raises OSError where that cannot be looked up or done.

    It is locked until it is gone: whoever makes a file of its name meanwhile sees that it went.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
        if not _is_free(stream) or not _is_at(stream, path):
            return False
        path.unlink()
    return True


def hold(stream: IO[bytes]) -> bool:
    """Marks an open file as being written until it is closed (`is_being_written`); whether that
    could be done. Who looks at that moment is waited for."""
    until = time.monotonic() + MOST_LOOKED_AT_S
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        except OSError:  # a file system without locks
            return False


def _is_free(stream: IO[bytes]) -> bool:
    """Takes a lock that others may have too, or says that a writer has it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Whether a path still leads to an open file. True where that cannot be told."""
    try:
        there, here = os.lstat(path), os.fstat(stream.fileno())
    except OSError as error:
        return error.errno not in _GONE
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


class RecordingFile:
    """Used by one thread. Every method raises OSError where the disk does.

    It is locked while it is open (`is_being_written`), so that nobody replaces or deletes it
    meanwhile. FileExistsError: another process has taken the path, or took this file away.

    Pictures are compressed already, so chunks are not: each is a copy of what came. Written chunks
    outlast this process; a thread brings them to the disk, where they outlast a power cut: an SD
    card, or a disk on which others write, takes seconds for that at times.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._stream = path.open("xb")
        hold(self._stream)
        if not self.is_in_place:  # deleted before it was locked
            self._stream.close()
            raise FileExistsError(errno.EEXIST, "taken away at its making", str(path))
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
        self._bytes = 0
        self._holds_something = False
        self._sync: threading.Thread | None = None
        self._sync_began = float("-inf")
        self._sync_error: OSError | None = None

    @property
    def bytes(self) -> int:
        """Bytes written so far, without the chunk in progress. 0 of one that was let go."""
        return self._bytes if self._stream.closed else self._stream.tell()

    @property
    def is_ended(self) -> bool:
        """Whether all of it was written, with its index."""
        return self._bytes > 0

    @property
    def is_in_place(self) -> bool:
        """Whether its path still leads to it: not where it, or its folder, was moved or removed."""
        return _is_at(self._stream, self.path)

    @property
    def is_removed(self) -> bool:
        """Whether no path leads to it any more, so that all of it goes with this process."""
        try:
            return os.fstat(self._stream.fileno()).st_nlink == 0
        except OSError:  # of a network's server, on which it is gone
            return True

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
        self._holds_something = True
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
        there is for `recover`. Of one that was ended before: nothing."""
        if self.is_ended:
            return
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._stream.flush()
            self._begin_sync()
            assert self._sync is not None
            self._sync.join(LAST_SYNC_S)
            self._raise_sync_error()
            self._bytes = self._stream.tell()
        finally:
            with contextlib.suppress(OSError):  # of a write that was reported already
                self._stream.close()

    def abandon(self) -> None:
        """Lets go of a file that can no more be written; where nothing was, it is deleted."""
        if not self._holds_something and self.is_in_place:
            with contextlib.suppress(OSError):
                self.path.unlink()
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
