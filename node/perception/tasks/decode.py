"""Decoders: turn a detector's raw outputs into candidate boxes.

Boxes are (x1, y1, x2, y2) in pixels of the network's input.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError
from node.perception.tasks.base import Outputs

Floats = NDArray[np.float32]
_STRIDES_PX = (8, 16, 32)
"""Strides of YOLOX's three grids (Megvii, YOLOX, yolox/utils/demo_utils.py)."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes of one image.

    Attributes:
        boxes: [n, 4] float32.
        scores: [n] float32.
        ids: [n] int64, class ids.
        suppressed: the network has applied non-maximum suppression.
    """

    boxes: Floats
    scores: Floats
    ids: NDArray[np.int64]
    suppressed: bool


Decoder = Callable[[Outputs, int, float, int, tuple[int, int]], Candidates]
"""Decodes one image: (outputs, index in the batch, score threshold, number of classes, (height,
width) of the network's input in px) to candidates. Raises FrameError for invalid outputs."""


def yolox(
    outputs: Outputs, index: int, threshold: float, classes: int, input_px: tuple[int, int]
) -> Candidates:
    """Decodes YOLOX: [n, cells, 5 + classes], the box as (x, y, log w, log h) relative to its cell
    in strides, then objectness and class scores, both after the sigmoid."""
    raw = outputs[0][index]
    _check_finite(raw)
    cells, strides = _grid(input_px)
    if raw.shape != (len(cells), 5 + classes):
        raise FrameError(
            f"model output: {list(raw.shape)}, but YOLOX gives {[len(cells), 5 + classes]} for "
            f"{input_px[0]} x {input_px[1]} pixels and {classes} labels",
            fix="export YOLOX's raw output of the strides 8, 16 and 32, and name its labels",
        )
    # A class score is at most 1, so objectness alone excludes most cells.
    kept = np.flatnonzero(raw[:, 4] >= threshold)
    raw, cells, strides = raw[kept], cells[kept], strides[kept]
    ids = raw[:, 5:].argmax(1)
    scores = raw[:, 4] * raw[np.arange(len(raw)), 5 + ids]
    accepted = scores >= threshold
    raw, ids = raw[accepted], ids[accepted]
    centre = (raw[:, :2] + cells[accepted]) * strides[accepted]
    with np.errstate(over="ignore"):
        half_size = np.exp(raw[:, 2:4]) * strides[accepted] / 2
    _check_finite(half_size)
    boxes = np.concatenate((centre - half_size, centre + half_size), axis=1)
    return Candidates(boxes, scores[accepted], ids, suppressed=False)


def triple(
    outputs: Outputs, index: int, threshold: float, classes: int, input_px: tuple[int, int]
) -> Candidates:
    """Decodes the three outputs of a graph that was exported with non-maximum suppression: boxes
    [n, k, 4] or [k, 4], scores and classes [n, k] or [k]."""
    boxes, scores, ids = (
        output[index] if output.ndim == batched_ndim else output
        for output, batched_ndim in zip(outputs, (3, 2, 2), strict=True)
    )
    fits = boxes.ndim == 2 and boxes.shape[1] == 4 and scores.shape == ids.shape == boxes.shape[:1]
    if not fits:
        raise FrameError(
            f"model output: boxes {list(boxes.shape)}, scores {list(scores.shape)}, classes "
            f"{list(ids.shape)}",
            fix="the boxes decoder needs [k, 4], [k], [k]",
        )
    for part in (boxes, scores, ids):
        _check_finite(part)
    accepted = scores >= threshold
    boxes, scores, ids = boxes[accepted], scores[accepted], ids[accepted]
    if len(boxes) and boxes.max() <= 1.5:
        raise FrameError(
            "model output: boxes lie between 0 and 1",
            fix="the boxes decoder needs pixels of the network's input: export the model so",
        )
    return Candidates(boxes, scores, ids.astype(np.int64), suppressed=True)


DECODERS: dict[str, Decoder] = {"yolox": yolox, "boxes": triple}


@functools.cache
def _grid(input_px: tuple[int, int]) -> tuple[Floats, Floats]:
    """Returns the column and row of each cell [cells, 2], and its stride in px [cells, 1]."""
    cells, strides = [], []
    for stride in _STRIDES_PX:
        # A convolution pads the last cell of a size that is no multiple of its stride.
        rows, columns = np.mgrid[: -(-input_px[0] // stride), : -(-input_px[1] // stride)]
        cells.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def cells_of(input_px: tuple[int, int]) -> int:
    """Returns the number of cells of YOLOX for an input of (height, width) in px."""
    return len(_grid(input_px)[0])


def _check_finite(values: Floats) -> None:
    # A NaN or infinity propagates to the sum; cheaper than a check of each value.
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(values.sum(dtype=np.float64))
    if not finite:
        raise FrameError(
            "model output: not finite (nan or infinity)",
            fix="the weights are damaged or overflow at this precision, try another of either",
        )
