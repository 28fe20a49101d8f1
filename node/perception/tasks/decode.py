"""Decoders: from a detector's raw outputs to candidate boxes, vectorised.

A candidate's box is (x1, y1, x2, y2) in pixels of the network's input.
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
    """boxes [n, 4] float32; scores [n] float32; ids [n] int64.

    suppressed: non-maximum suppression is done already.
    """

    boxes: Floats
    scores: Floats
    ids: NDArray[np.int64]
    suppressed: bool


Decoder = Callable[[Outputs, int, float, int, tuple[int, int]], Candidates]
"""(outputs, place in the batch, lowest score, classes, input's height and width in px)"""


def yolox(
    outputs: Outputs, place: int, lowest: float, classes: int, input_px: tuple[int, int]
) -> Candidates:
    """YOLOX: [n, cells, 5 + classes], boxes relative to their cell as (x, y, log w, log h) in
    strides, then objectness and class scores, both through the sigmoid already."""
    raw = outputs[0][place]
    _check_finite(raw)
    cells, strides = _grid(input_px)
    if raw.shape != (len(cells), 5 + classes):
        raise FrameError(
            f"model output: {list(raw.shape)}, where the yolox decoder wants "
            f"{[len(cells), 5 + classes]} of {classes} classes; correct labels or input.size"
        )
    # A class score is at most 1, so objectness alone rules most cells out.
    likely = np.flatnonzero(raw[:, 4] >= lowest)
    raw, cells, strides = raw[likely], cells[likely], strides[likely]
    ids = raw[:, 5:].argmax(1)
    scores = raw[:, 4] * raw[np.arange(len(raw)), 5 + ids]
    good = scores >= lowest
    raw, ids = raw[good], ids[good]
    centre = (raw[:, :2] + cells[good]) * strides[good]
    with np.errstate(over="ignore"):
        half = np.exp(raw[:, 2:4]) * strides[good] / 2
    _check_finite(half)
    boxes = np.concatenate((centre - half, centre + half), axis=1)
    return Candidates(boxes, scores[good], ids, suppressed=False)


def triple(
    outputs: Outputs, place: int, lowest: float, classes: int, input_px: tuple[int, int]
) -> Candidates:
    """The three outputs that exporters write after their own non-maximum suppression: boxes
    [n, k, 4] or [k, 4], scores and classes [n, k] or [k]."""
    boxes, scores, ids = (
        x[place] if x.ndim == wanted else x for x, wanted in zip(outputs, (3, 2, 2), strict=True)
    )
    fits = boxes.ndim == 2 and boxes.shape[1] == 4 and scores.shape == ids.shape == boxes.shape[:1]
    if not fits:
        raise FrameError(
            f"model output: boxes {list(boxes.shape)}, scores {list(scores.shape)}, classes "
            f"{list(ids.shape)}; the boxes decoder wants [k, 4], [k], [k]"
        )
    for part in (boxes, scores, ids):
        _check_finite(part)
    good = scores >= lowest
    boxes, scores, ids = boxes[good], scores[good], ids[good]
    if len(boxes) and boxes.max() <= 1.5:
        raise FrameError(
            "model output: boxes lie between 0 and 1; the boxes decoder wants pixels of the "
            "network's input: export the model so"
        )
    return Candidates(boxes, scores, ids.astype(np.int64), suppressed=True)


DECODERS: dict[str, Decoder] = {"yolox": yolox, "boxes": triple}


@functools.cache
def _grid(input_px: tuple[int, int]) -> tuple[Floats, Floats]:
    """Each cell's column and row [cells, 2], and its stride in px [cells, 1]."""
    cells, strides = [], []
    for stride in _STRIDES_PX:
        rows, columns = np.mgrid[: input_px[0] // stride, : input_px[1] // stride]
        cells.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def cells_of(input_px: tuple[int, int]) -> int:
    """How many cells YOLOX has for an input of this height and width."""
    return len(_grid(input_px)[0])


def _check_finite(values: Floats) -> None:
    # One nan or infinity makes the sum one; cheaper than looking at each.
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(values.sum(dtype=np.float64))
    if not finite:
        raise FrameError(
            "model output: not finite (nan or infinity); "
            "the weights are damaged or overflow at this precision, try another of either"
        )
