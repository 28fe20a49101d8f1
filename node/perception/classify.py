"""The task `classify`: from logits to labels."""

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError
from node.perception.task import Outputs, Seen
from node.wire.messages import Label


class Classify:
    """Reads logits [n, classes]. names: one for each class; top_k: labels wanted."""

    def __init__(self, names: tuple[str, ...], top_k: int) -> None:
        self._names = names
        self._top_k = top_k

    def read(self, outputs: Outputs, place: int, size: tuple[int, int]) -> Seen:
        """As `Task.read`."""
        logits = outputs[0][place]
        scores = class_scores(logits, len(self._names))
        return Seen(labels=top_labels(scores, self._names, self._top_k), scores=scores)

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
    if not np.isfinite(logits).all():
        raise FrameError(
            "model output: not finite (nan or infinity); "
            "the weights are damaged or overflow at this precision, try another of either"
        )
    powers = np.exp(logits.astype(np.float64) - logits.max())
    scores: NDArray[np.float64] = powers / powers.sum()
    return scores


def top_labels(
    scores: NDArray[np.float64], names: tuple[str, ...], top_k: int
) -> tuple[Label, ...]:
    """The `top_k` most probable classes, best first, the lower id first where two are equal.

    scores: [classes]. top_k: at least 1; fewer classes than that give as many labels as there are.
    """
    top_k = min(top_k, len(scores))
    # Few are wanted of many: only those that can be among them are sorted.
    candidates = np.flatnonzero(scores >= np.partition(scores, -top_k)[-top_k])
    best = candidates[np.argsort(-scores[candidates], kind="stable")][:top_k]
    return tuple(
        Label(id=number, name=names[number], score=score)
        for number, score in zip(best.tolist(), scores[best].tolist(), strict=True)
    )
