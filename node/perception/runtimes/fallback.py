"""CpuFallback: a runtime on a GPU that the CPU replaces while the GPU fails."""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from node.errors import ModelError
from node.perception.runtimes.base import Pixels, Runtime, RuntimeInfo
from node.perception.runtimes.same_outputs import same_outputs
from node.perception.tasks.base import Outputs

log = logging.getLogger(__name__)

FIRST_RETRY_S = 10.0
"""From a failure to the first trial: a GPU that another process filled is often free by then."""
MAX_RETRY_S = 600.0
"""Longest time between two trials: a trial takes seconds of CPU time from the inference."""
MAX_TRIAL_SHAPES = 16
"""Input shapes that a trial runs: one for each size of batch, or for each size of frame."""
NICENESS = 10
"""Of the trial's thread: the inference on the CPU has priority."""


class RetrySchedule:
    """When the next trial of a device is due. Each failure doubles the wait, from `FIRST_RETRY_S`
    to `MAX_RETRY_S`; a device that then works for longer than the wait resets it. Times in s on
    CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._wait_s = 0.0
        self._due_at = float("inf")
        self._recovered_at: float | None = None

    def note_failure(self, now_s: float) -> float:
        """Notes a failure of the device or of a trial; the wait until the next trial, in s."""
        if self._recovered_at is not None and now_s - self._recovered_at > self._wait_s:
            self._wait_s = 0.0
        self._recovered_at = None
        self._wait_s = min(2 * self._wait_s, MAX_RETRY_S) or FIRST_RETRY_S
        self._due_at = now_s + self._wait_s
        return self._wait_s

    def note_recovery(self, now_s: float) -> None:
        """Notes that the device works again: no trial is due until the next failure."""
        self._recovered_at, self._due_at = now_s, float("inf")

    def is_due(self, now_s: float) -> bool:
        """Whether a trial is due."""
        return now_s >= self._due_at


class CpuFallback:
    """Runs on the GPU until the GPU fails, at the start or in flight, then on the CPU, and on the
    GPU again once a trial succeeds: it must give the outputs for noise that it gave at first.

    In flight, the caller notices the failure of the GPU, which may show in any call, calls
    `take_over` and repeats the frame; the caller also calls `recover` before each inference. A
    trial builds the GPU's runtime anew and infers with it, on a thread of its own: a driver that
    hangs never holds up the inference. A process whose CUDA context is corrupt stays on the CPU:
    each trial fails there.
    """

    def __init__(
        self,
        primary: Callable[[], Runtime],
        standby: Callable[[], Runtime],
        device: str,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """primary, standby: build the runtime on the GPU and on the CPU; the standby is built on
        the first failure. device: name of the GPU. Raises ModelError where both fail."""
        self._build_primary = primary
        self._build_standby = standby
        self._device = device
        self._now_s = now_s
        self._standby: Runtime | None = None
        self._schedule = RetrySchedule()
        self._trial: Future[Runtime] | None = None
        self._canaries: dict[tuple[int, ...], Outputs | None] = {}
        self._known_error: str | None = None
        self.degraded: tuple[str, ...] = ()
        try:
            self._runtime = primary()
        except (ModelError, RuntimeError) as error:
            self.take_over(error)

    @property
    def info(self) -> RuntimeInfo:
        """The runtime in use."""
        return self._runtime.info

    def infer(self, pixels: Pixels) -> Outputs:
        """Outputs for a batch, as `Runtime.infer`."""
        shape = tuple(pixels.shape)
        if shape not in self._canaries and len(self._canaries) < MAX_TRIAL_SHAPES:
            # The warm-up has most shapes, so this costs no frame.
            self._canaries[shape] = None if self.degraded else _expected(self._runtime, shape)
        return self._runtime.infer(pixels)

    def take_over(self, error: Exception) -> None:
        """Replaces the GPU by the CPU after an error. Raises ModelError where the CPU fails too."""
        wait_s = self._schedule.note_failure(self._now_s())
        log.error("%s; running on the CPU, the next try of the GPU is in %g s", error, wait_s)
        if self._standby is None:
            self._standby = self._build_standby()
        self._runtime = self._standby
        self.degraded = (f"{self._device} failed, running on cpu",)

    def recover(self) -> bool:
        """Begins a trial of the GPU when one is due, and uses the GPU once a trial has succeeded;
        whether this call changed to the GPU. Never blocks."""
        if not self.degraded:
            return False
        if self._trial is None:
            if self._schedule.is_due(self._now_s()):
                self._trial = self._begin_trial()
            return False
        if not self._trial.done():
            return False
        trial, self._trial = self._trial, None
        error = trial.exception()
        if error is not None:
            self._note_failed_trial(error)
            return False
        self._runtime, self.degraded = trial.result(), ()
        self._schedule.note_recovery(self._now_s())
        self._known_error = None
        log.warning("%s works again; running on it", self._device)
        return True

    def _begin_trial(self) -> "Future[Runtime]":
        trial: Future[Runtime] = Future()
        canaries = tuple(self._canaries.items())

        def run() -> None:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            try:
                runtime = self._build_primary()
                for shape, expected in canaries:
                    # Allocates, and captures what the first frames need.
                    outputs = _canary(runtime, shape)
                    if expected is not None and not same_outputs(outputs, expected):
                        raise ModelError(f"{self._device} gives other outputs than before")
                trial.set_result(runtime)
            except Exception as error:  # whatever the driver raises: the CPU goes on
                trial.set_exception(error)

        threading.Thread(target=run, name="gpu-trial", daemon=True).start()
        return trial

    def _note_failed_trial(self, error: BaseException) -> None:
        wait_s = self._schedule.note_failure(self._now_s())
        reason = str(error) or repr(error)
        level = logging.DEBUG if reason == self._known_error else logging.WARNING
        self._known_error = reason
        log.log(level, "%s still fails: %s; the next try is in %g s", self._device, reason, wait_s)


def _expected(runtime: Runtime, shape: tuple[int, ...]) -> Outputs | None:
    """Returns the outputs of the canary; None where they differ from one time to the next, as the
    number of a detector's boxes in noise can."""
    outputs = _canary(runtime, shape)
    return outputs if same_outputs(_canary(runtime, shape), outputs) else None


def _canary(runtime: Runtime, shape: tuple[int, ...]) -> Outputs:
    """Returns the outputs for noise, which is the same each time."""
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return tuple(output.copy() for output in runtime.infer(noise))
