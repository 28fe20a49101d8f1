"""Runtime: what every inference engine looks like to the rest of the node."""

from dataclasses import dataclass
from typing import Protocol

import torch

from node.perception.tasks.base import Outputs


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What runs the model: engine (`torch`), precision (`fp32`) and device (`cpu`, `cuda:0`)."""

    runtime: str
    precision: str
    device: str


class Runtime(Protocol):
    """Runs one network. Built with everything it needs; `infer` is called from one thread."""

    @property
    def info(self) -> RuntimeInfo:
        """What runs the model now."""
        ...

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why it runs below its configuration; empty when it does not."""
        ...

    def infer(self, pixels: torch.Tensor) -> Outputs:
        """The network's outputs for a batch.

        pixels: [n, height, width, 3] uint8 BGR, what `Preprocessor` made; not kept.
        Returns float32 arrays, valid until the next call. Raises ModelError where the engine
        fails.
        """
        ...
