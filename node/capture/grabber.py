"""Grabber: the threads of one camera, one at a time. It owns the source, numbers the frames, leaves
them in the mailbox, and opens a live source again for as long as it takes."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from node.capture.cadence import Cadence
from node.capture.frozen import FrozenDetector, period_s
from node.capture.mailbox import FrameSink
from node.capture.rate import RateLimit
from node.capture.sources.base import FallsShort, Picture, Source, SourceFacts
from node.config.redact import hidden
from node.config.schema import CameraConfig
from node.errors import BacklogError, PictureError, SourceError
from node.image.frame import Frame
from node.process.awake import AwakeClock

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
REOPEN_AFTER_S = 5.0
"""Without a good new picture for so long, and longer than its stall takes, a source that still
delivers is opened anew."""
HUNG_AFTER_S = 12.0
"""A source that is still in one call after so long, and its own period, is given up: OpenCV's own
limits are 10 s for streams and for V4L2."""
_STALL_PERIODS = 2
"""Periods of a slow source without a new picture that make it `stalled`."""
MOST_HUNG = 4
"""Threads of one camera that may hang in a driver at once; then it waits for one of them."""
_UNKNOWN = SourceFacts()


@dataclass(frozen=True, slots=True)
class CaptureState:
    """What a grabber knows at one moment.

    newest_mono_ns: when the newest frame (or, before the first, the source) came, CLOCK_MONOTONIC
    in ns. A source that is opened anew is silent until it delivers.
    ended: no frame will come any more, because the file is over or `failure` says why.
    corrupt: pictures that could not be decoded. repeated: pictures that were not new.
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


class _Turn:
    """One thread's time as the camera's. entered_ns: when it went into a call of the source, in
    awake time; None outside. source: that it has open."""

    def __init__(self) -> None:
        self.entered_ns: int | None = None
        self.source: Source | None = None
        self.thread: threading.Thread | None = None


class Grabber:
    """Captures one camera on a thread of its own. A thread that hangs in its driver is given up and
    another takes its place; what it still brings is thrown away.

    open_source is called on that thread. With `at_start = "wait"` a source that cannot be opened at
    the start is waited for like one that was lost; otherwise it is the grabber's `failure`. limit:
    which frames that source delivers, None: as configured. awake: time in which this process ran;
    after a standstill a live source is opened anew, since nothing tells how old is what waited in
    its buffers.
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
    ) -> None:
        self.camera = config.name
        self._who = f"camera '{config.name}'"
        self._config = config
        self._open_source = open_source
        self._mailbox = mailbox
        self._stop = stop
        self._retry_first = retry_first
        self._hung_after_s = hung_after_s
        self._limit = limit or RateLimit(config.max_fps)
        self._awake = awake or AwakeClock()
        self._state = CaptureState()
        self._lock = threading.Lock()
        self._turn = _Turn()
        self._given_up: list[_Turn] = []
        self._opened_before = False
        self._opened_ns = 0
        self._live = False
        self._epoch = -1
        # Of all turns: a camera that was opened anew may still be frozen.
        self._freshness = FrozenDetector()
        self._cadence = Cadence()

    @property
    def state(self) -> CaptureState:
        """A snapshot; replaced as a whole, so always of one piece."""
        return self._state

    @property
    def failure(self) -> SourceError | None:
        """Why no frame will come any more, unless the file is over."""
        return self._state.failure

    @property
    def silent_s(self) -> float | None:
        """Seconds since the newest frame, or since another rate was asked for; None before the
        source was open."""
        newest_ns = self._state.newest_mono_ns
        if newest_ns is None:
            return None
        return (time.monotonic_ns() - max(newest_ns, self._limit.changed_ns or 0)) / 1e9

    @property
    def stall_after_s(self) -> float:
        """Seconds without a new picture that make the camera `stalled`: as configured, and two
        periods of a source that is slower than that."""
        return max(self._config.stall_timeout_s, _STALL_PERIODS * self._period_s)

    @property
    def _period_s(self) -> float:
        return period_s(self._cadence, self._state.facts, self._limit.max_fps)

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the camera delivers less than it could, in words; nothing while all is well."""
        source = self._turn.source
        why = source.shortfall if isinstance(source, FallsShort) else None
        return (why,) if why is not None else ()

    def start(self) -> None:
        """Starts capturing."""
        self._begin(_Turn())

    def look_after(self) -> None:
        """Gives up a thread that hangs. To be called now and then, by one thread."""
        turn = self._turn
        for why in self.degraded:
            self._note(turn, last_error=why)
        entered_ns = turn.entered_ns
        if entered_ns is None or not (self._live or self._retry_first):
            return
        hung_after_s = self._hung_after_s + self._period_s
        if (self._awake.now_ns() - entered_ns) / 1e9 < hung_after_s:
            return
        self._given_up = [x for x in self._given_up if x.thread and x.thread.is_alive()]
        if len(self._given_up) >= MOST_HUNG:
            return
        self._complain(turn, f"camera '{self.camera}' hangs in its driver for {hung_after_s:.3g} s")
        self._given_up.append(turn)
        self._begin(_Turn())

    def join(self, timeout_s: float) -> bool:
        """Whether the thread ended in time. One that hangs in a driver dies with the process."""
        thread = self._turn.thread
        if thread is None:
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _begin(self, turn: _Turn) -> None:
        name = f"capture-{self.camera}"
        turn.thread = threading.Thread(target=self._run, args=(turn,), name=name, daemon=True)
        with self._lock:
            self._turn = turn
        turn.thread.start()

    def _goes_on(self, turn: _Turn) -> bool:
        return turn is self._turn and not self._stop.is_set()

    def _run(self, turn: _Turn) -> None:
        try:
            self._capture(turn)
        except Exception as error:
            failure = self._as_source_error(error)
            self._note(turn, failure=failure, last_error=str(failure))
        finally:
            if turn is self._turn:
                self._note(turn, open=False, ended=True)
                self._mailbox.close(self.camera)

    def _capture(self, turn: _Turn) -> None:
        backoff_s = FIRST_BACKOFF_S
        while self._goes_on(turn):
            frames_before = self._state.frames
            began_ns = time.monotonic_ns()
            try:
                with self._calling(turn):
                    source = self._open_source()
            except SourceError as error:
                if not (self._opened_before or self._retry_first):
                    raise
                self._complain(turn, str(error))
            else:
                try:
                    self._opened(turn, source)
                    self._read_all(turn, source, began_ns)
                    return
                except Exception as error:  # also what nobody foresaw costs one opening
                    if not source.live:
                        raise
                    self._complain(turn, str(self._as_source_error(error)))
                finally:
                    turn.source = None
                    with contextlib.suppress(SourceError), self._calling(turn):
                        source.close()
            if self._state.frames > frames_before:
                backoff_s = FIRST_BACKOFF_S
            self._stop.wait(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    def _opened(self, turn: _Turn, source: Source) -> None:
        if not self._goes_on(turn):
            return
        for difference in source.facts.differences:
            log.warning("camera '%s': %s", self.camera, difference)
        turn.source = source
        if self._opened_before:
            log.info("camera '%s' is open again", self.camera)
        self._opened_ns = time.monotonic_ns()
        first = self._state.newest_mono_ns is None
        self._note(
            turn,
            open=True,
            facts=source.facts,
            reconnects=self._state.reconnects + self._opened_before,
            newest_mono_ns=self._opened_ns if first else self._state.newest_mono_ns,
        )
        self._opened_before = True
        self._live = source.live

    def _read_all(self, turn: _Turn, source: Source, began_ns: int) -> None:
        freshness = self._freshness if source.live and self._config.detect_frozen else None
        sizes = _Sizes(self._state.facts)
        began_epoch = self._epoch + 1
        self._cadence.interrupt()
        while self._goes_on(turn):
            try:
                with self._calling(turn):
                    picture = source.read()
            except BacklogError as error:
                self._note(turn, last_error=str(error))
                self._reopen_if_useless(str(error))
                continue
            except PictureError as error:
                self._came(turn, source, began_ns)
                self._note(turn, corrupt=self._state.corrupt + 1, last_error=str(error))
                self._reopen_if_useless(f"{self._who} delivers nothing that can be decoded")
                continue
            if picture is None:
                self._note(turn, summary=source.summary())
                return
            if not self._goes_on(turn):  # what it compares with is another turn's by now
                return
            self._came(turn, source, began_ns)
            if freshness is not None and (same := freshness.repeats(picture)) is not None:
                self._note(turn, repeated=self._state.repeated + 1)
                if (self.silent_s or 0.0) > self.stall_after_s:
                    self._note(turn, last_error=f"camera '{self.camera}' repeats the same {same}")
                    self._reopen_if_useless(f"{self._who} repeats the same {same}")
                    continue
            else:
                self._note(turn, newest_mono_ns=time.monotonic_ns())
            facts = sizes.seen(picture)
            self._epoch = began_epoch + picture.lap + sizes.changes
            frame_id = self._state.frames + picture.dropped
            frame = number(picture, self.camera, frame_id, self._epoch, self.degraded)
            self._note(turn, facts=facts, frames=frame.frame_id + 1)
            if self._goes_on(turn):  # it may have been given up just now
                self._mailbox.put(frame)

    def _came(self, turn: _Turn, source: Source, began_ns: int) -> None:
        """A picture came of a source that was opened at `began_ns`, good or not. Raises SourceError
        where the process stood still since."""
        if not self._goes_on(turn):
            return
        self._cadence.note(time.monotonic_ns(), self._limit.max_fps)
        if source.live and self._awake.resumed_ns > began_ns:
            raise SourceError(
                f"camera '{self.camera}': this process or computer stood still; what waited in "
                "buffers meanwhile is thrown away"
            )

    def _reopen_if_useless(self, complaint: str) -> None:
        """At most so often, also where opening it anew did not help."""
        open_s = (time.monotonic_ns() - self._opened_ns) / 1e9
        patience_s = max(REOPEN_AFTER_S, self.stall_after_s)
        if min(self.silent_s or 0.0, open_s) > patience_s:
            raise SourceError(f"{complaint} for {patience_s:g} s")

    def _complain(self, turn: _Turn, problem: str) -> None:
        if problem != self._state.last_error or self._state.open:
            log.warning("%s; trying again", problem)
        self._note(turn, open=False, last_error=problem)

    def _note(self, turn: _Turn, **changes: Any) -> None:
        with self._lock:
            if turn is self._turn:  # what was given up says nothing any more
                self._state = replace(self._state, **changes)

    @contextlib.contextmanager
    def _calling(self, turn: _Turn) -> Iterator[None]:
        """A call of the source: it may hang, and whatever a driver or decoder raises costs this
        camera, and nothing else."""
        turn.entered_ns = self._awake.now_ns()
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            raise self._as_source_error(error) from error
        finally:
            turn.entered_ns = None

    def _as_source_error(self, error: Exception) -> SourceError:
        if isinstance(error, SourceError):
            return error
        told = hidden(str(error), [self._config.source])
        return SourceError(f"camera '{self.camera}' failed: {type(error).__name__}: {told}")


class _Sizes:
    """Pictures may change their size in flight: what is remembered of the scene then goes."""

    def __init__(self, facts: SourceFacts) -> None:
        self._facts = facts
        self._size: tuple[int, int] | None = None
        self.changes = 0

    def seen(self, picture: Picture) -> SourceFacts:
        """The source's facts, with the size of this picture."""
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
        jpeg=picture.jpeg,
        dropped=picture.dropped,
        degraded=degraded,
    )
