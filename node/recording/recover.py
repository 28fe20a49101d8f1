"""Recover: writes a new, complete file from the readable parts of a file that was cut off or
damaged."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mcap.records import Channel, Message
from mcap.writer import CompressionType, Writer

from node import __version__
from node.errors import OutputError, SourceError
from node.recording.mcap_writer import CHUNK_BYTES, hold
from perception_client.recordings.mcap_file import ChunkedFile, add_problem, open_chunked, opened


@dataclass(frozen=True, slots=True)
class Recovered:
    """The result of a recovery."""

    messages: int
    """Number of saved messages."""
    seconds: float
    """From the first to the last."""
    problems: tuple[str, ...]
    """The unreadable parts, in words."""


def is_whole(path: Path) -> bool:
    """Whether every chunk of a file and its index are readable. Raises SourceError where nothing
    is."""
    file = open_chunked(path)
    if file.whole:
        with opened(path) as stream:
            for at in file.chunks:
                file.messages(stream, at)
    return file.whole and not file.problems


def recover(path: Path, to: Path) -> Recovered:
    """Writes the readable parts of `path` to the new file `to`.

    Raises SourceError where nothing is readable, OutputError where `to` exists or cannot be
    written. After any exception no new file remains.
    """
    file = open_chunked(path)
    try:
        with to.open("xb") as output:
            hold(output)  # so that neither a budget nor another `recover` deletes it
            count = _save_or_unlink(file, output, to)
    except FileExistsError:
        raise OutputError(f"{to} is there already", fix="name another with --output") from None
    except OSError as error:
        raise OutputError(f"{to} cannot be written: {error.strerror}") from error
    return Recovered(count, (file.end_ns - file.start_ns) / 1e9, tuple(file.problems))


def _save_or_unlink(file: ChunkedFile, output: IO[bytes], to: Path) -> int:
    try:
        count = _save(file, output)
        if not count:
            raise SourceError(f"{file.path} holds nothing that can be read: all of it is damaged")
        return count
    except BaseException:
        to.unlink(missing_ok=True)
        raise


def _save(file: ChunkedFile, output: IO[bytes]) -> int:
    """Writes a complete file of all readable messages; returns their number."""
    writer = Writer(output, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE)
    writer.start(library=f"perception-node {__version__}")
    for name, content in file.metadata.items():
        writer.add_metadata(name, dict(content))
    channels: dict[int, int] = {}
    schemas: dict[int, int] = {0: 0}
    count = 0
    with opened(file.path) as stream:
        for at in file.chunks:
            for message in file.messages(stream, at):
                _copy(file, message, writer, channels, schemas)
                count += 1
    writer.finish()  # type: ignore[no-untyped-call]
    output.flush()
    os.fsync(output.fileno())  # it may replace the only copy
    return count


def _copy(
    file: ChunkedFile,
    message: Message,
    writer: Writer,
    channels: dict[int, int],
    schemas: dict[int, int],
) -> None:
    if message.channel_id not in channels:
        channel = file.channels[message.channel_id]
        if channel.schema_id not in schemas:
            schemas[channel.schema_id] = _copy_schema(file, channel, writer)
        channels[message.channel_id] = writer.register_channel(
            channel.topic,
            channel.message_encoding,
            schemas[channel.schema_id],
            channel.metadata,
        )
    writer.add_message(
        channels[message.channel_id],
        message.log_time,
        message.data,
        message.publish_time,
        message.sequence,
    )


def _copy_schema(file: ChunkedFile, channel: Channel, writer: Writer) -> int:
    """Copies a channel's schema; returns its new id. Returns 0, MCAP's id for no schema, where the
    schema is lost: records without a schema are better than no records."""
    schema = file.schemas.get(channel.schema_id)
    if schema is None:
        lost = f"{channel.topic}: its schema is damaged or missing; saved without it"
        add_problem(file.damage, f"{file.path}: {lost}")
        return 0
    number: int = writer.register_schema(schema.name, schema.encoding, schema.data)
    return number
