"""The decoder `ssd`: the outputs of TensorFlow's detection API."""

from collections.abc import Mapping, Sequence

import numpy as np

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    ANY,
    Candidates,
    Size,
    check_finite,
    check_fractions,
    check_ids,
    check_scores,
    fits,
)

_NAMES = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")


class Ssd:
    """As `BoxDecoder`."""

    name = "ssd"
    reads = (
        "the outputs of TensorFlow's detection API, by their names: `detection_boxes` `[n, k, 4]` "
        "as y1, x1, y2, x2 in fractions of the network's input, `detection_scores` `[n, k]`, "
        "`detection_classes` `[n, k]`, of which 1 is the first label, `num_detections` `[n]`; "
        "other outputs are left out"
    )
    antialias = True
    usual_input: Mapping[str, object] = {"resize": "stretch", "color": "rgb", "scale": 1.0}
    is_input_usual = False
    first_class = 1
    output_names = _NAMES
    whole = (2, 3)

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`."""
        indices = _indices(outputs)
        if indices is None:
            listed = ", ".join(output.name or "?" for output in outputs)
            raise ModelError(
                f'gives {listed:.200}, and decoder "{self.name}" reads {", ".join(_NAMES)}',
                fix="export it with these names, or name its outputs in this order in the card: "
                "outputs = [...]",
            )
        boxes = outputs[indices[0]]
        if not fits(boxes.shape, (None, None, 4)):
            raise ModelError(
                f"gives detection_boxes of {boxes.described}, and decoder "
                f'"{self.name}" reads [n, k, 4]'
            )
        return indices

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`."""
        return None if _indices(outputs) is None else ANY

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """As `BoxDecoder.decode`."""
        boxes, scores, ids = (of_image(output, index) for output in outputs[:3])
        count = float(of_image(np.ravel(outputs[3]), index))
        of_one_length = scores.shape == ids.shape == boxes.shape[:1]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not of_one_length:
            raise FrameError(
                f"model output: boxes {list(boxes.shape)}, scores {list(scores.shape)}, classes "
                f"{list(ids.shape)}",
                fix=f'decoder "{self.name}" reads [k, 4], [k], [k]',
            )
        if not 0 <= count <= len(boxes):
            raise FrameError(
                f"model output: {count:g} detections in {len(boxes)} rows",
                fix="export the model again",
            )
        for part in (boxes, scores, ids):
            check_finite(part)
        accepted = np.flatnonzero(scores[: int(count)] >= threshold)
        boxes, scores, ids = boxes[accepted], scores[accepted], ids[accepted]
        check_scores(scores, self.name)
        check_fractions(boxes, self.name)
        height, width = input_px
        scaled = boxes[:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
        return Candidates(scaled, scores, check_ids(ids) - self.first_class, suppressed=True)


def _indices(outputs: Sequence[GraphValue]) -> tuple[int, ...] | None:
    """Returns the indices of `_NAMES`; TensorFlow's own names end in `:0`."""
    names = [output.name.partition(":")[0] for output in outputs]
    if any(names.count(name) != 1 for name in _NAMES):
        return None
    return tuple(names.index(name) for name in _NAMES)


DECODERS = (Ssd(),)
