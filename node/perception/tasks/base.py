"""Task: how a network's outputs become what was seen."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception_client.messages.kinds import Area, Detection, Label, Mask

Outputs = tuple[NDArray[np.float32], ...]
"""A network's outputs, each [n, ...], in the order of its graph."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is in one picture.

    scores: [classes] float64, every class of a classification, for smoothing; else None.
    """

    labels: tuple[Label, ...] = ()
    detections: tuple[Detection, ...] = ()
    areas: tuple[Area, ...] = ()
    masks: tuple[Mask, ...] = ()
    scores: NDArray[np.float64] | None = None


class Task(Protocol):
    """Reads the outputs of one kind of network."""

    def read(self, outputs: Outputs, place: int, size: tuple[int, int]) -> Prediction:
        """What is in picture `place` of the batch, whose frame has `size` (height, width) in px.

        Raises FrameError for outputs that cannot be believed.
        """
        ...

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """How far the outputs for one picture tell the same as the reference's: a share, 0 to 1,
        and the largest difference of a score."""
        ...
