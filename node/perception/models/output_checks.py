"""Checks that the outputs of a model file are what its card's decoder reads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from node.errors import ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.models.model_card import ModelCard, card_file
from node.perception.tasks.decoders.base import ANY
from node.perception.tasks.decoders.registry import DECODERS

_EXPORT = "export it as one of the decoders in docs/models.md reads it"
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
    indices = list(range(len(outputs)))
    if card.outputs is not None:
        indices = _named(file, outputs, card, card.outputs)
        names = _names_of(card)
        outputs = [
            replace(outputs[index], name=name) for index, name in zip(indices, names, strict=True)
        ]
    whole: tuple[int, ...] = ()
    if card.task == "detect":
        order = _order_of_boxes(file, outputs, card, classes)
        whole = DECODERS[decoder_of(card)].whole
    else:
        check = _check_classes if card.task == "classify" else _check_pixels
        order = check(file, outputs, classes)
    _check_real(file, [outputs[index] for at, index in enumerate(order) if at not in whole])
    return tuple(indices[position] for position in order)


def _names_of(card: ModelCard) -> tuple[str, ...]:
    """Returns what the decoder of a card reads, by name and in its order."""
    return DECODERS[decoder_of(card)].output_names if card.task == "detect" else ("logits",)


def _named(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, names: tuple[str, ...]
) -> list[int]:
    """Returns the indices of the outputs that a card names. Raises ModelError."""
    expected = _names_of(card)
    if len(names) != len(expected):
        raise ModelError(
            f"{card_file(file)}: outputs has {len(names)} names",
            fix=f'decoder "{decoder_of(card)}" reads {len(expected)}: {", ".join(expected)}',
        )
    known = [output.name for output in outputs]
    for name in names:
        if known.count(name) != 1 or names.count(name) != 1:
            listed = ", ".join(repr(known_name) for known_name in known if known_name)
            raise ModelError(
                f"{card_file(file)}: outputs: {name!r:.80} is not the name of one output",
                fix=f"those of {file.name}: {listed:.300}" if listed else "this file has no names",
            )
    return [known.index(name) for name in names]


def recognised(outputs: Sequence[GraphValue], input_px: tuple[int, int]) -> dict[str, int]:
    """Returns the decoders whose form a detector's outputs surely have, with the number of labels
    of each, `ANY` where the outputs leave it open."""
    if not outputs:
        return {}
    counts = {name: each.recognised(outputs, input_px) for name, each in DECODERS.items()}
    return {name: count for name, count in counts.items() if count is not None}


def _order_of_boxes(
    file: Path, outputs: Sequence[GraphValue], card: ModelCard, classes: int
) -> tuple[int, ...]:
    decoder, size = decoder_of(card), card.input.size
    try:
        return DECODERS[decoder].order(outputs, classes, size)
    except ModelError as error:
        fix = _what_fits(outputs, decoder, classes, size) or error.fix or _EXPORT
        raise ModelError(f"{file}: {error.problem}", fix=fix) from error


def _what_fits(
    outputs: Sequence[GraphValue], decoder: str, classes: int, input_px: tuple[int, int]
) -> str | None:
    """Returns what to correct in the card so that it fits the outputs; None if no decoder
    recognises them."""
    fitting = recognised(outputs, input_px)
    count = fitting.pop(decoder, ANY)
    corrections = [f"name the {count} labels that it was trained with"] if count else []
    of_these_labels = [name for name, number in fitting.items() if number in (ANY, classes)]
    if of_these_labels:
        corrections += [f'write decoder = "{name}"' for name in of_these_labels]
    elif not corrections:
        corrections += [
            f'write decoder = "{name}" and name its {number} labels'
            for name, number in fitting.items()
        ]
    return ", or ".join(corrections) or None


def _check_classes(file: Path, outputs: Sequence[GraphValue], classes: int) -> tuple[int, ...]:
    output = _only(file, outputs, "a classifier has one, the logits")
    if output.is_softmax:
        # A softmax of scores from 0 to 1 makes them all nearly equal.
        raise ModelError(
            f"{file}: gives scores, and a classifier gives logits",
            fix="export it without its last softmax",
        )
    return _of_classes(file, outputs[0], f"[n, {classes}]", classes)


def _check_pixels(file: Path, outputs: Sequence[GraphValue], classes: int) -> tuple[int, ...]:
    _only(file, outputs, "a segmentation has one, the logits")
    return _of_classes(file, outputs[0], f"[n, {classes}, height, width]", classes)


def _check_real(file: Path, outputs: Sequence[GraphValue]) -> None:
    """Raises ModelError for whole numbers in the place of scores: a quantised graph gives them
    without their scale, so that each would be a score of 0 or 1."""
    for output in outputs:
        if output.is_whole:
            raise ModelError(
                f"{file}: gives {output.described} in {output.dtype}, and scores are no whole "
                "numbers",
                fix="export it with float outputs; those of a quantised model need their scale",
            )


def _only(file: Path, outputs: Sequence[GraphValue], expected: str) -> GraphValue:
    if len(outputs) != 1:
        names = ", ".join(repr(output.name) for output in outputs if output.name)
        hint = f", here one of {names:.200}" if names else ""
        raise ModelError(
            f"{file}: has {len(outputs)} outputs",
            fix=f"{expected}; name it in the card: outputs = [...]{hint}" if hint else expected,
        )
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
            f"name the {shape[1]} labels that it was trained with",
        )
    return (0,)
