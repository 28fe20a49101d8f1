"""run_threads: starts, supervises and stops the threads of a run, live or replayed."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.errors import SourceError
from node.pipeline.inference_loop import InferenceLoop

TICK_S = 0.05
"""Period of supervision: a stall is published at most this much late."""
JOIN_TIMEOUT_S = 1.0
"""How long a stop waits for all threads together; the whole stop has 2 s."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    frames: messages sent for frames. dropped: frames dropped for a newer one. summaries: what each
    source contained, in words. stopped: whether a stop came before the end of the sources.
    skipped: what each source could not read, in words. unrecorded: why the recording is incomplete,
    None where it is not.
    """

    frames: int
    dropped: int
    summaries: tuple[str, ...]
    stopped: bool
    skipped: tuple[str, ...] = ()
    unrecorded: str | None = None

    def check(self) -> None:
        """Raises SourceError where something was skipped, unless a stop came before the end."""
        if self.skipped and not self.stopped:
            raise SourceError(f"{self.frames} labelled, {', '.join(self.skipped)}")


class Feeder(Protocol):
    """A thread that puts frames into the mailbox."""

    @property
    def failure(self) -> Exception | None:
        """The error that ended the thread, None without one."""
        ...

    def start(self) -> None:
        """Starts the thread."""
        ...

    def join(self, timeout_s: float) -> bool:
        """Waits for the end of the thread; whether it ended in time."""
        ...


def run_threads(
    inference_loop: InferenceLoop,
    feeders: Sequence[Feeder],
    stop: threading.Event,
    *,
    each_tick: Callable[[bool], None],
) -> bool:
    """Runs the threads until the stop event or the end of the inference loop, and joins them.

    Capture starts only after the model is loaded, so no frame waits for the model. each_tick:
    called every `TICK_S` with whether capture has started; what it raises ends the run. Raises the
    failure of a thread. Returns whether a stop came before the end of the sources.
    """
    feeding = False
    inference_loop.start()
    try:
        while not stop.is_set() and not inference_loop.ended.wait(TICK_S):
            if inference_loop.ready.is_set() and not feeding:
                feeding = True
                for feeder in feeders:
                    feeder.start()
            each_tick(feeding)
            _raise_failure(feeders)
    finally:
        stopped = stop.is_set()
        stop.set()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        if inference_loop.ready.is_set():  # a model that loads has published nothing
            inference_loop.join(JOIN_TIMEOUT_S)
        for feeder in feeders if feeding else ():
            feeder.join(max(0.0, deadline - time.monotonic()))
    if inference_loop.failure is not None:
        raise inference_loop.failure
    _raise_failure(feeders)
    return stopped


def _raise_failure(feeders: Sequence[Feeder]) -> None:
    for feeder in feeders:
        failure = feeder.failure
        if failure is not None:
            raise failure
