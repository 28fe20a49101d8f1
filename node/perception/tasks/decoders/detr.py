"""The decoders `detr_sigmoid` and `detr_softmax`: logits and boxes of each query, as the family of
DETR is exported."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    Candidates,
    Floats,
    Size,
    check_finite,
    check_fractions,
    corners,
    fits,
    trained_with,
)
from node.perception.tasks.decoders.grid import is_grid

_Picked = tuple[NDArray[np.int64], NDArray[np.int64], Floats]
"""Queries, classes and scores, each [n]."""


class Detr:
    """As `BoxDecoder`.

    Args:
        name: of the decoder.
        reads: the outputs in words.
        spare: classes of the logits that have no label.
        pick: (logits [q, classes + spare], threshold) to the queries that are objects.
        usual_input: as in `BoxDecoder`.
    """

    antialias = True
    is_input_usual = False
    first_class = 0
    output_names = ("logits", "boxes")
    whole: tuple[int, ...] = ()

    def __init__(
        self,
        name: str,
        reads: str,
        spare: int,
        pick: Callable[[Floats, float], _Picked],
        usual_input: Mapping[str, object],
    ) -> None:
        self.name = name
        self.reads = reads
        self._spare = spare
        self._pick = pick
        self.usual_input = usual_input

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`: logits and boxes, by name, else by shape; other outputs are left
        out."""
        indices = _logits_and_boxes(outputs)
        if indices is None:
            listed = ", ".join(f"{output.name} {output.described}" for output in outputs)
            raise ModelError(
                f'gives {listed:.200}, and decoder "{self.name}" reads logits [n, q, classes] and '
                "boxes [n, q, 4]",
                fix="name these two in the card: outputs = [...]",
            )
        logits, boxes = (outputs[index] for index in indices)
        if not fits(boxes.shape, (None, None, 4)):
            raise ModelError(
                f'gives boxes of {boxes.described}, and decoder "{self.name}" reads [n, q, 4]'
            )
        if not fits(logits.shape, (None, None, classes + self._spare)):
            raise ModelError(
                f'gives logits of {logits.described}, and decoder "{self.name}" reads '
                f"[n, q, {classes + self._spare}] for {classes} label{'s' if classes > 1 else ''}"
            )
        return indices

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`."""
        indices = _logits_and_boxes(outputs)
        if indices is None:
            return None
        logits, boxes = (outputs[index].shape for index in indices)
        if not logits or not boxes or len(logits) != 3 or boxes[-1] != 4:
            return None
        # As many boxes as cells are those of a YOLO model.
        of_queries = logits[2] > self._spare and not is_grid(logits[1], input_px)
        return logits[2] - self._spare if of_queries else None

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """Decodes boxes of cx, cy, w, h in fractions of the network's input."""
        logits, boxes = (of_image(output, index) for output in outputs)
        expected = (boxes.shape[0], classes + self._spare), (boxes.shape[0], 4)
        if (logits.shape, boxes.shape) != expected:
            raise FrameError(
                f"model output: logits {list(logits.shape)} and boxes {list(boxes.shape)}, but "
                f'decoder "{self.name}" reads [q, {classes + self._spare}] and [q, 4] for '
                f"{classes} labels",
                fix=trained_with(logits.shape[-1] - self._spare),
            )
        check_finite(logits)
        check_finite(boxes)
        if logits.size and logits.min() >= 0 and logits.max() <= 1:
            raise FrameError(
                f'model output: logits from 0 to 1, and decoder "{self.name}" reads those before '
                "the sigmoid or softmax",
                fix="export the model without it",
            )
        queries, ids, scores = self._pick(logits, threshold)
        boxes = boxes[queries]
        check_fractions(boxes, self.name)
        height, width = input_px
        scaled = corners(boxes) * np.array([width, height, width, height], np.float32)
        return Candidates(scaled, scores, ids, suppressed=True)


def _logits_and_boxes(outputs: Sequence[GraphValue]) -> tuple[int, int] | None:
    """Returns the indices; None if they cannot be told."""
    names = [output.name.lower() for output in outputs]
    for words in _NAMES:
        if all(names.count(name) == 1 for name in words):
            return names.index(words[0]), names.index(words[1])
    if len(outputs) != 2:
        return None
    by_shape = [index for index, output in enumerate(outputs) if (output.shape or (0,))[-1] == 4]
    return (1 - by_shape[0], by_shape[0]) if len(by_shape) == 1 else None


_NAMES = (("logits", "pred_boxes"), ("pred_logits", "pred_boxes"), ("logits", "boxes"),
          ("labels", "dets"))  # fmt: skip
"""Names of the outputs by DETR and its family: Hugging Face, the authors', D-FINE, RF-DETR."""


def _by_sigmoid(logits: Floats, threshold: float) -> _Picked:
    """Each class of a query counts by itself, and the best q of all stay, as RT-DETR's and D-FINE's
    own postprocessing does."""
    with np.errstate(over="ignore"):
        scores: Floats = np.float32(1) / (np.float32(1) + np.exp(-logits))
    queries, ids = np.nonzero(scores >= threshold)
    if len(queries) > len(logits):
        best = np.argpartition(-logits[queries, ids], len(logits) - 1)[: len(logits)]
        best.sort()
        queries, ids = queries[best], ids[best]
    return queries, ids, scores[queries, ids]


def _by_softmax(logits: Floats, threshold: float) -> _Picked:
    """The class of a query is its best one, the last, no object, aside."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    scores = powers / powers.sum(1, keepdims=True)
    ids = scores[:, :-1].argmax(1)
    best = scores[np.arange(len(scores)), ids]
    queries = np.flatnonzero(best >= threshold)
    return queries, ids[queries], best[queries]


DECODERS = (
    Detr(
        "detr_sigmoid",
        "`logits` `[n, q, classes]` before the sigmoid and `boxes` or `pred_boxes` `[n, q, 4]` as "
        "cx, cy, w, h in fractions of the network's input, as D-FINE, RT-DETR, RF-DETR and "
        "Deformable DETR are exported",
        0,
        _by_sigmoid,
        {"resize": "stretch", "color": "rgb", "scale": 1 / 255},
    ),
    Detr(
        "detr_softmax",
        "the same with `logits` `[n, q, classes + 1]` before the softmax, the last one for no "
        "object, as DETR is exported",
        1,
        _by_softmax,
        {
            "resize": "stretch",
            "color": "rgb",
            "scale": 1 / 255,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    ),
)
