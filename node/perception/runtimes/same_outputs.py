"""Whether a network gives the same in another way: in a batch, compiled, or after a failure."""

import numpy as np
from numpy.typing import NDArray

from node.perception.tasks.base import Outputs

_TOLERANCE = 0.05
"""Largest difference of an output, relative to the largest output, that the rounding of 8 and 16
bits explains."""
_SAME_CLASS = 0.99
"""As `_TOLERANCE`, for maps of classes: the fraction of pixels of the same class."""


def same_outputs(outputs: Outputs, expected: Outputs) -> bool:
    """Whether all outputs are the expected ones, but for rounding. NaN is not."""
    return len(outputs) == len(expected) and all(
        same_output(*pair) for pair in zip(outputs, expected, strict=True)
    )


def same_output(output: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """As `same_outputs`, for one output."""
    if output.shape != expected.shape:
        return False
    if not expected.size:
        return True
    if expected.dtype == np.uint8:  # classes of pixels
        return bool((output == expected).mean() >= _SAME_CLASS)
    tolerance = _TOLERANCE * float(np.abs(expected).max())
    return bool(np.abs(output - expected).max() <= tolerance)
