"""RecordingFile: one MCAP file that is being written. Readable up to its last chunk at any moment,
whatever ends the process."""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

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


class RecordingFile:
    """Used by one thread. Every method raises OSError where the disk does.

    Pictures are compressed already, so chunks are not: each is a copy of what came. Written chunks
    outlast this process; a thread brings them to the disk, where they outlast a power cut: an SD
    card, or a disk on which others write, takes seconds for that at times.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._stream = path.open("xb")
        self._writer = Writer(
            self._stream, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE
        )
        self._writer.start(library=f"perception-node {__version__}")
        self._writer.add_metadata(METADATA, dict(about))
        self._schemas: dict[str, int] = {}
        self._channels: dict[Channel, int] = {}
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
        self._raise_sync_error()
        busy = self._sync is not None and self._sync.is_alive()
        if time.monotonic() - self._sync_began < (MOST_SYNC_S if busy else SYNC_S):
            return  # a later flush brings this chunk too
        if self._sync is not None:
            self._sync.join()
            self._raise_sync_error()
        self._begin_sync()

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
            schema = self._schemas.get(channel.name)
            if schema is None:
                schema = self._writer.register_schema(
                    channel.name, channel.schema_encoding, channel.schema
                )
                self._schemas[channel.name] = schema
            known = self._writer.register_channel(channel.topic, channel.encoding, schema)
            self._channels[channel] = known
        return known
