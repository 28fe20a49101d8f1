"""RecordingFile: writes one MCAP file. The file is readable up to its last chunk at any moment,
however the process ends."""

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
from node.recording.records import schema_of
from perception_client.recordings.mcap_file import METADATA
from perception_client.recordings.records import Channel, Entry

CHUNK_BYTES = 1 << 20
"""Size of a chunk: the unit of reading, and the loss by a damaged byte."""
SYNC_S = 0.5
"""Interval of syncs to the disk: a power cut loses as much. More frequent syncs wear flash."""
MOST_SYNC_S = 2.0
"""Longest sync that writing does not wait for."""
LAST_SYNC_S = 0.5
"""Longest wait for the last sync; after it only a power cut can lose data."""
REPEAT_S = 5.0
"""Interval at which the file repeats the definitions of its channels, 13 kB each time: a file
without an index is readable if one copy is."""

MOST_LOOKED_AT_S = 0.5
"""Longest wait of a new file for processes that check its lock (`is_being_written`)."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


def is_being_written(path: Path) -> bool:
    """Whether a RecordingFile of any process has the file open. False if the file system has no
    locks, or the file cannot be opened."""
    try:
        with path.open("rb") as stream:
            return not _is_free(stream)
    except OSError:
        return False


def delete_unless_written(path: Path) -> bool:
    """Deletes a file, unless a RecordingFile of any process has it open.

    The file stays locked until its deletion, so that a process that creates a file of this name
    meanwhile notices the deletion.

    Returns whether the file was deleted. Raises OSError where it cannot be opened or deleted.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as stream:
        if not _is_free(stream) or not _is_at(stream, path):
            return False
        path.unlink()
    return True


def hold(stream: IO[bytes]) -> bool:
    """Locks an open file as being written, until it is closed (`is_being_written`). Waits for
    processes that check the lock at that moment. Returns whether the lock was acquired."""
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
    """Tries to acquire a shared lock; returns False if a writer holds the exclusive lock."""
    try:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(stream: IO[bytes], path: Path) -> bool:
    """Whether a path still leads to an open file. True if that cannot be determined."""
    try:
        at_path, at_stream = os.lstat(path), os.fstat(stream.fileno())
    except OSError as error:
        return error.errno not in _GONE
    return (at_path.st_dev, at_path.st_ino) == (at_stream.st_dev, at_stream.st_ino)


class RecordingFile:
    """One MCAP file that is being written. Used by one thread.

    The file is locked while it is open (`is_being_written`), so that no budget and no `recover`
    deletes or replaces it. Pictures are compressed already, so chunks are not. Written chunks
    survive the end of this process. A separate thread syncs them to the disk, where they survive a
    power cut, since an SD card or a busy disk may take seconds.

    Every method raises OSError for errors of the disk. The constructor raises FileExistsError where
    another process has created the path, or deleted this file.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._stream = path.open("xb")
        hold(self._stream)
        if not self.is_in_place:  # deleted before it was locked
            self._stream.close()
            raise FileExistsError(errno.EEXIST, "deleted at its creation", str(path))
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
        """Bytes written so far, without the chunk in progress; 0 after `abandon`."""
        return self._bytes if self._stream.closed else self._stream.tell()

    @property
    def is_ended(self) -> bool:
        """Whether the file was written completely, with its index."""
        return self._bytes > 0

    @property
    def is_in_place(self) -> bool:
        """Whether its path still leads to it; False after the file or its folder was moved or
        removed."""
        return _is_at(self._stream, self.path)

    @property
    def is_removed(self) -> bool:
        """Whether no path leads to it any more, so that its content is lost with this process."""
        try:
            return os.fstat(self._stream.fileno()).st_nlink == 0
        except OSError:  # deleted on the server of a network file system
            return True

    def write(self, entries: Iterable[Entry]) -> None:
        """Adds entries; the next `flush` writes them to the file."""
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
        """Ends and writes the chunk in progress, and starts a sync if one is due. Waits for a sync
        that takes longer than MOST_SYNC_S."""
        self._writer.flush()  # type: ignore[no-untyped-call]
        self._repeat_definitions()
        self._holds_something = True
        self._raise_sync_error()
        busy = self._sync is not None and self._sync.is_alive()
        if time.monotonic() - self._sync_began < (MOST_SYNC_S if busy else SYNC_S):
            return  # a later sync includes this chunk
        if self._sync is not None:
            self._sync.join()
            self._raise_sync_error()
        self._begin_sync()

    def _repeat_definitions(self) -> None:
        """Writes copies of the definitions outside the chunks: new definitions at once, all of them
        every REPEAT_S. In a file without an index, a damaged chunk would otherwise cost all later
        messages of the channels that it defines."""
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
            self._sync_error = error  # raised by the writing thread

    def _raise_sync_error(self) -> None:
        error, self._sync_error = self._sync_error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Writes the index and syncs the file; does nothing for an ended file. After an OSError the
        file is closed as it is, for `recover`."""
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
            self._release()

    def abandon(self) -> None:
        """Closes a file that can no longer be written, and deletes it if it holds nothing."""
        if not self._holds_something and self.is_in_place:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._release()

    def _release(self) -> None:
        """Unlocks and closes the file. Without an explicit unlock the lock lasts as long as any
        reference to the open file: a sync in progress holds one, as does a forked process."""
        if self._stream.closed:
            return
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._stream, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):  # an earlier write has reported it
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
            content, encoding = schema_of(channel), channel.schema_encoding
            known = self._writer.register_schema(channel.name, encoding, content)
            self._schemas[channel.name] = known
            records.Schema(known, content, encoding, channel.name).write(self._new_definitions)
        return known
