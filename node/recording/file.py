"""RecordingFile: one MCAP file that is being written. Readable up to its last chunk at any moment,
whatever ends the process."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mcap.writer import CompressionType, Writer

from node import __version__
from node.recording.entry import Channel, Entry

CHUNK_BYTES = 1 << 20
"""A chunk is what is read at a time, and what a damaged byte costs."""
METADATA = "perception-node"


class RecordingFile:
    """Used by one thread. Every method raises OSError where the disk does.

    Pictures are compressed already, so chunks are not: each is a copy of what came.
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
        """Ends the chunk in progress and brings it to the disk."""
        self._writer.flush()  # type: ignore[no-untyped-call]
        os.fdatasync(self._stream.fileno())

    def close(self) -> None:
        """Writes the index and brings all to the disk. After an OSError: lets go, and leaves what
        there is for `recover`."""
        try:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._stream.flush()
            os.fdatasync(self._stream.fileno())
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
