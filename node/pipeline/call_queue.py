"""CallQueue: calls of other threads, which the inference thread runs between two frames."""

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from node.errors import ControlError

MAX_CALLS = 16384
"""More than all clients together may have open at once: no call is refused in normal use."""
CALLS_S = 0.005
"""Seconds for which calls may delay the next frame; the remaining calls run after that frame."""
_Result = TypeVar("_Result")


class CallQueue:
    """A bounded queue of calls. wake: wakes the inference thread."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue(MAX_CALLS)

    def call(self, work: Callable[[], _Result]) -> "Future[_Result]":
        """Queues `work` from any thread, without blocking. The Future has the result of `work` or
        its exception; a Future that is cancelled before its turn is not run. A full queue fails
        the Future with ControlError."""
        answer: Future[_Result] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

        try:
            self._calls.put_nowait(run)
        except queue.Full:
            answer.set_exception(ControlError("too many requests at once", fix="ask again"))
        self._wake()
        return answer

    def run(self) -> None:
        """Runs the queued calls, on the inference thread, for at most about `CALLS_S`."""
        until = time.monotonic() + CALLS_S
        while time.monotonic() < until:
            try:
                self._calls.get_nowait()()
            except queue.Empty:
                return
        self._wake()
