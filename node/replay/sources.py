"""ReplaySource: the frames of a replay, from a video, a folder of pictures or a recording."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from node.capture.grabber import number
from node.capture.sources.base import Incomplete, Skips
from node.capture.sources.open import open_source
from node.config.redact import redacted
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.frame import Frame, Stamp
from node.recording.frames import RecordedFrame
from node.recording.reader import Recording

log = logging.getLogger(__name__)

_STEP_NS = 33_333_333
"""Time between the laps of a source with a single frame: 30 a second."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a source: positions in seconds from its beginning. It excludes `end_s`; None means
    the source's end."""

    start_s: float = 0.0
    end_s: float | None = None

    @property
    def start_ns(self) -> int:
        """The first position, in ns."""
        return round(self.start_s * 1e9)

    def is_over(self, media_ns: int) -> bool:
        """Whether a position, in ns, lies behind the span."""
        return self.end_s is not None and media_ns >= round(self.end_s * 1e9)

    def shows_nothing(self, source: str) -> SourceError:
        """The error of a source without a frame in the span."""
        end = "its end" if self.end_s is None else f"{self.end_s:g} s"
        return SourceError(f"{source}: there is no frame to show from {self.start_s:g} s to {end}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame to label."""

    frame: Frame
    dropped: int = 0
    """Frames of its camera that the original run dropped before it."""


class ReplaySource(Protocol):
    """Frames in order, of one camera or several. Each call of `frames` starts again."""

    def frames(self) -> Iterator[Shown]:
        """Yields the frames from the beginning. Raises SourceError."""
        ...

    @property
    def skipped(self) -> str | None:
        """What was skipped and why, in words, after `frames`; None where everything was read."""
        ...

    def summary(self) -> tuple[str, ...]:
        """The amount read, and the problems, in words."""
        ...


class FileReplay:
    """A video or pictures, replayed as one camera."""

    def __init__(self, camera: CameraConfig, span: Span) -> None:
        self._camera = camera
        self._span = span
        self._summary: str | None = None
        self._skipped: str | None = None

    def frames(self) -> Iterator[Shown]:
        """Yields the frames of the span; skips earlier frames without decoding, if the source can.
        Raises SourceError, also for a span without a frame."""
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
            self._skipped = source.skipped if isinstance(source, Incomplete) else None
            source.close()
        if empty and self.skipped is not None:
            raise SourceError(f"{redacted(self._camera.source)}: {self.skipped}")
        if empty:
            raise self._span.shows_nothing(redacted(self._camera.source))

    @property
    def skipped(self) -> str | None:
        """As `ReplaySource.skipped`."""
        return self._skipped

    def summary(self) -> tuple[str, ...]:
        """The amount read; empty before the source's end."""
        return () if self._summary is None else (self._summary,)


class RecordingReplay:
    """A recording.

    Args:
        recording: its files.
        span: the part to label.
        as_recorded: label only the frames that were labelled in the original run.

    Raises SourceError with `as_recorded` for a recording without labels.
    """

    def __init__(self, recording: Recording, span: Span, *, as_recorded: bool) -> None:
        self._recording = recording
        self._span = span
        self._read = self._damaged = self._lost = 0
        self._as_recorded = as_recorded
        if as_recorded and not recording.holds("perception.labels"):
            raise SourceError(
                f"{recording.paths[0]} holds no labels",
                fix="leave out --as-recorded to label every frame",
            )

    def frames(self) -> Iterator[Shown]:
        """Yields the frames of the span; skips and counts damaged pictures. Raises SourceError,
        also for a span without a frame."""
        dropped: dict[str, int] = {}
        empty = True
        for recorded, was_labelled in self._all():
            if self._span.is_over(recorded.media_ns):
                break
            camera = recorded.camera
            self._lost += recorded.lost_before
            if not was_labelled:
                dropped[camera] = dropped.get(camera, 0) + 1
                continue
            try:
                frame = recorded.frame()
            except PictureError as error:
                self._damaged += 1
                log.warning("camera '%s', frame %d: %s; skipped", camera, recorded.frame_id, error)
                continue
            self._read += 1
            empty = False
            yield Shown(frame, dropped.pop(camera, 0))
        if empty:
            source = f"{self._recording.paths[0]} ({self._recording.length_s:.1f} s)"
            raise self._span.shows_nothing(source)

    def _all(self) -> Iterator[tuple[RecordedFrame, bool]]:
        """The frames from the span's start, and whether each is to be labelled."""
        if self._as_recorded:
            for frame, labels in self._recording.labelled_frames(self.start_ns):
                yield frame, labels is not None
        else:
            for frame in self._recording.frames(self.start_ns):
                yield frame, True

    @property
    def skipped(self) -> str | None:
        """As `ReplaySource.skipped`. Ends of files that were cut off are missing, not skipped."""
        losses = self._recording.losses
        if not self._damaged and not losses:
            return None
        more = f", and {len(losses) - 1} more" if len(losses) > 1 else ""
        damaged = f"{self._damaged} damaged frames" if self._damaged else "parts of the recording"
        return f"{damaged} skipped" + (f": {losses[0]}{more}" if losses else "")

    def summary(self) -> tuple[str, ...]:
        """The amount read, the skipped and lost frames, and the recording's problems."""
        names = ", ".join(str(path) for path in self._recording.paths[:3])
        skipped = f", {self._damaged} damaged frames skipped" if self._damaged else ""
        lost = f"; {self._lost} were lost while recording" if self._lost else ""
        changes = self._recording.settings_changed_after(self.start_ns)
        changed = (
            f"{names}: its settings changed {changes} times during the recording, and none changes "
            "during a replay",
        )
        return (
            f"{names}: {self._read} frames read{skipped}{lost}",
            *(changed if changes else ()),
            *self._recording.problems,
        )

    @property
    def start_ns(self) -> int:
        """Log time of the beginning of the span."""
        return self._recording.start_ns + self._span.start_ns


def looped(frames: Callable[[], Iterator[Shown]]) -> Iterator[Shown]:
    """Yields one lap after another, without end. Frame numbers and times keep growing, and each lap
    starts a new scene (`Frame.epoch`). Ends only after a lap without a frame."""
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
