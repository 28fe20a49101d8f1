"""Grid: the cells of a detector's heads."""

import functools

import numpy as np

from node.perception.tasks.decoders.base import Floats, Size

STRIDES_PX = (8, 16, 32)
"""Strides of the three grids of YOLO models (Megvii, YOLOX, yolox/utils/demo_utils.py)."""
_FAMILY = (STRIDES_PX, (4, *STRIDES_PX), (*STRIDES_PX, 64))
"""Strides of models with a grid more, for small objects or large pictures."""


@functools.cache
def grid(input_px: Size) -> tuple[Floats, Floats]:
    """Returns the column and row of each cell [cells, 2], and its stride in px [cells, 1]."""
    cells, strides = [], []
    for stride in STRIDES_PX:
        # A convolution pads the last cell of a size that is no multiple of its stride.
        rows, columns = np.mgrid[: -(-input_px[0] // stride), : -(-input_px[1] // stride)]
        cells.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def cells_of(input_px: Size) -> int:
    """Returns the number of cells of the strides 8, 16 and 32."""
    return _cells(input_px, STRIDES_PX)


def is_grid(cells: int, input_px: Size, anchors: int = 1) -> bool:
    """Whether a number of cells is that of a YOLO model with this many anchors a cell."""
    return cells in {anchors * _cells(input_px, strides) for strides in _FAMILY}


def are_cells(rows: int, input_px: Size) -> bool:
    """Whether the rows of an output with six columns are cells, of a YOLO model with one or two
    classes, and not objects. A length that the graph leaves free, -1, may be either."""
    return rows < 0 or is_grid(rows, input_px) or is_grid(rows, input_px, anchors=3)


def _cells(input_px: Size, strides: tuple[int, ...]) -> int:
    return sum(-(-input_px[0] // stride) * -(-input_px[1] // stride) for stride in strides)
