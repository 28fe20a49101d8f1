"""The decoder `anchor_free`: heads without anchors and objectness, as YOLOv8, v9, v11 and v12 are
exported."""

from collections.abc import Sequence

import numpy as np

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    LETTERBOX,
    Candidates,
    Floats,
    Size,
    check_finite,
    check_pixels,
    check_scores,
    corners,
    fits,
    only,
    trained_with,
)
from node.perception.tasks.decoders.grid import are_cells, is_grid

_ROW = 6
"""Columns of `end_to_end`, and of two classes."""


class AnchorFree:
    """As `BoxDecoder`. Cells may also stand before the columns; where both lengths are 4 + classes,
    the order cannot be known, and the output is refused."""

    name = "anchor_free"
    reads = (
        "`[n, 4 + classes, cells]` or `[n, cells, 4 + classes]`: cx, cy, w, h in pixels of the "
        "network's input and the class scores from 0 to 1, as YOLOv8, v9, v11 and v12 are "
        "exported; the node suppresses it"
    )
    antialias = False
    usual_input = LETTERBOX
    is_input_usual = True
    first_class = 0
    output_names = ("boxes",)
    whole: tuple[int, ...] = ()

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`."""
        output, columns = only(outputs, self.name), 4 + classes
        shape = output.shape
        if not fits(shape, (None, columns, None)) and not fits(shape, (None, None, columns)):
            raise ModelError(
                f'gives {output.described}, and decoder "{self.name}" reads [n, {columns}, cells] '
                f"for {classes} label{'s' if classes > 1 else ''}"
            )
        if shape is not None and shape[1:] == (columns, columns):
            raise ModelError(_ambiguous(output.described, columns), fix=_OTHER_SIZE)
        if shape is not None and shape[2] == _ROW and not are_cells(shape[1], input_px):
            raise ModelError(f"gives {output.described}, rows of objects and not of cells")
        return (0,)

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`."""
        shape = outputs[0].shape
        if len(outputs) != 1 or not shape or len(shape) != 3 or shape[1] == shape[2]:
            return None
        for columns, cells in (shape[1:], shape[:0:-1]):
            # YOLOv5 and YOLOX leave the number of cells free before the columns.
            if columns > 4 and (is_grid(cells, input_px) or (cells, columns) == (-1, shape[1])):
                return columns - 4
        return None

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """As `BoxDecoder.decode`: the class of a cell is its best one."""
        rows = of_image(outputs[0], index)
        raw = self._columns_first(rows, 4 + classes)
        if rows.shape[1] == _ROW and not are_cells(len(rows), input_px):
            raise FrameError(
                f"model output: {list(rows.shape)}, rows of objects and not of cells",
                fix='write decoder = "end_to_end"',
            )
        check_finite(raw)
        best = raw[4:].max(0)
        check_scores(best, self.name)
        kept = np.flatnonzero(best >= threshold)
        boxes = corners(np.ascontiguousarray(raw[:4, kept].T))
        check_pixels(boxes, self.name)
        return Candidates(boxes, best[kept], raw[4:, kept].argmax(0), suppressed=False)

    def _columns_first(self, raw: Floats, columns: int) -> Floats:
        described = str(list(raw.shape))
        if raw.ndim != 2 or columns not in raw.shape:
            raise FrameError(
                f'model output: {described}, but decoder "{self.name}" reads [{columns}, cells] '
                f"for {columns - 4} labels",
                fix=trained_with(min(raw.shape) - 4),
            )
        if raw.shape == (columns, columns):
            raise FrameError(f"model output: {_ambiguous(described, columns)}", fix=_OTHER_SIZE)
        return raw if raw.shape[0] == columns else raw.T


def _ambiguous(described: str, columns: int) -> str:
    return f"{described}: both lengths are the 4 + {columns - 4} columns, so their order is unknown"


_OTHER_SIZE = "export the model for another input.size"
DECODERS = (AnchorFree(),)
