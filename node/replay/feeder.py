"""ReplayFeeder: the threads of a replay that read a source and pass each frame to the inference
loop when it is due. LockStep lets a simulator decide when that is."""

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
"""Most frames in one request."""


AHEAD = 4
"""Frames that are decoded early: frames of two cameras may lie closer together than a decoding
takes."""


class _ReadAhead:
    """Reads a source's frames up to AHEAD frames early, on its own thread. Iterating raises the
    error that ended the reading."""

    def __init__(self, frames: Iterator[Shown], stop: threading.Event) -> None:
        self._frames = frames
        self._stop = stop
        self._queue: queue.Queue[Shown | Exception | None] = queue.Queue(AHEAD)
        self._thread = threading.Thread(target=self._run, name="read", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def __iter__(self) -> Iterator[Shown]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=0.1)
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
                self._queue.put(item, timeout=0.1)
                return


class ReplayFeeder:
    """Puts each frame of a source into the mailbox once, in order, at the pace of the inference.

    Args:
        frames: the source's frames.
        mailbox: blocks while the previous frame waits.
        stop: ends the feeder.
        clock: delays each frame to its position in the recording; None for full speed.
        stepper: releases each frame; None without lock step.
        prefetch: prepares a frame while the previous one is inferred.

    Attributes:
        failure: the error that ended the feeder before the end of the source, None without one. The
            pipeline raises it, so that an incomplete replay does not pass for a complete one.
    """

    def __init__(
        self,
        frames: Iterator[Shown],
        mailbox: LosslessMailbox,
        stop: threading.Event,
        clock: MediaClock | None,
        stepper: "LockStep | None" = None,
        prefetch: Callable[[Frame], object | None] = lambda frame: None,
    ) -> None:
        self._frames = _ReadAhead(frames, stop)
        self._mailbox = mailbox
        self._stop = stop
        self._clock = clock
        self._stepper = stepper
        self._prefetch = prefetch
        self._thread = threading.Thread(target=self._run, name="play", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        """Starts both threads."""
        self._frames.start()
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits for both threads; returns whether they ended in time."""
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
                prefetched = self._prefetch(shown.frame)
                self._mailbox.put(shown.frame, shown.dropped, prefetched=prefetched)
        except Exception as error:
            self.failure = error  # the pipeline raises it on the main thread
        finally:
            if self._stepper is not None:
                self._stepper.end()
            self._mailbox.close_all()


@dataclass(slots=True)
class _StepRequest:
    """A request under way. left: frames whose messages are missing."""

    left: int
    answer: "Future[Result]" = field(default_factory=Future)
    messages: list[LabelsMessage] = field(default_factory=list)


class LockStep:
    """Releases one frame for each requested step, and answers with its message after publication.

    The threads of the control server, the feeder and the publisher call its methods.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[_StepRequest] = []
        self._allowed = 0
        self._under_way = 0
        self._ended = False

    def handle(self, request: Request) -> "Future[Result]":
        """Handles a request of the control server: `step`, with the number of `frames`.

        The answer contains the frames' `messages`, and `ended`: whether the source ended before
        the last requested frame. Raises ControlError for any other request.
        """
        if request.command != "step":
            raise ControlError(
                f"command {request.command!r:.40}: unknown to a replay", fix="commands: step"
            )
        frames = request.arguments.get("frames", 1)
        if type(frames) is not int or not 1 <= frames <= MOST_STEPS:
            raise ControlError(f"step: frames = {frames!r:.20}", fix=f"give 1 to {MOST_STEPS}")
        step = _StepRequest(frames)
        with self._changed:
            self._requests.append(step)
            self._allowed += frames
            self._changed.notify_all()
            self._answer_rest_if_ended()
        return step.answer

    def wait_for_step(self, stop: threading.Event) -> None:
        """Blocks until the next frame is requested, or the stop event is set."""
        with self._changed:
            while not self._allowed and not stop.is_set():
                self._changed.wait(0.1)
            if self._allowed:
                self._allowed -= 1
                self._under_way += 1

    def note(self, message: Message) -> None:
        """Notes a published message; on the publisher's thread."""
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
            self._answer_rest_if_ended()

    def end(self) -> None:
        """Notes that no further frame follows; answers the requests that wait for one."""
        with self._changed:
            self._ended = True
            self._answer_rest_if_ended()

    def _answer_rest_if_ended(self) -> None:
        if self._ended and not self._under_way:
            while self._requests:
                self._answer(self._requests.pop(0))

    def _answer(self, request: _StepRequest) -> None:
        messages = [to_map(message) for message in request.messages]
        ended = bool(request.left)
        with contextlib.suppress(InvalidStateError):  # the client has disconnected
            request.answer.set_result(Result(0, result={"messages": messages, "ended": ended}))
