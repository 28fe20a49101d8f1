"""ReplaySource: the frames of a replay: those of a video, a folder of pictures or a recording."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from node.capture.grabber import number
from node.capture.sources.base import Skips
from node.capture.sources.open import open_source
from node.config.redact import redacted
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.frame import Frame, Stamp
from node.recording.reader import RecordedFrame, Recording

log = logging.getLogger(__name__)

_STEP_NS = 33_333_333
"""Between the laps of footage of a single frame."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which part: positions in seconds from the beginning, `end_s` excluded, None for the end."""

    start_s: float = 0.0
    end_s: float | None = None

    @property
    def start_ns(self) -> int:
        """The first position."""
        return round(self.start_s * 1e9)

    def is_over(self, media_ns: int) -> bool:
        """Whether a position lies behind it."""
        return self.end_s is not None and media_ns >= round(self.end_s * 1e9)

    def shows_nothing(self, what: str) -> SourceError:
        """The error of footage without a frame in this part."""
        end = "its end" if self.end_s is None else f"{self.end_s:g} s"
        return SourceError(f"{what}: there is no frame to show from {self.start_s:g} s to {end}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame that is to be labelled. dropped: frames of its camera left out before it."""

    frame: Frame
    dropped: int = 0


class ReplaySource(Protocol):
    """Frames in order, of one camera or several, as often as `frames` is called."""

    def frames(self) -> Iterator[Shown]:
        """From the beginning. Raises SourceError."""
        ...

    def summary(self) -> tuple[str, ...]:
        """What was really read, and what could not be, in words."""
        ...


class FileReplay:
    """A video or pictures, as one camera."""

    def __init__(self, camera: CameraConfig, span: Span) -> None:
        self._camera = camera
        self._span = span
        self._summary: str | None = None

    def frames(self) -> Iterator[Shown]:
        """From the beginning of the span; the frames before it are passed over undecoded where the
        source can."""
        source = open_source(self._camera)
        empty = True
        try:
            sizes: tuple[int, int] | None = None
            epoch = 0
            frame_id = source.skip_to(self._span.start_ns) if isinstance(source, Skips) else 0
            while (picture := source.read()) is not None:
                media_ns = picture.media_ns or 0
                if self._span.is_over(media_ns):
                    break
                if media_ns < self._span.start_ns:
                    frame_id += 1
                    continue
                size = picture.image.shape[:2]
                epoch += sizes is not None and sizes != size
                sizes = size
                empty = False
                yield Shown(number(picture, self._camera.name, frame_id, epoch))
                frame_id += 1
            else:
                self._summary = source.summary()
        finally:
            source.close()
        if empty:
            raise self._span.shows_nothing(redacted(self._camera.source))

    def summary(self) -> tuple[str, ...]:
        """What was read, where it was read to its end."""
        return () if self._summary is None else (self._summary,)


class RecordingReplay:
    """A recording. as_recorded: only the frames that were labelled when it was made."""

    def __init__(self, recording: Recording, span: Span, *, as_recorded: bool) -> None:
        self._recording = recording
        self._span = span
        self._read = self._damaged = self._lost = 0
        self._as_recorded = as_recorded
        if as_recorded and not recording.has_labels:
            raise SourceError(
                f"{recording.paths[0]} holds no labels, so nothing is to be shown as recorded"
            )

    def frames(self) -> Iterator[Shown]:
        """From the beginning of the span; a picture that is damaged is left out and counted."""
        skipped: dict[str, int] = {}
        empty = True
        for recorded, wanted in self._all():
            if self._span.is_over(recorded.media_ns):
                break
            camera = recorded.camera
            self._lost += recorded.lost_before
            if not wanted:
                skipped[camera] = skipped.get(camera, 0) + 1
                continue
            try:
                frame = recorded.frame()
            except PictureError as error:
                self._damaged += 1
                log.warning("camera '%s', frame %d: %s; left out", camera, recorded.frame_id, error)
                continue
            self._read += 1
            empty = False
            yield Shown(frame, skipped.pop(camera, 0))
        if empty:
            what = f"{self._recording.paths[0]} ({self._recording.length_s:.1f} s)"
            raise self._span.shows_nothing(what)

    def _all(self) -> Iterator[tuple[RecordedFrame, bool]]:
        """The frames of the span, and whether each is to be labelled."""
        start_ns = self._recording.start_ns + self._span.start_ns
        if self._as_recorded:
            for frame, labels in self._recording.labelled_frames(start_ns):
                yield frame, labels is not None
        else:
            for frame in self._recording.frames(start_ns):
                yield frame, True

    def summary(self) -> tuple[str, ...]:
        """What was read, and what is missing."""
        names = ", ".join(str(path) for path in self._recording.paths[:3])
        left_out = f", {self._damaged} damaged ones left out" if self._damaged else ""
        lost = f"; {self._lost} were lost while recording" if self._lost else ""
        return (f"{names}: {self._read} frames read{left_out}{lost}", *self._recording.problems)


def open_replay_source(
    camera: CameraConfig, recording: list[Path] | None, span: Span, *, as_recorded: bool
) -> ReplaySource:
    """What a source names. Raises SourceError."""
    if recording is not None:
        return RecordingReplay(Recording(recording), span, as_recorded=as_recorded)
    return FileReplay(camera, span)


def looped(frames: Callable[[], Iterator[Shown]]) -> Iterator[Shown]:
    """One lap after the other for ever; numbers and times go on growing, and each lap is another
    scene. Ends where a lap shows nothing."""
    ids: dict[str, int] = {}
    shift_ns = epochs = 0
    while True:
        first_ns = last_ns = step_ns = None
        ids_of_lap: dict[str, int] = {}
        most_epochs = 0
        for shown in frames():
            frame = shown.frame
            media_ns = frame.media_ns or 0
            first_ns = media_ns if first_ns is None else first_ns
            step_ns = _STEP_NS if last_ns is None else max(media_ns - last_ns, 1)
            last_ns = media_ns
            ids_of_lap[frame.camera] = frame.frame_id + 1
            most_epochs = max(most_epochs, frame.epoch + 1)
            yield dataclasses.replace(
                shown, frame=_later(frame, shift_ns, ids.get(frame.camera, 0), epochs)
            )
        if first_ns is None or last_ns is None or step_ns is None:
            return
        shift_ns += last_ns - first_ns + step_ns
        epochs += most_epochs
        for camera, count in ids_of_lap.items():
            ids[camera] = ids.get(camera, 0) + count


def _later(frame: Frame, shift_ns: int, ids: int, epochs: int) -> Frame:
    stamp = frame.stamp
    return dataclasses.replace(
        frame,
        frame_id=frame.frame_id + ids,
        epoch=frame.epoch + epochs,
        media_ns=None if frame.media_ns is None else frame.media_ns + shift_ns,
        stamp=None if stamp is None else Stamp(stamp.unix_ns + shift_ns, None, "media"),
    )
