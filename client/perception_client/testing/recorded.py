"""RecordedLabels: what `Subscriber` is to a running node, to a recording: control code runs against
it in a test, in virtual time, without waiting."""

import contextlib
import json
import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from perception_client.base import SubscriberBase, check_callback
from perception_client.errors import (
    ClosedError,
    ConfigError,
    MessageError,
    NoMessageError,
    NotUsableError,
    UnknownCameraError,
)
from perception_client.events import EventInbox
from perception_client.inbox import Gap, Inbox, no_camera
from perception_client.messages.calibration import Calibration
from perception_client.messages.clock import virtual_time
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import EventMessage, HealthMessage, LabelsMessage, Message
from perception_client.protocol import LabelSource
from perception_client.recordings.names import SUFFIX
from perception_client.text import duration
from perception_client.waits import age_limit
from perception_client.waits import seconds as checked_seconds

if TYPE_CHECKING:
    from perception_client.recordings.messages import MessageRecording

_ROUNDING_NS = 1_000
"""More than ages in seconds, as floats, are off."""
_MOST_DELAY_NS = 20_000_000
"""Longest time from the publishing of a message to its record; beyond it, the clock was set."""
_LONGEST_S = float(1 << 30)
"""Longest virtual wait, 34 years: past the end of any recording, within what ns can count."""


@dataclass(frozen=True, slots=True)
class _Timed:
    at_ns: int
    message: Message


class RecordedLabels(SubscriberBase):
    """Plays the messages of a recording, each at the time at which it was published, with the
    interface of `Subscriber` (`perception_client.protocol.LabelSource`). Inside `with`, `age_s` of
    its messages and all time limits are in virtual time, which passes by `advance` and by waits.

    Messages that cannot be read of a recording that is cut off or damaged are skipped. A
    UserWarning says so: when the recording is opened, or where they are found while it plays.

    Args:
        source: an MCAP file or a folder of them, with the labels, outages and drops of that time;
            or a file of `perception-node replay --jsonl`, whose frames get the durations that
            their labelling took.
        camera: name of the only camera; None for all.
        run: of a folder with several runs, the name of one or of one of its files; None for the
            newest, with a UserWarning that names the others.

    Raises:
        SourceError, ConfigError: the source is neither, holds no messages, or not this run.
        UnknownCameraError: the recording has no such camera.
    """

    def __init__(
        self, source: Path | str, camera: str | None = None, run: str | None = None
    ) -> None:
        super().__init__(str(source), camera, Inbox(str(source), most_unread=None))
        self._recording = _recording(self._source, run)
        self._warned: set[str] = set()
        self._coming = _messages(self._recording, Path(source))
        self._next = next(self._coming, None)
        self._warn_of_problems()
        if self._next is None:
            raise ConfigError(
                f"{source} holds no messages",
                fix=f"label its pictures: perception-node replay {source} --speed max "
                "--jsonl labels.jsonl, and play labels.jsonl",
            )
        if self._camera is not None:
            self._check_camera(self._camera, Path(source))
        self._start_ns = self._now_ns = self._next.at_ns
        self._events = RecordedEvents(self._after, self._step)
        self._guards: list[RecordedGuard] = []
        self._stack = contextlib.ExitStack()
        self._closed = False

    @property
    def now_s(self) -> float:
        """Virtual time, in seconds from the recording's first message."""
        return (self._now_ns - self._start_ns) / 1e9

    @property
    def over(self) -> bool:
        """Whether every message was played."""
        return self._next is None

    def advance(self, seconds: float) -> bool:
        """Lets so much virtual time pass, at no cost of real time. Gives False at the end of the
        recording. `math.inf` plays it to its end, and 34 years on."""
        self._check()
        self._until(self._after("seconds", seconds))
        return not self.over

    def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """The newest message of any camera, at most `max_age_s` seconds old; else None. Older
        messages are discarded.

        timeout_s: longest wait for such a message, in seconds of virtual time.
        """
        self._check()
        max_age_s = age_limit(max_age_s)
        deadline_ns = self._after("timeout_s", timeout_s)
        try:
            while True:
                message = self._inbox.freshest(max_age_s)
                if message is not None or not self._step(deadline_ns):
                    return message
        finally:
            self._inbox.discard_unread()

    def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """The newest labels, at most `max_age_s` seconds old, of one camera or of any. Raises the
        errors of `Subscriber.require`.

        timeout_s: longest wait for such labels, in seconds of virtual time.
        """
        self._check()
        max_age_s = age_limit(max_age_s)
        camera = self._camera_of(camera)
        deadline_ns = self._after("timeout_s", timeout_s)
        try:
            while True:
                try:
                    return self._inbox.required(max_age_s, camera)
                except UnknownCameraError:
                    raise
                except NotUsableError:
                    if not self._step(deadline_ns):
                        raise
        finally:
            self._inbox.discard_unread()

    def wait(self, timeout_s: float) -> bool:
        """Waits until labels are there that no call has returned yet; False where none came within
        `timeout_s` seconds of virtual time."""
        self._check()
        deadline_ns = self._after("timeout_s", timeout_s)
        while not self._inbox.has_unread:
            if not self._step(deadline_ns):
                return False
        return True

    def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """The next message in order, and the gap before it. Raises NoMessageError where none comes
        within `timeout_s` seconds of virtual time."""
        self._check()
        deadline_ns = self._after("timeout_s", timeout_s)
        while (unread := self._inbox.next()) is None:
            if not self._step(deadline_ns):
                raise NoMessageError(f"{self._source}: no message for {duration(timeout_s)}")
        return unread

    def __iter__(self) -> Iterator[tuple[LabelsMessage, Gap]]:
        """Every message in order with the gap before it, to the end of the recording."""
        with contextlib.suppress(NoMessageError):
            while True:
                yield self.receive(_LONGEST_S)

    def wait_for(self, name: str | None, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """The next message that shows a class, or anything, as `LabelsMessage.shows` has it. Raises
        NotSeenError, NoMessageError, UnknownClassError.

        timeout_s: longest wait, in seconds of virtual time. min_score: smallest score that counts.
        """
        deadline_ns = self._after("timeout_s", timeout_s)
        received = False
        while (left_ns := deadline_ns - self._now_ns) > 0:
            self._inbox.check_class(name)
            try:
                message, _ = self.receive(left_ns / 1e9)
            except NoMessageError:
                break
            received = True
            if message.shows(name, min_score):
                return message
        self._inbox.check_class(name)
        if not received:
            raise NoMessageError(f"{self._source}: no message for {duration(timeout_s)}")
        raise self._not_seen(name, timeout_s)

    def on_stale(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        *,
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
    ) -> "RecordedGuard":
        """Calls `callback` as soon as no labels are younger than `max_age_s` seconds, also where
        none were from the start. Callbacks run while time passes, on this thread. Whatever they
        raise comes out of the call that lets time pass, so that a test fails by it; the guards go
        on all the same."""
        self._check()
        max_age_s = age_limit(max_age_s)
        check_callback("callback", callback, required=True)
        check_callback("on_fresh", on_fresh)
        due_ns = self._after("max_age_s", max_age_s)
        guard = RecordedGuard(max_age_s, callback, self._camera_of(camera), on_fresh, due_ns)
        self._guards.append(guard)
        return guard

    @property
    def events(self) -> "RecordedEvents":
        """The stream of events, from the beginning of the recording on."""
        return self._events

    def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """The node's newest health, at most 2.5 seconds old. Labels that come meanwhile are kept
        for iteration. Raises NoMessageError.

        timeout_s: longest wait, in seconds of virtual time.
        """
        self._check()
        deadline_ns = self._after("timeout_s", timeout_s)
        while (health := self._inbox.fresh_health) is None:
            if not self._step(deadline_ns):
                raise NoMessageError(f"{self._source}: no health for {duration(timeout_s)}")
        return health

    def calibration(self, camera: str, timeout_s: float = 5.0) -> Calibration:
        """A camera's calibration, as the recorded node gave it. Raises NoMessageError,
        NoCalibrationError.

        timeout_s: longest wait, in seconds of virtual time.
        """
        self._check()
        deadline_ns = self._after("timeout_s", timeout_s)
        while (calibration := self._calibration(camera)) is None:
            if not self._step(deadline_ns):
                raise NoMessageError(f"{self._source}: no info for {duration(timeout_s)}")
        return calibration

    def close(self) -> None:
        """Ends virtual time, wherever this is called: in an async test, a fixture's teardown has
        another context than the test had. A second call does nothing."""
        self._closed = True
        with contextlib.suppress(ValueError):  # of a context that cannot be left from here
            self._stack.close()
        self._warn_of_problems()

    def __enter__(self) -> Self:
        self._closed = False
        self._stack.enter_context(virtual_time(self._clock_ns))
        self._until(self._now_ns)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._source}: closed", fix="open it again")

    def _check_camera(self, camera: str, source: Path) -> None:
        if self._recording is not None:
            cameras = self._recording.cameras
        else:
            cameras = _cameras_of_jsonl(source)
        if camera not in cameras:
            raise no_camera(f"recording {self._source}", camera, cameras)

    def _clock_ns(self) -> int:
        return time.time_ns() if self._closed else self._now_ns

    def _after(self, name: str, wait_s: float) -> int:
        """The moment so many seconds from now, in ns. name: of the argument."""
        return self._now_ns + round(min(checked_seconds(name, wait_s), _LONGEST_S) * 1e9)

    def _step(self, deadline_ns: int) -> bool:
        """To the next message, at most to the deadline; whether there was one."""
        self._check()
        if self._next is None or self._next.at_ns > deadline_ns:
            self._until(deadline_ns)
            return False
        self._until(self._next.at_ns)
        return True

    def _until(self, moment_ns: int) -> None:
        while self._next is not None and self._next.at_ns <= moment_ns:
            self._pass(self._next.at_ns)
            message = self._next.message
            self._next = next(self._coming, None)
            if self._next is None:
                self._warn_of_problems()
            self._take(message)
        self._pass(moment_ns)

    def _pass(self, moment_ns: int) -> None:
        """Lets time pass in which no message comes; guards call back at their moments in it."""
        while (due_ns := self._due_ns(moment_ns)) < moment_ns:
            self._now_ns = max(due_ns, self._now_ns)
            self._run_guards()
        self._now_ns = max(moment_ns, self._now_ns)
        self._run_guards()

    def _due_ns(self, latest_ns: int) -> int:
        due = (guard.due_ns for guard in self._guards if guard.watching and not guard.stale)
        return min(due, default=latest_ns)

    def _take(self, message: Message) -> None:
        camera = getattr(message, "camera", None)
        if self._camera is not None and camera not in (None, self._camera):
            return
        if isinstance(message, EventMessage):
            self._events.add(message)
        self._inbox.accept(message)
        self._run_guards()

    def _run_guards(self) -> None:
        with contextlib.ExitStack() as stack:  # each runs, whatever the callback of another raises
            for guard in reversed(self._guards):  # the first is called first
                stack.callback(guard.look, self._inbox, self._now_ns)

    def _warn_of_problems(self) -> None:
        problems = () if self._recording is None else self._recording.problems
        for problem in problems:
            if problem not in self._warned:
                self._warned.add(problem)
                text = f"recording {self._source} is not played whole: {problem}"
                warnings.warn(text, stacklevel=3)


if TYPE_CHECKING:
    _: type[LabelSource] = RecordedLabels


class RecordedEvents:
    """The events of a recording as time passes, with the interface of `EventStream`.

    after: the moment so many seconds from now, in ns. step: plays the next message, up to a moment.
    """

    def __init__(self, after: Callable[[str, float], int], step: Callable[[int], bool]) -> None:
        self._after = after
        self._step = step
        self._inbox = EventInbox()
        self._unread: deque[EventMessage] = deque()

    def add(self, event: EventMessage) -> None:
        """Takes an event whose time has come."""
        new = self._inbox.accept(event)
        if new is not None:
            self._unread.append(new)

    def receive(self, timeout_s: float) -> EventMessage | None:
        """The next event; None where none came within `timeout_s` seconds of virtual time."""
        deadline_ns = self._after("timeout_s", timeout_s)
        while not self._unread:
            if not self._step(deadline_ns):
                return None
        return self._unread.popleft()

    def take(self) -> list[EventMessage]:
        """The events that no call returned yet, without waiting."""
        return list(iter(lambda: self.receive(0.0), None))

    def now(self, camera: str | None = None) -> tuple[EventMessage, ...]:
        """The newest event of each thing that is there now, of one camera or of all."""
        return self._inbox.now(camera)

    @property
    def lost(self) -> int:
        """Number of events that are missing in the recording."""
        return self._inbox.lost

    def __iter__(self) -> Iterator[EventMessage]:
        """Every event, to the end of the recording."""
        return iter(lambda: self.receive(math.inf), None)


class RecordedGuard:
    """A guard in virtual time; `RecordedLabels.on_stale` makes one. Its callbacks run on the thread
    that lets time pass."""

    def __init__(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        camera: str | None,
        on_fresh: Callable[[LabelsMessage], object] | None,
        due_ns: int,
    ) -> None:
        self._max_age_s = max_age_s
        self._callback = callback
        self._camera = camera
        self._on_fresh = on_fresh
        self._closed = False
        self.due_ns = due_ns
        """When labels will be too old, or have to be there at first, if no message comes."""
        self.stale: bool | None = None
        """Whether labels are stale; None before the first were due."""

    @property
    def watching(self) -> bool:
        """Whether the guard is not closed."""
        return not self._closed

    def close(self) -> None:
        """Stops watching; a second call does nothing. A callback may call it too."""
        self._closed = True

    def look(self, inbox: Inbox, now_ns: int) -> None:
        """Calls back where labels became stale, or usable again, by the moment `now_ns`."""
        if self._closed:
            return
        try:
            message = inbox.required(self._max_age_s, self._camera)
        except NotUsableError as error:
            if self.stale is False or (self.stale is None and now_ns >= self.due_ns):
                self.stale = True
                self._callback(error)
            return
        was_stale, self.stale = self.stale, False
        left_ns = max(round(min(self._max_age_s - message.age_bound_s, _LONGEST_S) * 1e9), 0)
        self.due_ns = now_ns + left_ns + _ROUNDING_NS
        if was_stale and self._on_fresh is not None:
            self._on_fresh(message)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _recording(source: str, run: str | None) -> "MessageRecording | None":
    try:
        from perception_client.recordings.messages import MessageRecording
        from perception_client.recordings.runs import choose_recording
    except ModuleNotFoundError as error:
        if Path(source).suffix.lower() != SUFFIX and not Path(source).is_dir():
            return None
        raise ConfigError(
            f"{source}: reading recordings needs the package {error.name}",
            fix="in the project's folder: pip install './client[recordings]'",
        ) from None
    choice = choose_recording(source, run)
    if choice is None:
        return None
    if choice.note is not None:
        warnings.warn(choice.note, stacklevel=4)
    return MessageRecording(choice.paths)


def _messages(recording: "MessageRecording | None", source: Path) -> Iterator[_Timed]:
    if recording is None:
        return _read_jsonl(source)
    return (
        _Timed(at_ns, _on_recording_clock(message, at_ns))
        for at_ns, message in recording.messages()
    )


def _on_recording_clock(message: Message, at_ns: int) -> Message:
    """The message with times on the clock of its recording, which setting the wall clock does not
    change. at_ns: when it was published, by that clock."""
    shift_ns = at_ns - message.published_ns
    if abs(shift_ns) < _MOST_DELAY_NS:
        return message
    if not isinstance(message, LabelsMessage) or message.stamp_ns is None:
        return replace(message, published_ns=at_ns)
    stamp_ns = message.stamp_ns + shift_ns
    if message.stamp_mono_ns is not None and message.published_mono_ns is not None:
        stamp_ns = at_ns - (message.published_mono_ns - message.stamp_mono_ns)
    return replace(message, published_ns=at_ns, stamp_ns=max(stamp_ns, 0))


def _read_jsonl(source: Path) -> Iterator[_Timed]:
    """The file has no health; its labels alone keep the node alive."""
    at_ns = 0
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{source} is neither a recording (*.mcap) nor a file of replay --jsonl",
            fix=f"make one: perception-node replay {source} --speed max --jsonl labels.jsonl",
        ) from error
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        try:
            message = from_map("labels", json.loads(line))
        except (MessageError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{source}, line {number} is no message ({error})",
                fix="was it made by replay --jsonl?",
            ) from error
        assert isinstance(message, LabelsMessage)
        if message.stamp_ns is not None:
            work_ns = message.timing_ns.total if message.timing_ns else 0
            at_ns = max(message.stamp_ns + work_ns, at_ns)
        yield _Timed(
            at_ns,
            replace(message, published_ns=at_ns, published_mono_ns=None, published_boot_ns=None),
        )


def _cameras_of_jsonl(source: Path) -> tuple[str, ...]:
    """The names of the cameras in a file that `_read_jsonl` has begun to read."""
    names: dict[str, None] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, RecursionError):  # playing it says which line is wrong
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("camera"), str):
                names[content["camera"]] = None
    return tuple(names)
