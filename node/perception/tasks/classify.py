"""The task `classify`: from logits to labels."""

import math

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError
from node.perception.tasks.base import Outputs, Prediction
from perception_client.messages.kinds import Label


class Classify:
    """Reads logits [n, classes]. names: one for each class; top_k: labels wanted."""

    def __init__(self, names: tuple[str, ...], top_k: int) -> None:
        self._names = names
        self._top_k = top_k

    def read(self, outputs: Outputs, place: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`."""
        logits = outputs[0][place]
        scores = class_scores(logits, len(self._names))
        return Prediction(labels=top_labels(scores, self._names, self._top_k), scores=scores)

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """Whether the best label is the same."""
        got, wanted = (class_scores(x[0][0], len(self._names)) for x in (outputs, reference))
        return float(got.argmax() == wanted.argmax()), float(np.abs(got - wanted).max())


def class_scores(logits: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
    """The softmax of [classes] logits, taken in float64.

    Raises FrameError for logits that are not finite or not as many as the classes.
    """
    if logits.shape != (classes,):
        raise FrameError(
            f"model output: shape {logits.shape} for {classes} label names; "
            "take weights and label names of the same model"
        )
    # Few calls: between two inferences numpy's code is in no cache, and each costs ten times what
    # it does in a loop.
    if not math.isfinite(logits.sum()):
        raise FrameError(
            "model output: not finite (nan or infinity); "
            "the weights are damaged or overflow at this precision, try another of either"
        )
    powers: NDArray[np.float64] = np.subtract(logits, logits.max(), dtype=np.float64)
    np.exp(powers, out=powers)
    powers /= powers.sum()
    return powers


def top_labels(
    scores: NDArray[np.float64], names: tuple[str, ...], top_k: int
) -> tuple[Label, ...]:
    """The `top_k` most probable classes, best first, the lower id first where two are equal.

    scores: [classes]. top_k: at least 1; fewer classes than that give as many labels as there are.
    """
    top_k = min(top_k, len(scores))
    few = scores.argpartition(-top_k)[-top_k:]
    best = sorted(zip(scores[few].tolist(), few.tolist(), strict=True), key=_best_first)
    return tuple(Label(id=number, name=names[number], score=score) for score, number in best)


def _best_first(scored: tuple[float, int]) -> tuple[float, int]:
    return -scored[0], scored[1]
