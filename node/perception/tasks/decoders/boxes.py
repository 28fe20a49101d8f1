"""The decoder `boxes`: three outputs after the model's own suppression."""

from collections.abc import Mapping, Sequence

from node.errors import FrameError, ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.tasks.base import Outputs, of_image
from node.perception.tasks.decoders.base import (
    ANY,
    Candidates,
    Size,
    check_finite,
    check_ids,
    check_pixels,
    check_scores,
)

_KINDS = ("boxes", "scores", "classes")
_WORDS = {"boxes": ("box", "det"), "scores": ("score", "conf"), "classes": ("class", "label")}


class Boxes:
    """As `BoxDecoder`."""

    name = "boxes"
    reads = (
        "three outputs after the model's own suppression: boxes `[k, 4]` as x1, y1, x2, y2 in "
        "pixels of the network's input, scores `[k]`, classes `[k]`, each also with a batch before "
        "it; identified by their names, else by shape and type. RT-DETR and D-FINE with the input "
        "`orig_target_sizes` export these"
    )
    antialias = True
    usual_input: Mapping[str, object] = {"resize": "stretch", "color": "rgb", "scale": 1 / 255}
    is_input_usual = False
    first_class = 0
    output_names = _KINDS
    whole = (0, 2)

    def order(self, outputs: Sequence[GraphValue], classes: int, input_px: Size) -> tuple[int, ...]:
        """As `BoxDecoder.order`: by name, else by shape and type, else in the order boxes, scores,
        classes."""
        if len(outputs) != 3:
            raise ModelError(
                f"has {len(outputs)} outputs",
                fix="a boxes decoder needs three: boxes, scores, classes; of more, name these in "
                "the card: outputs = [...]",
            )
        kinds = [_kind(output) for output in outputs]
        if sorted(kinds) != sorted(_KINDS):
            kinds = list(_KINDS)
        indices = tuple(kinds.index(kind) for kind in _KINDS)
        boxes = outputs[indices[0]]
        if boxes.shape and boxes.shape[-1] not in (4, -1):
            raise ModelError(
                f"gives boxes of {boxes.described}",
                fix="a boxes decoder needs [k, 4], as x1, y1, x2, y2",
            )
        return indices

    def recognised(self, outputs: Sequence[GraphValue], input_px: Size) -> int | None:
        """As `BoxDecoder.recognised`."""
        if sorted(_kind(output) for output in outputs) != sorted(_KINDS):
            return None
        (boxes,) = (output for output in outputs if _kind(output) == "boxes")
        return ANY if boxes.shape and boxes.shape[-1] == 4 else None

    def decode(
        self, outputs: Outputs, index: int, threshold: float, classes: int, input_px: Size
    ) -> Candidates:
        """Decodes boxes [n, k, 4] or [k, 4], scores and classes [n, k] or [k]."""
        boxes, scores, ids = (
            of_image(output, index) if output.ndim == batched_ndim else output
            for output, batched_ndim in zip(outputs, (3, 2, 2), strict=True)
        )
        of_one_length = scores.shape == ids.shape == boxes.shape[:1]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not of_one_length:
            raise FrameError(
                f"model output: boxes {list(boxes.shape)}, scores {list(scores.shape)}, classes "
                f"{list(ids.shape)}",
                fix="the boxes decoder needs [k, 4], [k], [k]",
            )
        for part in (boxes, scores, ids):
            check_finite(part)
        accepted = scores >= threshold
        boxes, scores, ids = boxes[accepted], scores[accepted], ids[accepted]
        check_scores(scores, self.name)
        check_pixels(boxes, self.name)
        return Candidates(boxes, scores, check_ids(ids), suppressed=True)


def _kind(output: GraphValue) -> str:
    name = output.name.lower()
    for kind, words in _WORDS.items():
        if any(word in name for word in words):
            return kind
    if output.shape and output.shape[-1] == 4:
        return "boxes"
    return "classes" if output.is_whole else "scores"


DECODERS = (Boxes(),)
