"""Recording: what was recorded, read back: frames, messages, the configuration. One file, or all
the parts of a folder."""

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
"""Letters of a camera's name."""
_MOST_AT_ONCE = 10_000
"""Records of one moment that are held against each other."""
_MOST_LATE_NS = 10_000_000_000
"""How long after its capture a frame's labels may come: no inference that is waited for takes
longer (model.inference_timeout_s), but where it is raised."""


@dataclass(frozen=True, slots=True)
class RecordedFrame:
    """A frame as it was recorded, not decoded yet.

    log_ns: when, on the recording's clock; media_ns: since the recording's beginning. The rest as
    in `Frame`. lost_before: frames of its camera that the recorder could not take before it.
    """

    camera: str
    frame_id: int
    log_ns: int
    media_ns: int
    stamp_ns: int | None
    clock: Clock | None
    epoch: int
    lost_before: int
    jpeg: bytes

    def image(self) -> Image:
        """[height, width, 3] uint8 BGR. Raises PictureError where the bytes are damaged."""
        return decode_jpeg(self.jpeg)

    def frame(self) -> Frame:
        """The frame as a replay labels it: its stamp is the recording's."""
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
    """Open files of one recording, in the order of their times.

    Raises SourceError where a file is no recording, nothing in it can be read, or the files are of
    several runs. What cannot be read later is left out, and said in `problems`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._files = sorted((open_chunked(path) for path in paths), key=_start_ns)
        self._problems: list[str] = []
        _check_of_one_run(self._files)
        if not self.cameras:
            topics = sorted({x.topic for file in self._files for x in file.channels.values()})
            why = "".join(f"; {problem}" for problem in self.problems[:2])
            raise SourceError(
                f"{paths[0]} holds no pictures ({_IMAGE}); its topics: "
                f"{', '.join(topics[:10]) or 'none'}{why}"
            )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras whose frames there are, sorted."""
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
        """Log time of the first frame: what comes before it tells of a model that was loading."""
        reader = _FrameReader(0, self._problems)
        for entry in self.entries():
            frame = reader.take(entry)
            if frame is not None:
                return frame.log_ns
        why = "".join(f"; {problem}" for problem in self.problems[:2])
        raise SourceError(f"{self.paths[0]} holds no picture that can be read{why}")

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
        """What could not be read so far, in words."""
        of_files = (problem for file in self._files for problem in file.problems)
        return (*of_files, *self._problems)

    def entries(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[Entry]:
        """All records of [start_ns, end_ns), by log time. What is in two files, such as a part and
        a black box of the same time, comes once."""
        at_ns = -1
        seen: set[tuple[str, int, int]] = set()
        for entry in _merged(self._files, start_ns, end_ns):
            if entry.log_ns != at_ns or len(seen) >= _MOST_AT_ONCE:
                at_ns = entry.log_ns
                seen.clear()
            which = (entry.channel.topic, entry.sequence, hash(entry.data))
            if which not in seen:
                seen.add(which)
                yield entry

    def frames(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[RecordedFrame]:
        """The frames of all cameras in the order in which they were captured."""
        reader = self._frame_reader()
        for entry in self.entries(start_ns, end_ns):
            frame = reader.take(entry)
            if frame is not None:
                yield frame

    def labelled_frames(
        self, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[RecordedFrame, LabelsMessage | None]]:
        """As `frames`, each with what was seen in it; None where it was not labelled. What waits in
        memory are the frames whose labels may still come."""
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
        yield from (one.both for one in waiting)

    def _frame_reader(self) -> "_FrameReader":
        return _FrameReader(self.start_ns, self._problems)

    def messages(
        self, *kinds: MessageKind, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[int, Message]]:
        """The messages that went out, with their log times; of some kinds, or of all."""
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
            add_problem(self._problems, f"{entry.channel.topic}: a message is left out: {error}")
            return None

    @property
    def has_labels(self) -> bool:
        """Whether messages of labels were recorded."""
        return any(
            _name(file, channel.schema_id) == _LABELS
            for file in self._files
            for channel in file.channels.values()
        )

    def configuration(self) -> dict[str, Any] | None:
        """The newest configuration that was in force, None where none was recorded."""
        newest = None
        for entry in self.entries():
            if entry.channel.name != "perception.config":
                continue
            try:
                newest = read_configuration(entry.data)
            except MessageError as error:
                told = f"{entry.channel.topic}: a configuration is left out: {error}"
                add_problem(self._problems, told)
        return newest


class _FrameReader:
    """Makes frames of entries, as they come by log time."""

    def __init__(self, first_ns: int, problems: list[str]) -> None:
        self._first_ns = first_ns
        self._problems = problems
        self._facts: dict[str, FrameFacts | None] = {}
        self._count: dict[str, int] = {}

    def take(self, entry: Entry) -> RecordedFrame | None:
        """The frame whose picture this is, None for all other entries. Other recorders tell nothing
        of a picture; those are counted."""
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
        facts = self._facts.pop(camera, self._counted(camera, entry))
        if facts is None:  # which frame that was is not known
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

    def _counted(self, camera: str, entry: Entry) -> FrameFacts:
        """Of a picture of which its recorder tells nothing."""
        stamp_ns = entry.publish_ns if entry.publish_ns < MOST_NS else entry.log_ns
        return FrameFacts(self._count.get(camera, 0), stamp_ns)

    def _read_facts(self, entry: Entry) -> FrameFacts | None:
        """None where they do not fit: their picture is left out."""
        try:
            return read_frame_facts(entry.data)
        except MessageError as error:
            add_problem(self._problems, f"{entry.channel.topic}: a frame is left out: {error}")
            return None


def _is_jpeg(picture_format: str) -> bool:
    return any(name in picture_format.lower() for name in ("jpeg", "jpg"))


@dataclass(slots=True)
class _Waiting:
    """A frame whose labels have not come yet. passed: those of a later one have."""

    frame: RecordedFrame
    message: LabelsMessage | None = None
    passed: bool = False

    def is_decided(self, now_ns: int) -> bool:
        return self.passed or now_ns - self.frame.log_ns > _MOST_LATE_NS

    @property
    def both(self) -> tuple[RecordedFrame, LabelsMessage | None]:
        return self.frame, self.message


def _give(waiting: Iterable[_Waiting], message: LabelsMessage) -> None:
    """A camera's frames are labelled in their order: those before this one never will be."""
    if message.frame_id is None:  # of somebody else's making: it says of no frame what is in it
        return
    for one in waiting:
        if one.frame.camera == message.camera and one.frame.frame_id <= message.frame_id:
            one.passed = True
            if one.frame.frame_id == message.frame_id:
                one.message = message


def _merged(files: Sequence[ChunkedFile], start_ns: int, end_ns: int) -> Iterator[Entry]:
    """The entries of all files by log time. A file is opened when its time has come: a recording of
    a hundred parts has a few open at once."""
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
            _, place, entry, entries = heads[0]
            yield entry
            after = next(entries, None)
            if after is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (after.log_ns, place, after, entries))


def _entries(file: ChunkedFile, start_ns: int, end_ns: int) -> Iterator[Entry]:
    channels: dict[int, Channel] = {}
    for message in in_log_order(file, start_ns, end_ns):
        known = channels.get(message.channel_id)
        if known is None:
            known = channels[message.channel_id] = _channel(file, message.channel_id)
        yield Entry(known, message.log_time, message.publish_time, message.sequence, message.data)


def _check_of_one_run(files: Sequence[ChunkedFile]) -> None:
    """Frames are numbered within a run, and between two runs may lie days."""
    first_of: dict[str, Path] = {}
    for file in files:
        first_of.setdefault(file.metadata.get(METADATA, {}).get("session", ""), file.path)
    if len(first_of) > 1:
        names = [path.name for path in first_of.values()]
        raise SourceError(
            f"{files[0].path.parent} holds {len(names)} runs, which begin with "
            f"{', '.join(names[-3:])}{' and others' if len(names) > 3 else ''}; name one file, or "
            f"the files of a run by a pattern, such as '{files[0].path.with_suffix('')}*{SUFFIX}'"
        )


def find_recording(source: str) -> list[Path] | None:
    """The files of a recording that a path names: one file, a pattern, or a folder that holds some;
    None where it names none."""
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
    """`/front/image` and `frames/front/` are of the camera `front`; a topic of somebody else's is
    the camera's name, as far as a camera can be called so."""
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
