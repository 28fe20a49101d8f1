"""Task: the interface that turns a network's outputs into a prediction."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError
from perception_client.messages.kinds import Area, Detection, Label, Mask

Outputs = tuple[NDArray[np.float32], ...]
"""A network's outputs, each [n, ...] float32, in the order of its graph. In place of a
segmentation's logits, a GPU gives the class of each pixel, [n, h, w] uint8."""


def of_image(output: NDArray[np.float32], index: int) -> NDArray[np.float32]:
    """Returns the part of one image of an output [n, ...]. Raises FrameError for an output without
    that part."""
    if output.ndim == 0 or index >= len(output):
        raise FrameError(
            f"model output: {list(output.shape)} has no part for each picture",
            fix="export it with the batch as the first length of each output",
        )
    part: NDArray[np.float32] = output[index]
    return part


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one image shows.

    Attributes:
        labels: of a classification, best first.
        detections: of a detection, best first.
        areas: classes of a segmentation by area, largest first.
        masks: of a segmentation, if configured.
        scores: [classes] float64, the scores of all classes of a classification, for smoothing;
            else None.
    """

    labels: tuple[Label, ...] = ()
    detections: tuple[Detection, ...] = ()
    areas: tuple[Area, ...] = ()
    masks: tuple[Mask, ...] = ()
    scores: NDArray[np.float64] | None = None


class Task(Protocol):
    """Reads the outputs of one kind of network."""

    def read(self, outputs: Outputs, index: int, size: tuple[int, int]) -> Prediction:
        """Returns the prediction for one image of a batch.

        Args:
            outputs: of the whole batch.
            index: of the image in the batch.
            size: (height, width) of its frame in pixels.

        Raises:
            FrameError: invalid outputs, such as NaN.
        """
        ...

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """Compares the outputs for one image with reference outputs. Returns the agreement, 0 to 1,
        and the largest difference of a score."""
        ...
