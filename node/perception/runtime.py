"""Runtime: what every inference engine looks like to the rest of the node."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray


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

    def infer(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Logits of a batch.

        pixels: [n, height, width, 3] uint8 BGR, what `Preprocessor` made; not kept.
        Returns [n, classes] float32, valid until the next call. Raises ModelError where the engine
        fails.
        """
        ...
