"""Grabber: captures one camera on its own thread. Owns the source, numbers the frames, puts them
into the mailbox, and reopens a live source until that succeeds."""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from node.capture.cadence import Cadence
from node.capture.frozen import FrozenDetector, period_s
from node.capture.mailbox import FrameSink
from node.capture.rate import RateLimit
from node.capture.reopening import Reopening
from node.capture.sources.base import FallsShort, Incomplete, Picture, Source, SourceFacts
from node.capture.sources.presence import Presence
from node.config.redact import hidden
from node.config.schema import CameraConfig
from node.errors import BacklogError, PictureError, SourceError
from node.image.frame import Frame
from node.process.awake import AwakeClock
from node.process.log_limit import LimitedLog

log = logging.getLogger(__name__)

REOPEN_AFTER_S = 5.0
"""Seconds without a valid new picture, and at least the stall time, after which a source that still
delivers is reopened."""
_BACKLOG_FACTOR = 3
"""Multiple of that time for a stream whose pictures are all old: the rhythm of a stream that comes
in bursts takes a few bursts to learn."""
HUNG_AFTER_S = 12.0
"""Seconds, plus one period of the source, that one call of the source may take before its thread is
abandoned. OpenCV's own timeouts are 10 s for streams and for V4L2."""
_STALL_PERIODS = 2
"""Periods of a slow source without a new picture that make it `stalled`."""
MOST_HUNG = 4
"""Threads of one camera that may hang in a driver at once. At this limit no new thread starts until
one of them returns."""
_UNKNOWN = SourceFacts()
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class CaptureState:
    """Immutable snapshot of a grabber.

    Attributes:
        open: the source is open.
        ended: no further frame will come, because the file ended or because of `failure`.
        facts: size, rate and format of the source.
        frames: number of frames so far, dropped ones included.
        corrupt: pictures that could not be decoded.
        repeated: pictures that repeated an earlier one.
        reconnects: how often the source was reopened.
        newest_mono_ns: arrival of the newest frame, or the opening of the source before the first
            frame, CLOCK_MONOTONIC in ns. Reopening does not change it.
        last_error: the newest problem, in words.
        failure: why no further frame will come; None at the end of a file.
        summary: of a source that ended, what was read, in words.
        skipped: of a source that ended, what could not be read, in words; None for nothing.
    """

    open: bool = False
    ended: bool = False
    facts: SourceFacts = _UNKNOWN
    frames: int = 0
    corrupt: int = 0
    repeated: int = 0
    reconnects: int = 0
    newest_mono_ns: int | None = None
    last_error: str | None = None
    failure: SourceError | None = None
    summary: str | None = None
    skipped: str | None = None


class _Worker:
    """A capture thread of one camera. Only the current worker may change the grabber's state.

    Attributes:
        entered_ns: start of the call of the source in progress, in awake time; None outside such
            calls.
        source: the open source.
        thread: the thread itself.
    """

    def __init__(self) -> None:
        self.entered_ns: int | None = None
        self.source: Source | None = None
        self.thread: threading.Thread | None = None


class Grabber:
    """Captures one camera on its own thread. A thread that hangs in its driver is abandoned: a new
    thread takes its place, and every later result of the abandoned thread is discarded.

    Args:
        config: the camera.
        open_source: opens the source; called on the capture thread.
        mailbox: receives the frames.
        stop: ends the capture when set.
        retry_first: whether opening is retried until it succeeds for the first time (`at_start =
            "wait"`). Otherwise the error of the first opening becomes `failure`.
        hung_after_s: see HUNG_AFTER_S.
        limit: which frames the source delivers; None: as configured.
        awake: clock that excludes suspension and standstill of this process. After a standstill a
            live source is reopened, because the age of the buffered pictures is unknown.
        presence: how to look for the camera while it is away; called on each capture thread. None:
            only attempts to open the source can find it.
    """

    def __init__(
        self,
        config: CameraConfig,
        open_source: Callable[[], Source],
        mailbox: FrameSink,
        stop: threading.Event,
        *,
        retry_first: bool,
        hung_after_s: float = HUNG_AFTER_S,
        limit: RateLimit | None = None,
        awake: AwakeClock | None = None,
        presence: Callable[[], Presence | None] = lambda: None,
    ) -> None:
        self._config = config
        self._open_source = open_source
        self._presence = presence
        self._mailbox = mailbox
        self._stop = stop
        self._retry_first = retry_first
        self._hung_after_s = hung_after_s
        self._limit = limit or RateLimit(config.max_fps)
        self._awake = awake or AwakeClock()
        self._state = CaptureState()
        self._lock = threading.Lock()
        self._worker = _Worker()
        self._abandoned: list[_Worker] = []
        self._opened_before = False
        self._opened_ns = 0
        self._live = False
        self._epoch = -1
        # Shared by all workers: a reopened camera may still be frozen.
        self._frozen_detector = FrozenDetector()
        self._cadence = Cadence()
        self._log = LimitedLog(log)

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self._config.name

    @property
    def state(self) -> CaptureState:
        """The newest snapshot; replaced as a whole, so its fields are always consistent. Any thread
        may read it."""
        return self._state

    @property
    def failure(self) -> SourceError | None:
        """Why no further frame will come; None while frames may come, and at the end of a file."""
        return self._state.failure

    @property
    def silent_s(self) -> float | None:
        """Seconds since the newest frame, or since the last change of the requested rate if that is
        later; None before the source was first open."""
        newest_ns = self._state.newest_mono_ns
        if newest_ns is None:
            return None
        return (time.monotonic_ns() - max(newest_ns, self._limit.changed_ns or 0)) / 1e9

    @property
    def stall_after_s(self) -> float:
        """Seconds without a new picture that make the camera `stalled`: the configured time, and at
        least two periods of the source, or two of its bursts."""
        source = self._worker.source
        burst_s = source.burst_s if isinstance(source, FallsShort) else None
        period_s = max(self._period_s, burst_s or 0.0)
        return max(self._config.stall_timeout_s, _STALL_PERIODS * period_s)

    @property
    def _period_s(self) -> float:
        return period_s(self._cadence, self._state.facts, self._limit.max_fps)

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the camera delivers less than it could, in words; empty during normal operation."""
        source = self._worker.source
        reason = source.shortfall if isinstance(source, FallsShort) else None
        return (reason,) if reason is not None else ()

    def start(self) -> None:
        """Starts capturing."""
        self._start_thread(_Worker())

    def look_after(self) -> None:
        """Abandons the capture thread if it hangs. One thread has to call this periodically."""
        worker = self._worker
        for reason in self.degraded:
            self._update_state(worker, last_error=reason)
        entered_ns = worker.entered_ns
        if entered_ns is None or not (self._live or self._retry_first):
            return
        hung_after_s = self._hung_after_s + self._period_s
        if (self._awake.now_ns() - entered_ns) / 1e9 < hung_after_s:
            return
        self._abandoned = [
            hung for hung in self._abandoned if hung.thread and hung.thread.is_alive()
        ]
        if len(self._abandoned) >= MOST_HUNG:
            return
        self._report_problem(
            worker, f"camera '{self.camera}' hangs in its driver for {hung_after_s:.3g} s"
        )
        self._abandoned.append(worker)
        self._start_thread(_Worker())

    def join(self, timeout_s: float) -> bool:
        """Waits for the capture thread and returns whether it ended in time. A thread that hangs in
        a driver ends with the process."""
        thread = self._worker.thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _start_thread(self, worker: _Worker) -> None:
        name = f"capture-{self.camera}"
        worker.thread = threading.Thread(target=self._run, args=(worker,), name=name, daemon=True)
        with self._lock:
            self._worker = worker
        worker.thread.start()

    def _is_current(self, worker: _Worker) -> bool:
        return worker is self._worker and not self._stop.is_set()

    def _run(self, worker: _Worker) -> None:
        try:
            self._capture(worker)
        except Exception as error:
            failure = self._as_source_error(error)
            self._update_state(worker, failure=failure, last_error=str(failure))
        finally:
            if worker is self._worker:
                self._update_state(worker, open=False, ended=True)
                self._mailbox.close(self.camera)

    def _capture(self, worker: _Worker) -> None:
        reopening = self._reopening(worker)
        while self._is_current(worker):
            frames_before = self._state.frames
            began_ns, cpu_before_ns = time.monotonic_ns(), time.thread_time_ns()
            try:
                with self._calling(worker):
                    source = self._open_source()
            except SourceError as error:
                if not (self._opened_before or self._retry_first):
                    raise
                failure = error
                self._report_problem(worker, str(failure))
            else:
                try:
                    self._record_opening(worker, source)
                    self._read_all(worker, source, began_ns)
                    return
                except Exception as error:
                    # An unforeseen error, too, only reopens the source.
                    if not source.live:
                        raise
                    failure = self._as_source_error(error)
                    self._report_problem(worker, str(failure))
                finally:
                    worker.source = None
                    with contextlib.suppress(SourceError), self._calling(worker):
                        source.close()
            if self._state.frames > frames_before:
                reopening.end_outage()
            took_s = (time.monotonic_ns() - began_ns) / 1e9
            cpu_s = (time.thread_time_ns() - cpu_before_ns) / 1e9
            # An abandoned worker can be replaced in a call of its source only.
            if self._is_current(worker):
                reopening.wait(failure, took_s, cpu_s)

    def _reopening(self, worker: _Worker) -> Reopening:
        return Reopening(
            self._presence(),
            self._stop,
            lambda error: self._report_problem(worker, str(error)),
        )

    def _record_opening(self, worker: _Worker, source: Source) -> None:
        if not self._is_current(worker):
            return
        for difference in source.facts.differences:
            log.warning("camera '%s': %s", self.camera, difference)
        worker.source = source
        if self._opened_before:
            self._log.info("open again", f"camera '{self.camera}' is open again")
        self._opened_ns = time.monotonic_ns()
        is_first = self._state.newest_mono_ns is None
        self._update_state(
            worker,
            open=True,
            facts=source.facts,
            reconnects=self._state.reconnects + self._opened_before,
            newest_mono_ns=self._opened_ns if is_first else self._state.newest_mono_ns,
        )
        self._opened_before = True
        self._live = source.live

    def _read_all(self, worker: _Worker, source: Source, began_ns: int) -> None:
        frozen_detector = (
            self._frozen_detector if source.live and self._config.detect_frozen else None
        )
        sizes = _Sizes(self._state.facts)
        began_epoch = self._epoch + 1
        self._cadence.interrupt()
        while self._is_current(worker):
            try:
                with self._calling(worker):
                    picture = source.read()
            except BacklogError as error:
                self._update_state(worker, last_error=str(error))
                self._reopen_if_unproductive(str(error), _BACKLOG_FACTOR * REOPEN_AFTER_S)
                continue
            except PictureError as error:
                self._record_arrival(worker, source, began_ns)
                self._update_state(worker, corrupt=self._state.corrupt + 1, last_error=str(error))
                self._reopen_if_unproductive(
                    f"camera '{self.camera}' delivers nothing that can be decoded"
                )
                continue
            if picture is None:
                skipped = source.skipped if isinstance(source, Incomplete) else None
                self._update_state(worker, summary=source.summary(), skipped=skipped)
                return
            # A replaced worker must not use the detector and the counters.
            if not self._is_current(worker):
                return
            self._record_arrival(worker, source, began_ns)
            if (
                frozen_detector is not None
                and (repeated_part := frozen_detector.repeats(picture)) is not None
            ):
                self._update_state(worker, repeated=self._state.repeated + 1)
                if (self.silent_s or 0.0) > self.stall_after_s:
                    self._update_state(
                        worker,
                        last_error=f"camera '{self.camera}' repeats the same {repeated_part}",
                    )
                    self._reopen_if_unproductive(
                        f"camera '{self.camera}' repeats the same {repeated_part}"
                    )
                    continue
            else:
                self._update_state(worker, newest_mono_ns=time.monotonic_ns())
            facts = sizes.seen(picture)
            self._epoch = began_epoch + picture.lap + sizes.changes
            frame_id = self._state.frames + picture.dropped
            frame = number(picture, self.camera, frame_id, self._epoch, self.degraded)
            self._update_state(worker, facts=facts, frames=frame.frame_id + 1)
            # The worker may have been replaced just now.
            if self._is_current(worker):
                self._mailbox.put(frame)

    def _record_arrival(self, worker: _Worker, source: Source, began_ns: int) -> None:
        """Records the arrival of a picture, valid or not. Raises SourceError if this process stood
        still since the source was opened at `began_ns`."""
        if not self._is_current(worker):
            return
        self._cadence.note(time.monotonic_ns(), self._limit.max_fps)
        if source.live and self._awake.resumed_ns > began_ns:
            raise SourceError(
                f"camera '{self.camera}': this process or computer stood still; "
                "the pictures buffered meanwhile are dropped"
            )

    def _reopen_if_unproductive(self, complaint: str, after_s: float | None = None) -> None:
        """Raises SourceError, which reopens the source, if no valid frame came for long enough
        (REOPEN_AFTER_S by default). Rate-limited by the time since the last opening, since
        reopening may not help."""
        open_s = (time.monotonic_ns() - self._opened_ns) / 1e9
        patience_s = max(after_s or REOPEN_AFTER_S, self.stall_after_s)
        if min(self.silent_s or 0.0, open_s) > patience_s:
            raise SourceError(f"{complaint} for {patience_s:g} s")

    def _report_problem(self, worker: _Worker, problem: str) -> None:
        if self._state.open:
            # A stream can end after each few pictures, many times a second.
            self._log.warning(f"open {_DIGITS.sub('', problem)}", f"{problem}; trying again")
        elif problem != self._state.last_error:
            # Reasons may alternate from attempt to attempt.
            self._log.warning(_DIGITS.sub("", problem), f"{problem}; trying again")
        self._update_state(worker, open=False, last_error=problem)

    def _update_state(self, worker: _Worker, **changes: Any) -> None:
        with self._lock:
            # An abandoned worker must not change the state.
            if worker is self._worker:
                self._state = replace(self._state, **changes)

    @contextlib.contextmanager
    def _calling(self, worker: _Worker) -> Iterator[None]:
        """Marks a call of the source as in progress, since it may hang. Converts every exception of
        a driver or decoder to SourceError, so that it affects this camera only."""
        worker.entered_ns = self._awake.now_ns()
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            raise self._as_source_error(error) from error
        finally:
            worker.entered_ns = None

    def _as_source_error(self, error: Exception) -> SourceError:
        if isinstance(error, SourceError):
            return error
        redacted_text = hidden(str(error), [self._config.source])
        return SourceError(
            f"camera '{self.camera}' failed: {type(error).__name__}: {redacted_text}"
        )


class _Sizes:
    """Tracks the size of the pictures. A change of size starts a new epoch, so that state about the
    scene is reset."""

    def __init__(self, facts: SourceFacts) -> None:
        self._facts = facts
        self._size: tuple[int, int] | None = None
        self.changes = 0

    def seen(self, picture: Picture) -> SourceFacts:
        """Returns the source's facts with the size of this picture."""
        height, width = picture.image.shape[:2]
        if self._size is not None and self._size != (height, width):
            self.changes += 1
        if self._size != (height, width):
            self._size = (height, width)
            self._facts = replace(self._facts, width=width, height=height)
        return self._facts


def number(
    picture: Picture, camera: str, frame_id: int, epoch: int = 0, degraded: tuple[str, ...] = ()
) -> Frame:
    """Returns the frame for a picture with its number.

    Args:
        picture: as read from the source.
        camera: name of the camera.
        frame_id: number of the frame, from 0.
        epoch: see `Frame.epoch`.
        degraded: see `Frame.degraded`.
    """
    return Frame(
        image=picture.image,
        camera=camera,
        frame_id=frame_id,
        stamp=picture.stamp,
        media_ns=picture.media_ns,
        capture_ns=picture.capture_ns,
        file=picture.file,
        epoch=epoch,
        jpeg=picture.jpeg,
        dropped=picture.dropped,
        degraded=degraded,
    )
