"""The task `classify`: from logits to labels."""

import numpy as np
from numpy.typing import NDArray

from node.errors import ModelError
from node.wire.messages import Label


def top_labels(
    logits: NDArray[np.float32], names: tuple[str, ...], top_k: int
) -> tuple[Label, ...]:
    """The `top_k` most probable classes, best first, the lower id first where two are equal.

    logits: [classes] float32; the scores are their softmax, taken in float64.
    names: one for each class. Fewer classes than `top_k` give as many labels as there are.
    Raises ModelError for logits that are not finite or not as many as the names.
    """
    if logits.shape != (len(names),):
        raise ModelError(
            f"model output: shape {logits.shape} for {len(names)} label names; "
            "take weights and label names of the same model"
        )
    if not np.isfinite(logits).all():
        raise ModelError(
            "model output: not finite (nan or infinity); "
            "the weights are damaged or overflow at this precision, try another of either"
        )
    powers = np.exp(logits.astype(np.float64) - logits.max())
    scores = powers / powers.sum()
    best = np.argsort(-logits, kind="stable")[: max(top_k, 0)]
    return tuple(Label(id=int(i), name=names[i], score=float(scores[i])) for i in best)
