"""Recording: reads frames, messages and the configuration of a recording: one file, or all parts of
a run."""

import functools
import glob
import heapq
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError

from node.errors import MessageError, SourceError
from node.image.frame import Clock, Frame, Image, Stamp
from node.image.jpeg import decode_jpeg
from node.recording.facts import (
    MOST_NS,
    FrameFacts,
    read_configuration,
    read_frame_facts,
    read_message,
)
from node.recording.folder import SUFFIX, in_order
from node.recording.mcap_reader import ChunkedFile, add_problem, in_log_order, open_chunked
from node.recording.mcap_writer import METADATA
from node.recording.records import Channel, Encoding, Entry
from perception_client.messages.kinds import LabelsMessage, Message, MessageKind, Status
from perception_client.paths import expanded

FOREVER_NS = 1 << 63
_IMAGE = "foxglove.CompressedImage"
_FRAME = "perception.frame"
_LABELS = "perception.labels"
MOST_NAME = 64
"""Most characters of a camera's name."""
_MOST_AT_ONCE = 10_000
"""Most records of one log time that are compared to find duplicates."""
_MOST_LATE_NS = 10_000_000_000
"""Longest time from a frame to its labels: model.inference_timeout_s, 5 s by default, bounds an
inference. Later labels, possible where it is raised, are not assigned to their frame."""


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A recorded frame, not decoded yet. Fields without a description are as in `Frame`."""

    camera: str
    frame_id: int
    log_ns: int
    """Time on the recording's clock."""
    media_ns: int
    """Time since the recording's first frame."""
    stamp_ns: int | None
    """Unix time of the capture; None where unknown."""
    clock: Clock | None
    epoch: int
    lost_before: int
    """Frames of its camera that the recorder lost since the previous frame."""
    jpeg: bytes

    def image(self) -> Image:
        """Decodes the frame: [height, width, 3] uint8 BGR. Raises PictureError for damaged
        bytes."""
        return decode_jpeg(self.jpeg)

    def frame(self) -> Frame:
        """Decodes the frame for a replay, with the recorded stamp. Raises PictureError for damaged
        bytes."""
        stamp_ns = self.media_ns if self.stamp_ns is None else self.stamp_ns
        return Frame(
            image=self.image(),
            camera=self.camera,
            frame_id=self.frame_id,
            stamp=Stamp(unix_ns=stamp_ns, mono_ns=None, clock="media"),
            media_ns=self.media_ns,
            capture_ns=0,
            epoch=self.epoch,
        )


class Recording:
    """The files of one recording, in the order of their times.

    Readers skip unreadable records, and `problems` lists them.

    Raises SourceError where a file is no recording, nothing in it is readable, or the files belong
    to several runs.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._files = sorted((open_chunked(path) for path in paths), key=_start_ns)
        self._problems: list[str] = []
        _check_of_one_run(self._files)
        if not self.cameras:
            channels = (channel for file in self._files for channel in file.channels.values())
            topics = sorted({channel.topic for channel in channels})
            problems = "".join(f"; {problem}" for problem in self.problems[:2])
            raise SourceError(
                f"{paths[0]} holds no pictures ({_IMAGE})",
                fix=f"its topics: {', '.join(topics[:10]) or 'none'}{problems}",
            )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras with frames, sorted."""
        return tuple(
            sorted(
                {
                    _camera(channel.topic)
                    for file in self._files
                    for channel in file.channels.values()
                    if _name(file, channel.schema_id) == _IMAGE
                }
            )
        )

    @functools.cached_property
    def start_ns(self) -> int:
        """Log time of the first frame; earlier records are of the time while the model loaded.
        Raises SourceError where no picture is readable."""
        reader = _FrameReader(0, self._problems)
        for entry in self.entries():
            frame = reader.take(entry)
            if frame is not None:
                return frame.log_ns
        problems = "".join(f"; {problem}" for problem in self.problems[:2])
        raise SourceError(f"{self.paths[0]} holds no picture that can be read{problems}")

    @property
    def end_ns(self) -> int:
        """Log time of the last record."""
        return max((at.end_ns for file in self._files for at in file.chunks), default=0)

    @property
    def length_s(self) -> float:
        """From the first frame to the last record, in seconds."""
        return max(self.end_ns - self.start_ns, 0) / 1e9

    @property
    def problems(self) -> tuple[str, ...]:
        """The unreadable parts so far, in words."""
        of_files = (problem for file in self._files for problem in file.problems)
        return (*of_files, *self._problems)

    def entries(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[Entry]:
        """Yields all records of [start_ns, end_ns), sorted by log time. A record that two files
        contain, such as a part and a black box of the same time, comes once."""
        at_ns = -1
        seen: set[tuple[str, int, int]] = set()
        for entry in _merged(self._files, start_ns, end_ns):
            if entry.log_ns != at_ns or len(seen) >= _MOST_AT_ONCE:
                at_ns = entry.log_ns
                seen.clear()
            identity = (entry.channel.topic, entry.sequence, hash(entry.data))
            if identity not in seen:
                seen.add(identity)
                yield entry

    def frames(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[RecordedFrame]:
        """Yields the frames of all cameras in the order of their capture."""
        reader = self._frame_reader()
        for entry in self.entries(start_ns, end_ns):
            frame = reader.take(entry)
            if frame is not None:
                yield frame

    def labelled_frames(
        self, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[RecordedFrame, LabelsMessage | None]]:
        """Yields frames as `frames` does, each with its labels; None for a frame without labels.
        Frames wait in memory while their labels may still follow."""
        reader = self._frame_reader()
        waiting: deque[_Waiting] = deque()
        for entry in self.entries(start_ns, end_ns + _MOST_LATE_NS):
            frame = reader.take(entry)
            if frame is not None and frame.log_ns < end_ns:
                waiting.append(_Waiting(frame))
            elif entry.channel.name == _LABELS:
                message = self._message("labels", entry)
                if isinstance(message, LabelsMessage) and message.status is Status.OK:
                    _give(waiting, message)
            while waiting and waiting[0].is_decided(entry.log_ns):
                yield waiting.popleft().both
            if not waiting and entry.log_ns >= end_ns:
                return
        yield from (pair.both for pair in waiting)

    def _frame_reader(self) -> "_FrameReader":
        return _FrameReader(self.start_ns, self._problems)

    def messages(
        self, *kinds: MessageKind, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[int, Message]]:
        """Yields the published messages of some kinds (default: all) with their log times."""
        names = {
            f"perception.{kind}": kind for kind in kinds or ("labels", "events", "health", "info")
        }
        for entry in self.entries(start_ns, end_ns):
            kind = names.get(entry.channel.name)
            message = None if kind is None else self._message(kind, entry)
            if message is not None:
                yield entry.log_ns, message

    def _message(self, kind: MessageKind, entry: Entry) -> Message | None:
        try:
            return read_message(kind, entry.data)
        except MessageError as error:
            add_problem(self._problems, f"{entry.channel.topic}: a message is skipped: {error}")
            return None

    @property
    def has_labels(self) -> bool:
        """Whether the recording contains messages of labels."""
        return any(
            _name(file, channel.schema_id) == _LABELS
            for file in self._files
            for channel in file.channels.values()
        )

    def configuration(self) -> dict[str, Any] | None:
        """The last recorded configuration; None without one."""
        newest = None
        for entry in self.entries():
            if entry.channel.name != "perception.config":
                continue
            try:
                newest = read_configuration(entry.data)
            except MessageError as error:
                problem = f"{entry.channel.topic}: a configuration is skipped: {error}"
                add_problem(self._problems, problem)
        return newest


class _FrameReader:
    """Combines the entries of each frame, in the order of their log times."""

    def __init__(self, first_ns: int, problems: list[str]) -> None:
        self._first_ns = first_ns
        self._problems = problems
        self._facts: dict[str, FrameFacts | None] = {}
        self._count: dict[str, int] = {}

    def take(self, entry: Entry) -> RecordedFrame | None:
        """The frame of a picture's entry; None for any other entry. Pictures of other recorders,
        which come without facts, are numbered here."""
        if entry.channel.name == _FRAME:
            self._facts[_camera(entry.channel.topic)] = self._read_facts(entry)
            return None
        if entry.channel.name != _IMAGE or entry.channel.encoding != "protobuf":
            return None
        try:
            image = CompressedImage.FromString(entry.data)
        except DecodeError:
            add_problem(self._problems, f"{entry.channel.topic}: a picture is damaged")
            return None
        if image.format and not _is_jpeg(image.format):
            add_problem(
                self._problems,
                f"{entry.channel.topic}: its pictures are {image.format:.20}; only JPEG is read",
            )
            return None
        camera = _camera(entry.channel.topic)
        facts = self._facts.pop(camera, self._numbered(camera, entry))
        if facts is None:  # the facts are damaged, so the frame's number is unknown
            return None
        self._count[camera] = facts.frame_id + 1
        return RecordedFrame(
            camera=camera,
            frame_id=facts.frame_id,
            log_ns=entry.log_ns,
            media_ns=entry.log_ns - self._first_ns,
            stamp_ns=facts.stamp_ns,
            clock=facts.clock,
            epoch=facts.epoch,
            lost_before=facts.lost_before,
            jpeg=image.data,
        )

    def _numbered(self, camera: str, entry: Entry) -> FrameFacts:
        """Facts of a picture whose recorder wrote none: the next number, and the publish time."""
        stamp_ns = entry.publish_ns if entry.publish_ns < MOST_NS else entry.log_ns
        return FrameFacts(self._count.get(camera, 0), stamp_ns)

    def _read_facts(self, entry: Entry) -> FrameFacts | None:
        """The facts; None for invalid facts, whose picture is skipped."""
        try:
            return read_frame_facts(entry.data)
        except MessageError as error:
            add_problem(self._problems, f"{entry.channel.topic}: a frame is skipped: {error}")
            return None


def _is_jpeg(picture_format: str) -> bool:
    return any(name in picture_format.lower() for name in ("jpeg", "jpg"))


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


def _merged(files: Sequence[ChunkedFile], start_ns: int, end_ns: int) -> Iterator[Entry]:
    """Yields the entries of all files, sorted by log time. Opens each file when its time comes, so
    that a recording of a hundred parts has only a few files open."""
    coming = deque(files)
    heads: list[tuple[int, int, Entry, Iterator[Entry]]] = []
    number = 0
    while heads or coming:
        while coming and (not heads or _start_ns(coming[0]) <= heads[0][0]):
            entries = _entries(coming.popleft(), start_ns, end_ns)
            first = next(entries, None)
            if first is not None:
                heapq.heappush(heads, (first.log_ns, number, first, entries))
            number += 1
        if heads:
            _, file_number, entry, entries = heads[0]
            yield entry
            following = next(entries, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following.log_ns, file_number, following, entries))


def _entries(file: ChunkedFile, start_ns: int, end_ns: int) -> Iterator[Entry]:
    channels: dict[int, Channel] = {}
    for message in in_log_order(file, start_ns, end_ns):
        known = channels.get(message.channel_id)
        if known is None:
            known = channels[message.channel_id] = _channel(file, message.channel_id)
        yield Entry(known, message.log_time, message.publish_time, message.sequence, message.data)


def _check_of_one_run(files: Sequence[ChunkedFile]) -> None:
    """Raises SourceError for files of several runs: each run numbers its frames from 0, and days
    may lie between two runs."""
    first_of: dict[str, Path] = {}
    for file in files:
        first_of.setdefault(file.metadata.get(METADATA, {}).get("session", ""), file.path)
    if len(first_of) > 1:
        names = [path.name for path in first_of.values()]
        raise SourceError(
            f"{files[0].path.parent} holds {len(names)} runs, which begin with "
            f"{', '.join(names[-3:])}{' and others' if len(names) > 3 else ''}",
            fix="name one file, or "
            f"the files of a run by a pattern, such as '{files[0].path.with_suffix('')}*{SUFFIX}'",
        )


def find_recording(source: str) -> list[Path] | None:
    """The files of a recording: one file, those of a pattern, or those in a folder. None for a path
    that names no recording."""
    path = expanded(source)
    if path.suffix.lower() == SUFFIX and not path.exists() and glob.has_magic(source):
        return in_order(path.parent.glob(path.name)) or [path]
    if path.suffix.lower() == SUFFIX:
        return [path]
    if path.is_dir():
        return in_order(path.glob(f"*{SUFFIX}")) or None
    return None


def _start_ns(file: ChunkedFile) -> int:
    return min((at.start_ns for at in file.chunks), default=0)


def _camera(topic: str) -> str:
    """The camera of a topic: `front` for `/front/image` and `frames/front/`. A topic of another
    recorder becomes the camera's name, reduced to valid characters."""
    parts = [part for part in topic.split("/") if part]
    if len(parts) == 2 and topic in (f"/{parts[0]}/image", f"/{parts[0]}/annotations"):
        name = parts[0]
    else:
        name = parts[1] if topic.startswith("frames/") and len(parts) == 2 else "_".join(parts)
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip("_.-")[:MOST_NAME] or "camera"


def _name(file: ChunkedFile, schema_id: int) -> str:
    schema = file.schemas.get(schema_id)
    return "" if schema is None else schema.name


def _channel(file: ChunkedFile, channel_id: int) -> Channel:
    channel = file.channels[channel_id]
    encoding: Encoding = "protobuf" if channel.message_encoding == "protobuf" else "json"
    return Channel(channel.topic, encoding, _name(file, channel.schema_id))
