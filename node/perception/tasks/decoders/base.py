"""BoxDecoder: the interface of every decoder of a detector, and the checks that decoders share.

Decoded boxes are (x1, y1, x2, y2) in pixels of the network's input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs

Floats = NDArray[np.float32]
Size = tuple[int, int]
"""(height, width) of the network's input in px."""
ANY = 0
"""As a number of labels: the outputs fit any."""
LETTERBOX: Mapping[str, object] = {
    "resize": "letterbox",
    "pad_value": 114,
    "pad_anchor": "center",
    "color": "rgb",
    "scale": 1 / 255,
}
"""The usual input of YOLO models since YOLOv5 (datasets/utils, letterbox)."""
_MOST_FRACTION = 1.5
"""Boxes up to here are fractions of the picture, boxes beyond are pixels."""
_ROUNDING = 0.02
"""By how much a score may leave 0 to 1 in 8 or 16 bits."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Boxes of one image.

    Attributes:
        boxes: [n, 4] float32.
        scores: [n] float32.
        ids: [n] int64, class ids.
        suppressed: the network gives each object once, so no suppression follows.
    """

    boxes: Floats
    scores: Floats
    ids: NDArray[np.int64]
    suppressed: bool


class BoxDecoder(Protocol):
    """Decodes the outputs of one family of detectors.

    Attributes:
        name: in model cards, `decoder = "NAME"`.
        reads: the outputs in words, for docs/models.md.
        antialias: default of `input.antialias`, as in the family's own preprocessing.
        usual_input: the card's other keys of `[input]` as they usually are, for a card to begin
            with.
        is_input_usual: no model of the family has another input, so a file with labels runs
            without a card.
        first_class: number that the family's exports give the first label.
        output_names: names by which `order` finds the outputs, in the order of `decode`: a card
            (`outputs`) may give them to outputs of any other names.
        whole: places in `order` of outputs that may be of whole numbers: classes, counts, pixels.
    """

    name: str
    reads: str
    antialias: bool
    usual_input: Mapping[str, object]
    is_input_usual: bool
    first_class: int
    output_names: tuple[str, ...]
    whole: tuple[int, ...]

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """Returns the indices of the outputs that `decode` reads, in its order. Lengths that the
        graph leaves free pass here, and `decode` checks them.

        Raises:
            ModelError: the outputs do not fit; the problem does not name the file.
        """
        ...

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """Returns the number of labels of a graph whose outputs have this family's form, `ANY` if
        the outputs leave it open; None for any other outputs, and for those in doubt."""
        ...

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """Decodes one image. The ids are those of the labels where the first one has the number
        `first_class`.

        Args:
            outputs: in the order of `order`, of the whole batch.
            index: of the image in the batch.
            threshold: lowest score.
            classes: number of labels.
            input_px: size of the network's input.

        Raises:
            FrameError: invalid outputs.
        """
        ...


def only(outputs: Sequence[GraphValue], decoder: str) -> GraphValue:
    """Returns the one output. Raises ModelError if there are more."""
    if len(outputs) != 1:
        raise ModelError(
            f'has {len(outputs)} outputs, and decoder "{decoder}" reads one',
            fix="export it with the detections alone",
        )
    return outputs[0]


def trained_with(count: int) -> str:
    """Returns the fix of an error about another number of labels. count: the right one, below 1 if
    it is not known."""
    number = f"{count} " if count > 0 else ""
    return f"name the {number}labels that the model was trained with"


def fits(shape: tuple[int, ...] | None, expected: Sequence[int | None]) -> bool:
    """Whether a shape can be the expected one: None stands for any length, and -1 in the shape for
    a length that the graph leaves free. A shape that is not known fits."""
    return shape is None or (
        len(shape) == len(expected)
        and all(
            own in (length, -1) or length is None
            for own, length in zip(shape, expected, strict=True)
        )
    )


def corners(boxes: Floats) -> Floats:
    """Returns boxes [n, 4] of (cx, cy, w, h) as (x1, y1, x2, y2)."""
    half = boxes[:, 2:] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)


def check_finite(values: Floats) -> None:
    """Raises FrameError for NaN and infinity."""
    # A third of the time of a sum in float64, to which NaN and infinity would propagate.
    if not np.isfinite(values).all():
        raise FrameError(
            "model output: not finite (nan or infinity)",
            fix="the weights are damaged or overflow at this precision, try another of either",
        )


def check_scores(scores: Floats, decoder: str) -> None:
    """Raises FrameError for scores that do not lie between 0 and 1: values before the sigmoid, or
    those of another form."""
    if not len(scores):
        return
    lowest, highest = float(scores.min()), float(scores.max())
    if lowest < -_ROUNDING or highest > 1 + _ROUNDING:
        raise FrameError(
            f'model output: scores from {lowest:.3g} to {highest:.3g}, and decoder "{decoder}" '
            "reads scores from 0 to 1",
            fix="export the model with its sigmoid, or correct decoder or outputs in its card",
        )


def check_pixels(boxes: Floats, decoder: str) -> None:
    """Raises FrameError for boxes in fractions of the picture."""
    if len(boxes) and boxes.max() <= _MOST_FRACTION:
        raise FrameError(
            "model output: boxes lie between 0 and 1",
            fix=f"decoder {decoder} needs pixels of the network's input: export the model so",
        )


def check_fractions(boxes: Floats, decoder: str) -> None:
    """Raises FrameError for boxes in pixels."""
    if len(boxes) and boxes.max() > _MOST_FRACTION:
        raise FrameError(
            f"model output: boxes up to {float(boxes.max()):.3g}",
            fix=f"decoder {decoder} needs fractions of the picture, 0 to 1: export the model so",
        )


def check_ids(ids: Floats) -> NDArray[np.int64]:
    """Returns class ids as whole numbers. Raises FrameError for numbers that are none."""
    whole = np.rint(ids)
    if (np.abs(ids - whole) > 1e-3).any() or (np.abs(whole) > 1 << 24).any():
        raise FrameError(
            "model output: class ids that are no whole numbers",
            fix="correct decoder or outputs in the model's card: the order is another",
        )
    return whole.astype(np.int64)
