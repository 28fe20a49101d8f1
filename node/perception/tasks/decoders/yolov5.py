"""The decoder `yolov5`: heads with objectness whose boxes are decoded, as YOLOv5, v6 and v7 are
exported."""

from collections.abc import Sequence

import numpy as np

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    LETTERBOX,
    Candidates,
    Size,
    check_finite,
    check_pixels,
    check_scores,
    corners,
    fits,
    trained_with,
)
from node.perception.tasks.decoders.grid import STRIDES_PX, are_cells, cells_of, is_grid

_HEAD_NDIM = 5
"""Dimensions of the heads' raw outputs, which some exports have beside the decoded one."""


class Yolov5:
    """As `BoxDecoder`."""

    name = "yolov5"
    reads = (
        "`[n, cells, 5 + classes]`: cx, cy, w, h in pixels of the network's input, objectness and "
        "the class scores from 0 to 1, as YOLOv5, v6 and v7 are exported; a score is objectness "
        "times class score; the node suppresses it"
    )
    antialias = False
    usual_input = LETTERBOX
    is_input_usual = True
    first_class = 0
    output_names = ("boxes",)
    whole: tuple[int, ...] = ()

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`: the one output that is no raw head."""
        decoded = _decoded(outputs)
        columns = 5 + classes
        if len(decoded) != 1:
            raise ModelError(
                f'has {len(outputs)} outputs, and decoder "{self.name}" reads one, '
                f"[n, cells, {columns}]",
                fix="export it with its heads joined",
            )
        output = outputs[decoded[0]]
        if not fits(output.shape, (None, None, columns)):
            raise ModelError(
                f'gives {output.described}, and decoder "{self.name}" reads [n, cells, {columns}] '
                f"for {classes} label{'s' if classes > 1 else ''}"
            )
        if output.shape is not None and classes == 1 and not are_cells(output.shape[1], input_px):
            raise ModelError(f"gives {output.described}, rows of objects and not of cells")
        return (decoded[0],)

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`: three anchors a cell; one anchor a cell is YOLOX's form
        too."""
        decoded = _decoded(outputs)
        shape = outputs[decoded[0]].shape if len(decoded) == 1 else None
        if not shape or len(shape) != 3 or not is_grid(shape[1], input_px, anchors=3):
            return None
        return shape[2] - 5 if shape[2] > 5 else None

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """As `BoxDecoder.decode`: the class of a cell is its best one."""
        raw = of_image(outputs[0], index)
        if raw.ndim != 2 or raw.shape[1] != 5 + classes:
            raise FrameError(
                f'model output: {list(raw.shape)}, but decoder "{self.name}" reads '
                f"[cells, {5 + classes}] for {classes} labels",
                fix=trained_with(raw.shape[-1] - 5),
            )
        if classes == 1 and not are_cells(len(raw), input_px):
            raise FrameError(
                f"model output: {list(raw.shape)}, rows of objects and not of cells",
                fix='write decoder = "end_to_end"',
            )
        of_one_anchor = len(raw) == cells_of(input_px)
        check_finite(raw)
        check_scores(raw[:, 4], self.name)
        # A class score is at most 1, so objectness alone excludes most cells.
        raw = raw[raw[:, 4] >= threshold]
        ids = raw[:, 5:].argmax(1)
        of_class = raw[np.arange(len(raw)), 5 + ids]
        check_scores(of_class, self.name)
        scores = raw[:, 4] * of_class
        accepted = scores >= threshold
        boxes = corners(raw[accepted, :4])
        check_pixels(boxes, self.name)
        if of_one_anchor and len(boxes) and boxes.max() < STRIDES_PX[0]:
            raise FrameError(
                "model output: boxes in cells and not in pixels", fix='write decoder = "yolox"'
            )
        return Candidates(boxes, scores[accepted], ids[accepted], suppressed=False)


def _decoded(outputs: Sequence[GraphValue]) -> list[int]:
    return [
        index
        for index, output in enumerate(outputs)
        if output.shape is None or len(output.shape) != _HEAD_NDIM
    ]


DECODERS = (Yolov5(),)
