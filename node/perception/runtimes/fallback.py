"""CpuFallback: a GPU runtime that a CPU runtime replaces on failure."""

import logging
from collections.abc import Callable

import torch

from node.errors import ModelError
from node.perception.runtimes.base import Runtime, RuntimeInfo
from node.perception.tasks.base import Outputs

log = logging.getLogger(__name__)


class CpuFallback:
    """Runs on the GPU until it fails, at the start or later, then on the CPU permanently.

    After the start, the caller detects the failure, since it can appear anywhere; the caller then
    calls `take_over` and repeats the frame.

    Args:
        primary: builds the GPU runtime.
        standby: builds the CPU runtime; called only when needed.
        device: name of the GPU, for `degraded`.

    Raises:
        ModelError: both failed.
    """

    def __init__(
        self, primary: Callable[[], Runtime], standby: Callable[[], Runtime], device: str
    ) -> None:
        self._standby = standby
        self._device = device
        self.degraded: tuple[str, ...] = ()
        try:
            self._runtime = primary()
        except (ModelError, RuntimeError) as error:
            self.take_over(error)

    @property
    def info(self) -> RuntimeInfo:
        """What runs the model now."""
        return self._runtime.info

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """As `Runtime.infer`."""
        return self._runtime.infer(pixels)

    def take_over(self, error: Exception) -> None:
        """Replaces the failed runtime by the standby. Raises ModelError if the standby fails too.

        Args:
            error: the failure, for the log.
        """
        log.error("%s; running on the CPU from here on", error)
        self._runtime = self._standby()
        self.degraded = (f"{self._device} failed, running on cpu",)
