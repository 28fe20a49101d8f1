"""Checks that the outputs of a model file are what its card's decoder reads."""

from collections.abc import Sequence
from pathlib import Path

from node.errors import ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.models.model_card import ModelCard
from node.perception.tasks.decode import cells_of

_DEFAULT_DECODER = {"classify": "softmax", "segment": "pixels"}


def decoder_of(card: ModelCard) -> str:
    """Returns the decoder of a card, the default of its task if it names none."""
    return card.decoder or _DEFAULT_DECODER[card.task]


def output_order(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, classes: int
) -> tuple[int, ...]:
    """Returns the indices of the outputs that the card's decoder reads, in its order.

    Args:
        file: the model file, for the errors.
        outputs: of the file, in its order.
        card: its card.
        classes: the number of its labels.

    Raises:
        ModelError: the outputs are not those of the decoder.
    """
    return _CHECKS[decoder_of(card)](file, outputs, card, classes)


def _check_classes(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, classes: int
) -> tuple[int, ...]:
    _only(file, outputs, "a classifier has one, the logits")
    return _of_classes(file, outputs[0], f"[n, {classes}]", classes)


def _check_yolox(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, classes: int
) -> tuple[int, ...]:
    shape = _only(file, outputs, "a yolox decoder reads one, YOLOX's raw output").shape
    if shape is None:
        return (0,)
    cells = cells_of(card.input.size)
    if len(shape) != 3 or shape[1] not in (cells, -1):
        raise ModelError(
            f"{file}: gives {outputs[0].described}, and YOLOX gives [n, {cells}, {5 + classes}] "
            f"for {card.input.size_px} pixels and {classes} labels",
            fix="export YOLOX's raw output of the strides 8, 16 and 32, or boxes after the model's "
            'own suppression with decoder = "boxes"',
        )
    if shape[2] not in (5 + classes, -1):
        raise ModelError(
            f"{file}: gives {outputs[0].described}, of {shape[2] - 5} classes, and its card has "
            f"{classes} label{'s' if classes > 1 else ''}",
            fix="name the labels that it was trained with",
        )
    return (0,)


def _check_pixels(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, classes: int
) -> tuple[int, ...]:
    _only(file, outputs, "a segmentation has one, the logits")
    return _of_classes(file, outputs[0], f"[n, {classes}, height, width]", classes)


def _only(file: Path, outputs: Sequence[GraphValue], expected: str) -> GraphValue:
    if len(outputs) != 1:
        raise ModelError(f"{file}: has {len(outputs)} outputs", fix=expected)
    return outputs[0]


def _of_classes(file: Path, output: GraphValue, form: str, classes: int) -> tuple[int, ...]:
    """Checks logits whose second length is the number of classes. form: their shape in words."""
    shape = output.shape
    if shape is None:
        return (0,)
    if len(shape) != len(form.split(",")):
        raise ModelError(
            f"{file}: gives {output.described}, and the task of its card reads {form}",
            fix="correct task, or export it so",
        )
    if shape[1] not in (classes, -1):
        raise ModelError(
            f"{file}: gives {output.described}",
            fix=f"its card has {classes} labels, which makes {form}: "
            "name the labels that it was trained with",
        )
    return (0,)


def _check_boxes(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, classes: int
) -> tuple[int, ...]:
    """Returns the indices of boxes, scores and classes: by name, else by shape and type, else in
    that order."""
    if len(outputs) != 3:
        raise ModelError(
            f"{file}: has {len(outputs)} outputs",
            fix="a boxes decoder needs three: boxes, scores, classes",
        )
    kinds = [_kind(output) for output in outputs]
    if sorted(kinds) != ["boxes", "classes", "scores"]:
        kinds = ["boxes", "scores", "classes"]
    indices = tuple(kinds.index(kind) for kind in ("boxes", "scores", "classes"))
    boxes = outputs[indices[0]]
    if boxes.shape and boxes.shape[-1] not in (4, -1):
        raise ModelError(
            f"{file}: gives boxes of {boxes.described}",
            fix="a boxes decoder needs [k, 4], as x1, y1, x2, y2",
        )
    return indices


def _kind(output: GraphValue) -> str:
    name = output.name.lower()
    for kind, words in _WORDS.items():
        if any(word in name for word in words):
            return kind
    if output.shape and output.shape[-1] == 4:
        return "boxes"
    return "classes" if output.is_whole else "scores"


_WORDS = {"boxes": ("box", "det"), "scores": ("score", "conf"), "classes": ("class", "label")}
_CHECKS = {
    "softmax": _check_classes,
    "yolox": _check_yolox,
    "boxes": _check_boxes,
    "pixels": _check_pixels,
}
