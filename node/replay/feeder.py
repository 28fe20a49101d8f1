"""ReplayFeeder: the threads of a replay that read a source and pass each frame to the inference
loop at its time; and LockStep, by which a simulator decides when that is."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from node.capture.mailbox import LosslessMailbox
from node.capture.rate import MediaClock
from node.errors import ControlError
from node.image.frame import Frame
from node.replay.sources import Shown
from node.transport.control_server import Request, Result
from perception_client.messages.codec import to_map
from perception_client.messages.kinds import LabelsMessage, Message

MOST_STEPS = 1000
"""Frames that one request may ask for."""


AHEAD = 4
"""Frames that are decoded before their time: those of two cameras may lie closer together than a
decoding takes."""


class _Ahead:
    """Footage that is read a few frames ahead, on a thread of its own. Iterating raises what
    reading did."""

    def __init__(self, frames: Iterator[Shown], stop: threading.Event) -> None:
        self._frames = frames
        self._stop = stop
        self._read: queue.Queue[Shown | Exception | None] = queue.Queue(AHEAD)
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __iter__(self) -> Iterator[Shown]:
        while not self._stop.is_set():
            try:
                item = self._read.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item

    def _run(self) -> None:
        try:
            for shown in self._frames:
                self._put(shown)
                if self._stop.is_set():
                    return
        except Exception as error:
            self._put(error)
        else:
            self._put(None)

    def _put(self, item: Shown | Exception | None) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._read.put(item, timeout=0.1)
                return


class ReplayFeeder:
    """Puts each frame once, in order, and waits for the labeller.

    clock: None for as fast as it goes. make_ready: what begins with a frame while the one before is
    looked at. failure: what ended it before the end of the footage, so
    that a replay which broke off is not taken for a whole one.
    """

    def __init__(
        self,
        frames: Iterator[Shown],
        mailbox: LosslessMailbox,
        stop: threading.Event,
        clock: MediaClock | None,
        stepper: "LockStep | None" = None,
        prefetch: Callable[[Frame], Frame] = lambda frame: frame,
    ) -> None:
        self._frames = _Ahead(frames, stop)
        self._mailbox = mailbox
        self._stop = stop
        self._clock = clock
        self._stepper = stepper
        self._make_ready = prefetch
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Starts showing."""
        self._frames.start()
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether the threads ended in time."""
        deadline = time.monotonic() + timeout_s
        self._thread.join(timeout_s)
        read = self._frames.join(max(0.0, deadline - time.monotonic()))
        return read and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for shown in self._frames:
                if self._clock is not None and shown.frame.media_ns is not None:
                    self._clock.wait_until(shown.frame.media_ns)
                if self._stepper is not None:
                    self._stepper.wait_for_step(self._stop)
                if self._stop.is_set():
                    return
                self._mailbox.put(self._make_ready(shown.frame), shown.dropped)
        except Exception as error:
            self.failure = error  # raised again by the pipeline, on the thread that waits for us
        finally:
            if self._stepper is not None:
                self._stepper.shown_all()
            self._mailbox.close_all()


@dataclass(slots=True)
class _Request:
    left: int
    answer: "Future[Result]" = field(default_factory=Future)
    messages: list[LabelsMessage] = field(default_factory=list)


class LockStep:
    """Lets one frame out for each that is asked for, and answers with its message when that has
    gone out. Its methods are called from the control server's, the player's and the publisher's
    threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[_Request] = []
        self._allowed = 0
        self._under_way = 0
        self._over = False

    def handle(self, request: Request) -> "Future[Result]":
        """The control server's requests: `step`, with the number of `frames`. The answer has their
        `messages`, and `ended` when there are no more. Raises ControlError."""
        if request.command != "step":
            raise ControlError(
                f"command {request.command!r:.40}: unknown to a replay; commands: step"
            )
        frames = request.arguments.get("frames", 1)
        if type(frames) is not int or not 1 <= frames <= MOST_STEPS:
            raise ControlError(f"step: frames = {frames!r:.20}; give 1 to {MOST_STEPS}")
        asked = _Request(frames)
        with self._changed:
            self._requests.append(asked)
            self._allowed += frames
            self._changed.notify_all()
            self._answer_what_ended()
        return asked.answer

    def wait_for_step(self, stop: threading.Event) -> None:
        """Returns when the next frame was asked for, or the stop event is set."""
        with self._changed:
            while not self._allowed and not stop.is_set():
                self._changed.wait(0.1)
            if self._allowed:
                self._allowed -= 1
                self._under_way += 1

    def note(self, message: Message) -> None:
        """A message has gone out."""
        if not isinstance(message, LabelsMessage):
            return
        with self._changed:
            if not self._requests or not self._under_way:
                return
            self._under_way -= 1
            first = self._requests[0]
            first.messages.append(message)
            first.left -= 1
            if not first.left:
                self._answer(self._requests.pop(0))
            self._answer_what_ended()

    def shown_all(self) -> None:
        """No frame will come any more."""
        with self._changed:
            self._over = True
            self._answer_what_ended()

    def _answer_what_ended(self) -> None:
        if self._over and not self._under_way:
            while self._requests:
                self._answer(self._requests.pop(0))

    def _answer(self, request: _Request) -> None:
        messages = [to_map(message) for message in request.messages]
        ended = bool(request.left)
        with contextlib.suppress(InvalidStateError):  # who asked has gone
            request.answer.set_result(Result(0, result={"messages": messages, "ended": ended}))
