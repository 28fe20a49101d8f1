"""Recording: what was recorded, read back: frames, messages, the configuration. One file, or all
the parts of a folder."""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError

from node.errors import MessageError, SourceError
from node.frame import Clock, Frame, Image, Stamp
from node.jpeg import decode_jpeg
from node.recording.chunks import ChunkedFile, in_log_order, open_chunked
from node.recording.entry import Channel, Encoding, Entry
from node.recording.folder import SUFFIX
from node.wire.codec import from_map
from node.wire.messages import LabelsMessage, Message, MessageKind, Status

FOREVER_NS = 1 << 63
_IMAGE = "foxglove.CompressedImage"
_FRAME = "perception.frame"


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

    Raises SourceError where a file is no recording, or nothing in it can be read. What of it cannot
    be read later is left out, and said in `problems`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._files = sorted((open_chunked(path) for path in paths), key=_start_ns)
        if not self.cameras:
            topics = sorted({x.topic for file in self._files for x in file.channels.values()})
            raise SourceError(
                f"{paths[0]} holds no pictures ({_IMAGE}); its topics: "
                f"{', '.join(topics[:10]) or 'none'}"
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
        first = next(self._images(0, FOREVER_NS), None)
        if first is None:
            raise SourceError(f"{self.paths[0]} holds no picture that can be read")
        return first[1].log_ns

    @property
    def end_ns(self) -> int:
        """Log time of the last record."""
        return max(at.end_ns for file in self._files for at in file.chunks)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be read so far, in words."""
        return tuple(problem for file in self._files for problem in file.problems)

    def entries(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[Entry]:
        """All records of [start_ns, end_ns), by log time."""
        for file in self._files:
            channels: dict[int, Channel] = {}
            for message in in_log_order(file, start_ns, end_ns):
                known = channels.get(message.channel_id)
                if known is None:
                    known = channels[message.channel_id] = _channel(file, message.channel_id)
                yield Entry(
                    known, message.log_time, message.publish_time, message.sequence, message.data
                )

    def frames(self, start_ns: int = 0, end_ns: int = FOREVER_NS) -> Iterator[RecordedFrame]:
        """The frames of all cameras in the order in which they were captured."""
        count: dict[str, int] = {}
        first_ns = self.start_ns
        for told, entry, jpeg in self._images(start_ns, end_ns):
            camera = _camera(entry.channel.topic)
            frame_id = told.get("frame_id", count.get(camera, 0))
            count[camera] = frame_id + 1
            yield RecordedFrame(
                camera=camera,
                frame_id=frame_id,
                log_ns=entry.log_ns,
                media_ns=entry.log_ns - first_ns,
                stamp_ns=told.get("stamp_ns", entry.publish_ns),
                clock=told.get("clock"),
                epoch=told.get("epoch", 0),
                lost_before=told.get("lost_before", 0),
                jpeg=jpeg,
            )

    def _images(self, start_ns: int, end_ns: int) -> Iterator[tuple[dict[str, Any], Entry, bytes]]:
        """Of each picture what is told of it (nothing by other recorders), and its JPEG."""
        facts: dict[str, dict[str, Any]] = {}
        for entry in self.entries(start_ns, end_ns):
            camera = _camera(entry.channel.topic)
            if entry.channel.name == _FRAME:
                facts[camera] = _map(entry.data)
            elif entry.channel.name == _IMAGE and entry.channel.encoding == "protobuf":
                try:
                    image = CompressedImage.FromString(entry.data)
                except DecodeError:
                    self._files[0].problems.append(f"{entry.channel.topic}: a picture is damaged")
                    continue
                yield facts.pop(camera, {}), entry, image.data

    def messages(
        self, *kinds: MessageKind, start_ns: int = 0, end_ns: int = FOREVER_NS
    ) -> Iterator[tuple[int, Message]]:
        """The messages that went out, with their log times; of some kinds, or of all."""
        names = {
            f"perception.{kind}": kind for kind in kinds or ("labels", "events", "health", "info")
        }
        for entry in self.entries(start_ns, end_ns):
            kind = names.get(entry.channel.name)
            if kind is not None:
                try:
                    yield entry.log_ns, from_map(kind, _map(entry.data))
                except MessageError as error:
                    self._files[0].problems.append(
                        f"{self.paths[0]}: a message is left out: {error}"
                    )

    def labelled(self) -> frozenset[tuple[str, int]]:
        """Camera and frame_id of each frame that was labelled when this was recorded."""
        return frozenset(
            (message.camera, message.frame_id)
            for _, message in self.messages("labels")
            if isinstance(message, LabelsMessage)
            and message.status is Status.OK
            and message.frame_id is not None
        )

    def configuration(self) -> dict[str, Any] | None:
        """The newest configuration that was in force, None where none was recorded."""
        newest = None
        for entry in self.entries():
            if entry.channel.name == "perception.config":
                newest = _map(entry.data).get("config")
        return newest


def find_recording(source: str) -> list[Path] | None:
    """The files of a recording that a path names: one file, or a folder that holds some; None where
    it names none."""
    path = Path(source).expanduser()
    if path.suffix.lower() == SUFFIX:
        return [path]
    if path.is_dir():
        return sorted(path.glob(f"*{SUFFIX}")) or None
    return None


def _start_ns(file: ChunkedFile) -> int:
    return min((at.start_ns for at in file.chunks), default=0)


def _camera(topic: str) -> str:
    """`/front/image` and `frames/front/` are of the camera `front`; a topic of somebody else's is
    the camera's name."""
    parts = [part for part in topic.split("/") if part]
    if len(parts) == 2 and topic in (f"/{parts[0]}/image", f"/{parts[0]}/annotations"):
        return parts[0]
    return parts[1] if topic.startswith("frames/") and len(parts) == 2 else "_".join(parts)


def _name(file: ChunkedFile, schema_id: int) -> str:
    schema = file.schemas.get(schema_id)
    return "" if schema is None else schema.name


def _channel(file: ChunkedFile, channel_id: int) -> Channel:
    channel = file.channels[channel_id]
    encoding: Encoding = "protobuf" if channel.message_encoding == "protobuf" else "json"
    return Channel(channel.topic, encoding, _name(file, channel.schema_id))


def _map(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
