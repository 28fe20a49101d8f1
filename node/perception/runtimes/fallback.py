"""CpuFallback: a runtime on a GPU whose place one on the CPU takes when it fails."""

import logging
from collections.abc import Callable

import torch

from node.errors import ModelError
from node.perception.runtimes.base import Runtime, RuntimeInfo
from node.perception.tasks.base import Outputs

log = logging.getLogger(__name__)


class CpuFallback:
    """Runs on the GPU until that fails, at the start or in flight, then on the CPU for good.

    primary, standby: build the two; the standby only when it is needed. In flight it is for the
    caller to say that the GPU failed, since that may show anywhere, and to give the frame again.
    Raises ModelError where the standby fails too.
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
        """Of what runs now."""
        return self._runtime.info

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """Outputs for a batch, as `Runtime.infer`."""
        return self._runtime.infer(pixels)

    def take_over(self, error: Exception) -> None:
        """Puts the standby in the place of what failed with this error."""
        log.error("%s; running on the CPU from here on", error)
        self._runtime = self._standby()
        self.degraded = (f"{self._device} failed, running on cpu",)
