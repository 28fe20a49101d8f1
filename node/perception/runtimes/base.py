"""Runtime: the interface of every inference engine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.perception.tasks.base import Outputs

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = "NDArray[np.uint8] | torch.Tensor"
"""[n, height, width, 3] uint8 BGR: an array on the CPU, a tensor on a GPU."""


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What runs the model.

    Attributes:
        runtime: engine, such as `torch`.
        precision: such as `fp32`.
        device: `cpu` or `cuda:0`.
    """

    runtime: str
    precision: str
    device: str


class Runtime(Protocol):
    """Runs one network. `infer` is not thread-safe."""

    @property
    def info(self) -> RuntimeInfo:
        """What runs the model now."""
        ...

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why it runs below its configuration, in words; empty during normal operation."""
        ...

    def infer(self, pixels: Pixels) -> Outputs:
        """Runs the network on a batch.

        Args:
            pixels: as the preprocessing for the runtime's device produces; not kept.

        Returns:
            float32 arrays, valid until the next call.

        Raises:
            ModelError: the engine failed.
        """
        ...
