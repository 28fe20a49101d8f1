"""RecordedLabels: what `Subscriber` is to a running node, to a recording: control code runs against
it in a test, in virtual time, without waiting."""

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from node.errors import ConfigError, MessageError
from perception_client.errors import NoMessageError, NotSeenError, NotUsableError
from perception_client.inbox import Gap, Inbox
from perception_client.messages.clock import virtual_time
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import EventMessage, HealthMessage, LabelsMessage, Message
from perception_client.waits import seconds as checked_seconds

if TYPE_CHECKING:
    from node.recording.reader import Recording

_ROUNDING_NS = 1_000
"""More than ages in seconds, as floats, are off."""
_LONGEST_S = float(1 << 30)
"""Longest virtual wait, 34 years: past the end of any recording, within what ns can count."""


@dataclass(frozen=True, slots=True)
class _Timed:
    at_ns: int
    message: Message


class RecordedLabels:
    """Plays the messages of a recording, each at the time at which it was published.

    source: an MCAP file or a folder of them, with the labels, outages and drops of that time, or a
    file of `perception-node replay --jsonl`, whose frames get the durations that their labelling
    took. camera: only this one; None: all. Raises SourceError and ConfigError for what is neither.
    What cannot be read of a recording that is cut off or damaged is not played: a UserWarning says
    so, at the opening, or at the end where it is found while playing.

    Inside `with`, `age_s` of its messages and all time limits are in virtual time.
    """

    def __init__(self, source: Path | str, camera: str | None = None) -> None:
        self._source = str(source)
        self._camera = camera
        self._recording = _recording(self._source)
        self._warned: set[str] = set()
        self._coming = _messages(self._recording, Path(source))
        self._next = next(self._coming, None)
        self._warn_of_problems()
        if self._next is None:
            raise ConfigError(f"{source} holds no messages")
        self._start_ns = self._now_ns = self._next.at_ns
        self._inbox = Inbox(self._source)
        self._unread: list[tuple[LabelsMessage, Gap]] = []
        self._events: list[EventMessage] = []
        self._guards: list[_Guard] = []
        self._stack = contextlib.ExitStack()
        self._closed = False

    @property
    def now_s(self) -> float:
        """Virtual time, in seconds from the recording's first message."""
        return (self._now_ns - self._start_ns) / 1e9

    @property
    def over(self) -> bool:
        """Whether all was played."""
        return self._next is None

    def advance(self, seconds: float) -> bool:
        """Lets so much virtual time pass, at no cost of real time; False when the recording is
        over. `math.inf` plays it to its end, and 34 years on."""
        self._until(self._after("seconds", seconds))
        return not self.over

    def latest(self, max_age_s: float, *, timeout_s: float = 0.0) -> LabelsMessage | None:
        """As `Subscriber.latest`; waiting is virtual."""
        max_age_s = checked_seconds("max_age_s", max_age_s)
        self._unread.clear()
        deadline_ns = self._after("timeout_s", timeout_s)
        while True:
            found = self._inbox.freshest(max_age_s)
            if found is not None or not self._step(deadline_ns):
                return found

    def require(
        self, max_age_s: float, *, camera: str | None = None, timeout_s: float = 0.0
    ) -> LabelsMessage:
        """As `Subscriber.require`, with its errors; waiting is virtual."""
        max_age_s = checked_seconds("max_age_s", max_age_s)
        self._unread.clear()
        deadline_ns = self._after("timeout_s", timeout_s)
        while True:
            try:
                return self._inbox.required(max_age_s, camera)
            except NotUsableError:
                if not self._step(deadline_ns):
                    raise

    def receive(self, timeout_s: float) -> tuple[LabelsMessage, Gap]:
        """As `Subscriber.receive`. Raises NoMessageError where none comes in so much virtual
        time."""
        deadline_ns = self._after("timeout_s", timeout_s)
        while not self._unread:
            if not self._step(deadline_ns):
                raise NoMessageError(f"{self._source}: no message for {timeout_s:g} s")
        return self._unread.pop(0)

    def __iter__(self) -> Iterator[tuple[LabelsMessage, Gap]]:
        """Every message in order with the gap before it, to the end."""
        with contextlib.suppress(NoMessageError):
            while True:
                yield self.receive(_LONGEST_S)

    def wait_for(self, name: str, timeout_s: float, min_score: float = 0.0) -> LabelsMessage:
        """As `Subscriber.wait_for`."""
        deadline_ns = self._after("timeout_s", timeout_s)
        while (left_ns := deadline_ns - self._now_ns) > 0:
            try:
                message, _ = self.receive(left_ns / 1e9)
            except NoMessageError:
                break
            if message.shows(name, min_score):
                return message
        raise NotSeenError(f"{self._source}: no {name!r} was seen for {timeout_s:g} s")

    def on_stale(
        self,
        max_age_s: float,
        callback: Callable[[NotUsableError], object],
        *,
        camera: str | None = None,
        on_fresh: Callable[[LabelsMessage], object] | None = None,
    ) -> None:
        """As `Subscriber.on_stale`, also where there were none from the start; called while time
        passes, on this thread. What a callback raises comes out of the call that let time pass, so
        that a test fails by it; the guards go on all the same."""
        max_age_s = checked_seconds("max_age_s", max_age_s)
        due_ns = self._after("max_age_s", max_age_s)
        self._guards.append(_Guard(max_age_s, callback, camera or self._camera, on_fresh, due_ns))

    @property
    def events(self) -> tuple[EventMessage, ...]:
        """The events since this was asked before."""
        events, self._events = tuple(self._events), []
        return events

    @property
    def alive(self) -> bool:
        """As `Subscriber.alive`."""
        return self._inbox.alive

    def health(self, timeout_s: float = 0.0) -> HealthMessage:
        """As `Subscriber.health`."""
        deadline_ns = self._after("timeout_s", timeout_s)
        while (health := self._inbox.fresh_health) is None:
            if not self._step(deadline_ns):
                raise NoMessageError(f"{self._source}: no health for {timeout_s:g} s")
        return health

    def late(self, camera: str) -> int:
        """As `Subscriber.late`."""
        return self._inbox.late[camera]

    def close(self) -> None:
        """Time is real again, wherever this is called: in an async test, a fixture's teardown has
        another context than the test had."""
        self._closed = True
        with contextlib.suppress(ValueError):  # of a context that cannot be left from here
            self._stack.close()
        self._warn_of_problems()

    def __enter__(self) -> Self:
        self._closed = False
        self._stack.enter_context(virtual_time(self._clock_ns))
        self._until(self._now_ns)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _clock_ns(self) -> int:
        return time.time_ns() if self._closed else self._now_ns

    def _after(self, name: str, wait_s: float) -> int:
        """The moment so many seconds from now, in ns. name: of the argument."""
        return self._now_ns + round(min(checked_seconds(name, wait_s), _LONGEST_S) * 1e9)

    def _step(self, deadline_ns: int) -> bool:
        """To the next message, at most to the deadline; whether there was one."""
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
        """Time in which nothing comes; what becomes stale in it does so at its moment."""
        while (due_ns := self._due_ns(moment_ns)) < moment_ns:
            self._now_ns = max(due_ns, self._now_ns)
            self._look_after()
        self._now_ns = max(moment_ns, self._now_ns)
        self._look_after()

    def _due_ns(self, latest_ns: int) -> int:
        due = (guard.due_ns for guard in self._guards if not guard.stale)
        return min(due, default=latest_ns)

    def _take(self, message: Message) -> None:
        camera = getattr(message, "camera", None)
        if self._camera is not None and camera not in (None, self._camera):
            return
        if isinstance(message, EventMessage):
            self._events.append(message)
        opened = self._inbox.accept(message)
        if opened is not None:
            self._unread.append(opened)
        self._look_after()

    def _look_after(self) -> None:
        with contextlib.ExitStack() as stack:  # each looks, whatever the callback of another raises
            for guard in reversed(self._guards):  # the first is called first
                stack.callback(guard.look, self._inbox, self._now_ns)

    def _warn_of_problems(self) -> None:
        problems = () if self._recording is None else self._recording.problems
        for problem in problems:
            if problem not in self._warned:
                self._warned.add(problem)
                told = f"recording {self._source} is not played whole: {problem}"
                warnings.warn(told, stacklevel=3)


@dataclass(slots=True)
class _Guard:
    """due_ns: when labels will be too old, or have to be there at first, if nothing comes."""

    max_age_s: float
    callback: Callable[[NotUsableError], object]
    camera: str | None
    on_fresh: Callable[[LabelsMessage], object] | None
    due_ns: int
    stale: bool | None = None

    def look(self, inbox: Inbox, now_ns: int) -> None:
        try:
            message = inbox.required(self.max_age_s, self.camera)
        except NotUsableError as error:
            if self.stale is False or (self.stale is None and now_ns >= self.due_ns):
                self.stale = True
                self.callback(error)
            return
        was_stale, self.stale = self.stale, False
        left_ns = max(round(min(self.max_age_s - message.age_bound_s, _LONGEST_S) * 1e9), 0)
        self.due_ns = now_ns + left_ns + _ROUNDING_NS
        if was_stale and self.on_fresh is not None:
            self.on_fresh(message)


def _recording(source: str) -> "Recording | None":
    from node.recording.reader import Recording, find_recording

    files = find_recording(source)
    return None if files is None else Recording(files)


def _messages(recording: "Recording | None", source: Path) -> Iterator[_Timed]:
    if recording is None:
        return _read_jsonl(source)
    return (_Timed(at_ns, message) for at_ns, message in recording.messages())


def _read_jsonl(source: Path) -> Iterator[_Timed]:
    """A replay has no health; that the node lives is in its labels."""
    at_ns = 0
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            message = from_map("labels", json.loads(line))
        except (MessageError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{source}, line {number} is no message ({error}); was it made by replay --jsonl?"
            ) from error
        assert isinstance(message, LabelsMessage)
        if message.stamp_ns is not None:
            work_ns = message.timing_ns.total if message.timing_ns else 0
            at_ns = max(message.stamp_ns + work_ns, at_ns)
        yield _Timed(
            at_ns,
            replace(message, published_ns=at_ns, published_mono_ns=None, published_boot_ns=None),
        )
