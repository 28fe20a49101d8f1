"""MessageRecording: the messages of a recording, without its pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mcap.records import Channel as McapChannel

from perception_client.errors import MessageError, SourceError
from perception_client.messages.kinds import Message, MessageKind
from perception_client.recordings.facts import read_message
from perception_client.recordings.mcap_file import (
    ChunkedFile,
    UnreadableFileError,
    add_problem,
    in_log_order,
    open_chunked,
)
from perception_client.recordings.merge import merged
from perception_client.recordings.records import Channel, Entry

_KINDS: dict[str, MessageKind] = {
    "perception.labels": "labels",
    "perception.events": "events",
    "perception.health": "health",
    "perception.info": "info",
}
"""The kind of the messages of a schema."""


class MessageRecording:
    """The published messages in the files of one recording.

    Readers skip unreadable records, and `problems` lists them.

    paths: its files, all of one run. Raises SourceError where a file is no recording, or nothing in
    it is readable.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._problems: list[str] = []
        self._files: list[_File] = []
        unreadable: list[UnreadableFileError] = []
        for path in paths:
            try:
                self._files.append(_File(open_chunked(path)))
            except UnreadableFileError as error:
                unreadable.append(error)
        if not self._files:
            raise unreadable[0] if unreadable else SourceError("a recording without files")
        for reason in unreadable:
            add_problem(self._problems, str(reason))
        self._files.sort(key=lambda file: file.start_ns)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, sorted."""
        topics = {topic for file in self._files for topic in file.topics_of_cameras()}
        return tuple(sorted({topic.split("/")[1] for topic in topics if topic.count("/") > 1}))

    @property
    def problems(self) -> tuple[str, ...]:
        """The unreadable parts so far, in words."""
        of_files = (problem for file in self._files for problem in file.chunked.problems)
        return (*of_files, *self._problems)

    def messages(self) -> Iterator[tuple[int, Message]]:
        """Yields the messages with their log times, in ns, in their order."""
        for entry in merged(self._files):
            try:
                yield entry.log_ns, read_message(_KINDS[entry.channel.name], entry.data)
            except MessageError as error:
                problem = f"{entry.channel.topic}: a message is skipped: {error}"
                add_problem(self._problems, problem)


class _File:
    def __init__(self, chunked: ChunkedFile) -> None:
        self.chunked = chunked
        self.start_ns = chunked.start_ns

    def topics_of_cameras(self) -> list[str]:
        """The topics whose second part is the name of a camera."""
        return [
            channel.topic
            for channel in self.chunked.channels.values()
            if self._schema_of(channel) in ("perception.labels", "perception.frame")
        ]

    def entries(self, start_ns: int, end_ns: int) -> Iterator[Entry]:
        """As `EntryFile.entries`."""
        messages = in_log_order(
            self.chunked, start_ns, end_ns, lambda channel: self._schema_of(channel) in _KINDS
        )
        for message in messages:
            channel = self.chunked.channels[message.channel_id]
            yield Entry(
                Channel(channel.topic, channel.message_encoding, self._schema_of(channel)),
                message.log_time,
                message.publish_time,
                message.sequence,
                message.data,
            )

    def _schema_of(self, channel: McapChannel) -> str:
        schema = self.chunked.schemas.get(channel.schema_id)
        return "" if schema is None else str(schema.name)
