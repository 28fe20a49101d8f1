"""Grabber: the thread of one camera. It owns the source, numbers the frames, leaves them in the
mailbox, and opens a live source again for as long as it takes."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from node.capture.mailbox import Mailbox
from node.capture.source import Picture, Source, SourceFacts
from node.errors import SourceError
from node.frame import Frame

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
_UNKNOWN = SourceFacts()


@dataclass(frozen=True, slots=True)
class CaptureState:
    """What a grabber knows at one moment.

    newest_mono_ns: when the newest frame (or, before it, the source) came, CLOCK_MONOTONIC in ns.
    ended: no frame will come any more, because the file is over or `failure` says why.
    """

    open: bool = False
    ended: bool = False
    facts: SourceFacts = _UNKNOWN
    frames: int = 0
    reconnects: int = 0
    newest_mono_ns: int | None = None
    last_error: str | None = None
    failure: SourceError | None = None
    summary: str | None = None


class Grabber:
    """Captures one camera on a thread of its own.

    open_source is called on that thread. With `retry_first` a source that cannot be opened at the
    start is waited for like one that was lost; otherwise it is the grabber's `failure`.
    """

    def __init__(
        self,
        camera: str,
        open_source: Callable[[], Source],
        mailbox: Mailbox,
        stop: threading.Event,
        *,
        retry_first: bool,
    ) -> None:
        self.camera = camera
        self._open_source = open_source
        self._mailbox = mailbox
        self._stop = stop
        self._retry_first = retry_first
        self._state = CaptureState()
        self._thread = threading.Thread(target=self._run, name=f"capture-{camera}", daemon=True)

    @property
    def state(self) -> CaptureState:
        """A snapshot; replaced as a whole by the grabber's thread, so always of one piece."""
        return self._state

    def start(self) -> None:
        """Starts capturing."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread ended in time. One that hangs in a driver dies with the process."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._capture()
        except SourceError as error:
            self._note(failure=error, last_error=str(error))
        finally:
            self._note(open=False, ended=True)
            self._mailbox.close(self.camera)

    def _capture(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        opened_before = False
        while not self._stop.is_set():
            frames_before = self._state.frames
            try:
                with _as_source_error(self.camera):
                    source = self._open_source()
            except SourceError as error:
                if not (opened_before or self._retry_first):
                    raise
                self._complain(error)
            else:
                self._opened(source, again=opened_before)
                opened_before = True
                try:
                    self._read_all(source)
                    return
                except SourceError as error:
                    if not source.live:
                        raise
                    self._complain(error)
                finally:
                    source.close()
            if self._state.frames > frames_before:
                backoff_s = FIRST_BACKOFF_S
            self._stop.wait(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    def _opened(self, source: Source, *, again: bool) -> None:
        for difference in source.facts.differences:
            log.warning("camera '%s': %s", self.camera, difference)
        if again:
            log.info("camera '%s' is open again", self.camera)
        self._note(
            open=True,
            facts=source.facts,
            reconnects=self._state.reconnects + again,
            newest_mono_ns=time.monotonic_ns(),
        )

    def _read_all(self, source: Source) -> None:
        while not self._stop.is_set():
            with _as_source_error(self.camera):
                picture = source.read()
            if picture is None:
                self._note(summary=source.summary())
                return
            epoch = self._state.reconnects + picture.lap
            frame = number(picture, self.camera, self._state.frames, epoch)
            self._note(frames=frame.frame_id + 1, newest_mono_ns=time.monotonic_ns())
            self._mailbox.put(frame)

    def _complain(self, error: SourceError) -> None:
        if str(error) != self._state.last_error or self._state.open:
            log.warning("%s; trying again", error)
        self._note(open=False, last_error=str(error))

    def _note(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)


@contextlib.contextmanager
def _as_source_error(camera: str) -> Iterator[None]:
    """Whatever a driver or decoder raises costs this camera, and nothing else."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"camera '{camera}' failed: {type(error).__name__}: {error}") from error


def number(picture: Picture, camera: str, frame_id: int, epoch: int = 0) -> Frame:
    """The frame that a picture is once it has its number."""
    return Frame(
        image=picture.image,
        camera=camera,
        frame_id=frame_id,
        stamp=picture.stamp,
        media_ns=picture.media_ns,
        capture_ns=picture.capture_ns,
        file=picture.file,
        epoch=epoch,
    )
