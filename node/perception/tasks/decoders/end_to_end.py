"""The decoder `end_to_end`: one row an object, as YOLOv10 and YOLO26 are exported."""

from collections.abc import Sequence

import numpy as np

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    ANY,
    LETTERBOX,
    Candidates,
    Size,
    check_finite,
    check_ids,
    check_pixels,
    check_scores,
    fits,
    only,
)
from node.perception.tasks.decoders.grid import are_cells

_COLUMNS = 6


class EndToEnd:
    """As `BoxDecoder`."""

    name = "end_to_end"
    reads = (
        "`[n, k, 6]`: x1, y1, x2, y2 in pixels of the network's input, score, class, without any "
        "further suppression, as YOLOv10 and YOLO26 are exported, and others with their suppression"
    )
    antialias = False
    usual_input = LETTERBOX
    is_input_usual = True
    first_class = 0
    output_names = ("boxes",)
    whole: tuple[int, ...] = ()

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`."""
        output = only(outputs, self.name)
        shape = output.shape
        of_rows = fits(shape, (None, None, _COLUMNS))
        if not of_rows or (shape is not None and shape[1] > 0 and are_cells(shape[1], input_px)):
            raise ModelError(
                f'gives {output.described}, and decoder "{self.name}" reads [n, k, {_COLUMNS}]: '
                "x1, y1, x2, y2, score, class of k objects"
            )
        return (0,)

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`. As many rows as cells would be the heads of one or two
        classes."""
        shape = outputs[0].shape
        if len(outputs) != 1 or not shape or len(shape) != 3 or shape[2] != _COLUMNS:
            return None
        return None if are_cells(shape[1], input_px) else ANY

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """As `BoxDecoder.decode`. Rows below the threshold, which fill the output up, count as
        nothing."""
        rows = of_image(outputs[0], index)
        if rows.ndim != 2 or rows.shape[1] != _COLUMNS or are_cells(len(rows), input_px):
            raise FrameError(
                f'model output: {list(rows.shape)}, but decoder "{self.name}" reads '
                f"[k, {_COLUMNS}] of k objects",
                fix="correct decoder in the model's card",
            )
        check_finite(rows)
        rows = rows[rows[:, 4] >= threshold]
        boxes, scores = np.ascontiguousarray(rows[:, :4]), rows[:, 4]
        check_scores(scores, self.name)
        check_pixels(boxes, self.name)
        return Candidates(boxes, scores, check_ids(rows[:, 5]), suppressed=True)


DECODERS = (EndToEnd(),)
