"""RecordedFrame: a frame of a recording. FrameReader: combines the records that belong to it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from node.errors import MessageError, SourceError
from node.image.frame import Clock, Frame, Image, Stamp
from node.recording.facts import FrameFacts, read_frame_facts
from node.recording.picture_forms import Picture
from node.recording.pictures import PictureReader, UnsupportedPictureError, kind_of
from node.recording.records import FRAME
from perception_client.recordings.facts import MOST_NS
from perception_client.recordings.mcap_file import add_problem
from perception_client.recordings.records import Channel, Entry

MOST_NAME = 64
"""Most characters of a camera's name."""


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
    picture: Picture

    @property
    def jpeg(self) -> bytes:
        """The frame as JPEG. Raises PictureError for a damaged one of another form."""
        return self.picture.jpeg()

    def image(self) -> Image:
        """Decodes the frame: [height, width, 3] uint8 BGR. Raises PictureError for damaged
        bytes."""
        return self.picture.image()

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


class FrameReader:
    """Combines the entries of each frame, in the order of their log times.

    Args:
        first_ns: log time of the first frame.
        path: of the recording, for errors.
        cameras: names of the cameras that are read, by topic.
        problems: the list that unreadable frames are added to.
    """

    def __init__(
        self, first_ns: int, path: Path, cameras: dict[str, str], problems: list[str]
    ) -> None:
        self._first_ns = first_ns
        self._path = path
        self._cameras = cameras
        self._problems = problems
        self._readers: dict[Channel, PictureReader] = {}
        self._facts: dict[str, FrameFacts | None] = {}
        self._count: dict[str, int] = {}

    def take(self, entry: Entry) -> RecordedFrame | None:
        """The frame of a picture's entry; None for any other entry. Pictures of other recorders,
        which come without facts, are numbered here. Raises SourceError for pictures in a form that
        is not supported."""
        if entry.channel.name == FRAME:
            self._facts[camera_of(entry.channel.topic)] = self._read_facts(entry)
            return None
        camera = self._cameras.get(entry.channel.topic)
        if camera is None or kind_of(entry.channel.name) is None:
            return None
        picture = self._read_picture(entry)
        if camera in self._facts:
            facts = self._facts.pop(camera)
            if facts is None:  # the frame's number is unknown
                return None
        else:
            facts = self._numbered(camera, entry, None if picture is None else picture[1])
        self._count[camera] = facts.frame_id + 1
        if picture is None:
            return None
        return RecordedFrame(
            camera=camera,
            frame_id=facts.frame_id,
            log_ns=entry.log_ns,
            media_ns=entry.log_ns - self._first_ns,
            stamp_ns=facts.stamp_ns,
            clock=facts.clock,
            epoch=facts.epoch,
            lost_before=facts.lost_before,
            picture=picture[0],
        )

    def _read_picture(self, entry: Entry) -> tuple[Picture, int | None] | None:
        """The picture and its own stamp; None for a damaged record."""
        try:
            reader = self._readers.get(entry.channel)
            if reader is None:
                reader = self._readers[entry.channel] = PictureReader(entry.channel)
            return reader.read(entry.data)
        except MessageError as error:
            add_problem(self._problems, f"{entry.channel.topic}: a picture is skipped: {error}")
            return None
        except UnsupportedPictureError as error:
            others = sorted(set(self._cameras.values()) - {self._cameras[entry.channel.topic]})
            raise SourceError(
                f"{self._path}: {entry.channel.topic}: pictures of this form are not supported "
                f"({error.form})",
                fix=f"name the cameras to read with --camera: {', '.join(others)}"
                if others
                else "convert them to JPEG",
            ) from None

    def _numbered(self, camera: str, entry: Entry, stamp_ns: int | None) -> FrameFacts:
        """Facts of a picture whose recorder wrote none: the next number, and the time that the
        picture contains, or else that of its record."""
        stamps = (stamp_ns, entry.publish_ns or None, entry.log_ns)
        known = next((stamp for stamp in stamps if stamp is not None and stamp < MOST_NS), None)
        return FrameFacts(self._count.get(camera, 0), known)

    def _read_facts(self, entry: Entry) -> FrameFacts | None:
        """The facts; None for invalid facts, whose picture is skipped."""
        try:
            return read_frame_facts(entry.data)
        except MessageError as error:
            add_problem(self._problems, f"{entry.channel.topic}: a frame is skipped: {error}")
            return None


def cameras_of(channels: Iterable[Channel]) -> dict[str, str]:
    """The camera of each topic with pictures. Topics whose names differ only in characters that a
    camera's name cannot have get a number."""
    topics = {channel.topic for channel in channels if kind_of(channel.name) is not None}
    cameras: dict[str, str] = {}
    for topic in sorted(topics):
        name, number = camera_of(topic), 1
        while name in cameras.values():
            number += 1
            ending = f"_{number}"
            name = camera_of(topic)[: MOST_NAME - len(ending)] + ending
        cameras[topic] = name
    return cameras


def camera_of(topic: str) -> str:
    """The camera of a topic: `front` for `/front/image` and `frames/front/`. A topic of another
    recorder becomes the camera's name, reduced to valid characters."""
    parts = [part for part in topic.split("/") if part]
    if len(parts) == 2 and topic in (f"/{parts[0]}/image", f"/{parts[0]}/annotations"):
        name = parts[0]
    else:
        name = parts[1] if topic.startswith("frames/") and len(parts) == 2 else "_".join(parts)
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip("_.-")[:MOST_NAME] or "camera"
