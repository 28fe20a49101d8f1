"""The decoder `yolox`: the raw output of YOLOX."""

from collections.abc import Mapping, Sequence

import numpy as np

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    Candidates,
    Size,
    check_finite,
    check_scores,
    fits,
    only,
)
from node.perception.tasks.decoders.grid import cells_of, grid


class Yolox:
    """As `BoxDecoder`."""

    name = "yolox"
    reads = (
        "YOLOX's raw output `[n, cells, 5 + classes]` of the strides 8, 16 and 32; the node "
        "decodes and suppresses it"
    )
    antialias = False
    usual_input: Mapping[str, object] = {
        "resize": "letterbox",
        "pad_value": 114,
        "pad_anchor": "top-left",
        "color": "bgr",
        "scale": 1.0,
    }
    is_input_usual = False
    first_class = 0
    output_names = ("boxes",)
    whole: tuple[int, ...] = ()

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`."""
        output, cells = only(outputs, self.name), cells_of(input_px)
        if not fits(output.shape, (None, cells, None)):
            raise ModelError(
                f"gives {output.described}, and YOLOX gives [n, {cells}, {5 + classes}] for "
                f"{input_px[0]} x {input_px[1]} px and {classes} labels",
                fix="export YOLOX's raw output of the strides 8, 16 and 32",
            )
        if not fits(output.shape, (None, cells, 5 + classes)):
            assert output.shape is not None
            raise ModelError(
                f"gives {output.described}, of {output.shape[2] - 5} classes, and its card has "
                f"{classes} label{'s' if classes > 1 else ''}",
                fix="name the labels that it was trained with",
            )
        return (0,)

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`."""
        shape = outputs[0].shape
        if len(outputs) == 1 and shape and len(shape) == 3 and shape[1] == cells_of(input_px):
            return shape[2] - 5 if shape[2] > 5 else None
        return None

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """Decodes the box as (x, y, log w, log h) relative to its cell in strides, then objectness
        and class scores, both after the sigmoid."""
        raw = of_image(outputs[0], index)
        check_finite(raw)
        cells, strides = grid(input_px)
        if raw.shape != (len(cells), 5 + classes):
            raise FrameError(
                f"model output: {list(raw.shape)}, but YOLOX gives {[len(cells), 5 + classes]} for "
                f"{input_px[0]} x {input_px[1]} pixels and {classes} labels",
                fix="export YOLOX's raw output of the strides 8, 16 and 32, and name its labels",
            )
        check_scores(raw[:, 4], self.name)
        # A class score is at most 1, so objectness alone excludes most cells.
        kept = np.flatnonzero(raw[:, 4] >= threshold)
        raw, cells, strides = raw[kept], cells[kept], strides[kept]
        ids = raw[:, 5:].argmax(1)
        of_class = raw[np.arange(len(raw)), 5 + ids]
        check_scores(of_class, self.name)
        scores = raw[:, 4] * of_class
        accepted = scores >= threshold
        raw, ids = raw[accepted], ids[accepted]
        centre = (raw[:, :2] + cells[accepted]) * strides[accepted]
        with np.errstate(over="ignore"):
            half_size = np.exp(raw[:, 2:4]) * strides[accepted] / 2
        check_finite(half_size)
        boxes = np.concatenate((centre - half_size, centre + half_size), axis=1)
        return Candidates(boxes, scores[accepted], ids, suppressed=False)


DECODERS = (Yolox(),)
