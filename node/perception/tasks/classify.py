"""The task `classify`: turns logits into labels."""

import math

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError
from node.perception.tasks.base import Outputs, Prediction, of_image
from perception_client.messages.kinds import Label


class Classify:
    """Reads logits [n, classes].

    Args:
        names: of the classes, in order.
        top_k: number of labels.
    """

    def __init__(self, names: tuple[str, ...], top_k: int) -> None:
        self._names = names
        self._top_k = top_k

    def read(self, outputs: Outputs, index: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`."""
        logits = of_image(outputs[0], index)
        scores = class_scores(logits, len(self._names))
        return Prediction(labels=top_labels(scores, self._names, self._top_k), scores=scores)

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """As `Task.agreement`: 1 if the best label is the same, else 0."""
        actual, expected = (
            class_scores(candidate[0][0], len(self._names)) for candidate in (outputs, reference)
        )
        return float(actual.argmax() == expected.argmax()), float(np.abs(actual - expected).max())


def class_scores(logits: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
    """Returns the softmax of [classes] logits, computed in float64. Raises FrameError if they are
    not finite, or their number is not `classes`."""
    if logits.shape != (classes,):
        raise FrameError(
            f"model output: shape {logits.shape} for {classes} label names",
            fix="take weights and label names of the same model",
        )
    # As few calls as possible: after an inference numpy's code is in no CPU cache, and each call
    # costs ten times its time in a loop.
    if not math.isfinite(logits.sum()):
        raise FrameError(
            "model output: not finite (nan or infinity)",
            fix="the weights are damaged or overflow at this precision, try another of either",
        )
    powers: NDArray[np.float64] = np.subtract(logits, logits.max(), dtype=np.float64)
    np.exp(powers, out=powers)
    powers /= powers.sum()
    return powers


def top_labels(
    scores: NDArray[np.float64], names: tuple[str, ...], top_k: int
) -> tuple[Label, ...]:
    """Returns the `top_k` most probable classes, best first; for equal scores, the lower id first.

    Args:
        scores: [classes] float64.
        names: of the classes, in order.
        top_k: at least 1; limited to the number of classes.
    """
    top_k = min(top_k, len(scores))
    candidates = scores.argpartition(-top_k)[-top_k:]
    best = sorted(
        zip(scores[candidates].tolist(), candidates.tolist(), strict=True), key=_best_first
    )
    return tuple(Label(id=class_id, name=names[class_id], score=score) for score, class_id in best)


def _best_first(scored: tuple[float, int]) -> tuple[float, int]:
    return -scored[0], scored[1]
