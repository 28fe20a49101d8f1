"""Recording: reads frames, messages and the configuration of a recording: one file, or all parts of
a run."""

import functools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.records import Channel as McapChannel

from node.errors import MessageError, SourceError
from node.recording.facts import read_configuration
from node.recording.frames import FrameReader, RecordedFrame, cameras_of
from node.recording.pictures import described, guessed_schema, kind_of
from node.recording.records import ANNOTATIONS, FRAME
from perception_client.messages.kinds import LabelsMessage, Message, MessageKind, Status
from perception_client.recordings.facts import read_message
from perception_client.recordings.mcap_file import (
    METADATA,
    ChunkedFile,
    UnreadableFileError,
    add_problem,
    in_log_order,
    open_chunked,
)
from perception_client.recordings.merge import FOREVER_NS, merged
from perception_client.recordings.records import Channel, Entry

_LABELS = "perception.labels"
CONFIG = "perception.config"
INFO = "perception.info"
_MOST_LATE_NS = 10_000_000_000
"""Longest time from a frame to its labels: model.inference_timeout_s, 5 s by default, bounds an
inference. Later labels, possible where it is raised, are not assigned to their frame."""


class Recording:
    """The files of one recording, in the order of their times.

    Readers skip unreadable records, and `problems` lists them.

    Args:
        paths: its files, all of one run (`node.recording.runs`).
        cameras: names of the cameras whose frames are read; empty for all.

    Raises SourceError where a file is no recording, nothing in it is readable, it has no pictures,
    or none of one of `cameras`.
    """

    def __init__(self, paths: Sequence[Path], cameras: Collection[str] = ()) -> None:
        self.paths = tuple(paths)
        self._problems: list[str] = []
        self._settings_ns: dict[int, int] = {}
        self._empty: list[str] = []
        self._files = self._opened()
        by_topic = cameras_of(self._channels())
        if not by_topic:
            raise self._without_pictures()
        unknown = sorted(set(cameras) - set(by_topic.values()))
        if unknown:
            names = ", ".join(sorted(by_topic.values()))
            raise SourceError(f"{paths[0]}: no camera {unknown[0]!r}", fix=f"cameras: {names}")
        self._by_topic = {
            topic: name for topic, name in by_topic.items() if not cameras or name in cameras
        }

    def _opened(self) -> list["_File"]:
        """The files; one in which nothing is readable is a problem, unless it is the only one."""
        files = []
        unreadable: list[UnreadableFileError] = []
        for path in self.paths:
            try:
                files.append(_File(open_chunked(path)))
            except UnreadableFileError as error:
                unreadable.append(error)
        if not files:
            raise unreadable[0]
        self._empty += map(str, unreadable)
        return sorted(files, key=lambda file: file.chunked.start_ns)

    def _channels(self) -> Iterator[Channel]:
        for file in self._files:
            yield from file.channels()

    def _without_pictures(self) -> SourceError:
        topics = sorted({f"{channel.topic} ({described(channel)})" for channel in self._channels()})
        problems = "".join(f"; {problem}" for problem in self.problems[:2])
        return SourceError(
            f"{self.paths[0]} holds no pictures",
            fix=f"its topics: {', '.join(topics[:10]) or 'none'}{problems}",
        )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras whose frames are read, sorted."""
        return tuple(sorted(self._by_topic.values()))

    @functools.cached_property
    def start_ns(self) -> int:
        """Log time of the first frame; earlier records are of the time while the model loaded.
        Raises SourceError where no picture is readable, or its form is not supported."""
        reader = self._frame_reader(0)
        for entry in self.entries():
            frame = reader.take(entry)
            if frame is not None:
                return frame.log_ns
        problems = "".join(f"; {problem}" for problem in self.problems[:2])
        raise SourceError(f"{self.paths[0]} holds no picture that can be read{problems}")

    @property
    def end_ns(self) -> int:
        """Log time of the last record."""
        return max((file.chunked.end_ns for file in self._files), default=0)

    @property
    def length_s(self) -> float:
        """From the first frame to the last record, in seconds."""
        return max(self.end_ns - self.start_ns, 0) / 1e9

    @property
    def problems(self) -> tuple[str, ...]:
        """What is missing or unreadable so far, in words."""
        of_files = (problem for file in self._files for problem in file.chunked.problems)
        return (*self._empty, *of_files, *self._problems)

    @property
    def losses(self) -> tuple[str, ...]:
        """What is there and was skipped so far, in words: the problems without the missing ends of
        files that were cut off."""
        of_files = (problem for file in self._files for problem in file.chunked.losses)
        return (*of_files, *self._problems)

    def note_problem(self, problem: str) -> None:
        """Adds a problem that a reader of this recording met."""
        add_problem(self._problems, problem)

    def entries(
        self, start_ns: int = 0, end_ns: int = FOREVER_NS, schemas: Collection[str] = ()
    ) -> Iterator[Entry]:
        """Yields the records of [start_ns, end_ns) that are pictures or of this node's kinds, or
        only those of some schemas, sorted by log time, as `merged` does."""
        files = [_Selection(file, schemas) for file in self._files]
        for entry in merged(files, start_ns, end_ns):
            if entry.channel.name == CONFIG:
                self._settings_ns.setdefault(entry.sequence, entry.log_ns)
            yield entry

    def frames(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[RecordedFrame]:
        """Yields the frames of all cameras in the order of their capture. Raises SourceError for
        pictures whose form is not supported."""
        return (frame for frame, _ in self._frames(start_ns, end_ns) if frame is not None)

    def labelled_frames(
        self, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[RecordedFrame, LabelsMessage | None]]:
        """Yields frames as `frames` does, each with its labels; None for a frame without labels.
        Frames wait in memory while their labels may still follow."""
        if not self.holds(_LABELS):
            yield from ((frame, None) for frame in self.frames(start_ns, end_ns))
            return
        waiting: deque[_Waiting] = deque()
        for frame, entry in self._frames(start_ns, end_ns + _MOST_LATE_NS):
            if frame is not None and frame.log_ns < end_ns:
                waiting.append(_Waiting(frame))
            elif entry.channel.name == _LABELS:
                message = self.read_message("labels", entry)
                if isinstance(message, LabelsMessage) and message.status is Status.OK:
                    _give(waiting, message)
            while waiting and waiting[0].is_decided(entry.log_ns):
                yield waiting.popleft().both
            if not waiting and entry.log_ns >= end_ns:
                return
        yield from (pair.both for pair in waiting)

    def _frames(self, start_ns: int, end_ns: int) -> Iterator[tuple[RecordedFrame | None, Entry]]:
        """Yields the entries of [start_ns, end_ns), each with the frame that it completes. Without
        this node's facts it reads from the beginning: such frames are numbered by counting, and a
        video is decoded from a key frame on."""
        reader = self._frame_reader(self.start_ns)
        has_facts = any(channel.name == FRAME for channel in self._channels())
        for entry in self.entries(start_ns if has_facts else 0, end_ns):
            frame = reader.take(entry)
            if entry.log_ns >= start_ns:
                yield frame, entry

    def _frame_reader(self, first_ns: int) -> FrameReader:
        return FrameReader(first_ns, self.paths[0], self._by_topic, self._problems)

    def messages(
        self, *kinds: MessageKind, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[int, Message]]:
        """Yields the published messages of some kinds (default: all) with their log times."""
        names = {
            f"perception.{kind}": kind for kind in kinds or ("labels", "events", "health", "info")
        }
        for entry in self.entries(start_ns, end_ns):
            kind = names.get(entry.channel.name)
            message = None if kind is None else self.read_message(kind, entry)
            if message is not None:
                yield entry.log_ns, message

    def read_message(self, kind: MessageKind, entry: Entry) -> Message | None:
        """The message in an entry; None for an invalid one, which is skipped."""
        try:
            return read_message(kind, entry.data)
        except MessageError as error:
            self.note_problem(f"{entry.channel.topic}: a message is skipped: {error}")
            return None

    def holds(self, schema: str) -> bool:
        """Whether the recording contains records of a schema, such as `perception.labels`."""
        return any(channel.name == schema for channel in self._channels())

    def part_start_ns(self, at_ns: int) -> int:
        """Log time of the first record of the newest file that began before a time: each file
        begins with the configuration in force."""
        starts = [file.chunked.start_ns for file in self._files]
        return max((start for start in starts if start <= at_ns), default=0)

    def settings_changed_after(self, at_ns: int) -> int:
        """Number of changes of the configuration after a log time, in what has been read."""
        return sum(changed_ns > at_ns for changed_ns in self._settings_ns.values())

    def read_configuration(self, entry: Entry) -> dict[str, Any] | None:
        """The configuration in an entry; None for an invalid one, which is skipped."""
        try:
            return read_configuration(entry.data)
        except MessageError as error:
            self.note_problem(f"{entry.channel.topic}: a configuration is skipped: {error}")
            return None


class _File:
    """One file: its channels by number, with schemas for those that were written without one."""

    def __init__(self, chunked: ChunkedFile) -> None:
        self.chunked = chunked
        self.start_ns = chunked.start_ns
        self._known: dict[int, Channel] = {}
        self._guesses: dict[int, str] = {}
        if METADATA not in chunked.metadata:  # in the node's own, a missing schema is damaged
            for number, channel in chunked.channels.items():
                if not channel.schema_id:
                    self._guesses[number] = self._guess(channel)

    def _guess(self, channel: McapChannel) -> str:
        """The schema that the first record of a channel has; empty for anything but pictures."""
        records = in_log_order(self.chunked, 0, FOREVER_NS, lambda other: other.id == channel.id)
        first = next(records, None)
        return "" if first is None else guessed_schema(channel.message_encoding, first.data)

    def channels(self) -> Iterator[Channel]:
        """The channels, as far as they are known."""
        for number in list(self.chunked.channels):
            yield self.channel(number)

    def channel(self, number: int) -> Channel:
        """A channel by its number."""
        known = self._known.get(number)
        if known is None:
            channel = self.chunked.channels[number]
            schema = self.chunked.schemas.get(channel.schema_id)
            name = self._guesses.get(number, "") if schema is None else schema.name
            known = Channel(channel.topic, channel.message_encoding, name)
            if schema is not None or number in self._guesses:  # a later chunk may define a schema
                self._known[number] = known
        return known

    def entries(self, start_ns: int, end_ns: int, schemas: Collection[str]) -> Iterator[Entry]:
        """The records of [start_ns, end_ns) of channels that are read, or only of some schemas,
        sorted by log time."""

        def is_read(channel: McapChannel) -> bool:
            name = self.channel(channel.id).name
            if schemas:
                return name in schemas
            own = name.startswith("perception.") or name == ANNOTATIONS
            return own or kind_of(name) is not None

        for message in in_log_order(self.chunked, start_ns, end_ns, is_read):
            yield Entry(
                self.channel(message.channel_id),
                message.log_time,
                message.publish_time,
                message.sequence,
                message.data,
            )


@dataclass(frozen=True, slots=True)
class _Selection:
    """The records of some schemas in a file; without schemas, all that are read."""

    file: _File
    schemas: Collection[str]

    @property
    def start_ns(self) -> int:
        return self.file.start_ns

    def entries(self, start_ns: int, end_ns: int) -> Iterator[Entry]:
        return self.file.entries(start_ns, end_ns, self.schemas)


@dataclass(slots=True)
class _Waiting:
    """A frame whose labels may follow. passed: labels of a later frame came."""

    frame: RecordedFrame
    message: LabelsMessage | None = None
    passed: bool = False

    def is_decided(self, now_ns: int) -> bool:
        return self.passed or now_ns - self.frame.log_ns > _MOST_LATE_NS

    @property
    def both(self) -> tuple[RecordedFrame, LabelsMessage | None]:
        return self.frame, self.message


def _give(waiting: Iterable[_Waiting], message: LabelsMessage) -> None:
    """Assigns labels to their frame. A camera's frames are labelled in order, so labels of earlier
    frames cannot follow."""
    if message.frame_id is None:  # another recorder's message, which belongs to no frame
        return
    for pair in waiting:
        if pair.frame.camera == message.camera and pair.frame.frame_id <= message.frame_id:
            pair.passed = True
            if pair.frame.frame_id == message.frame_id:
                pair.message = message
