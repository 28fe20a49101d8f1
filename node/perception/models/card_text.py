"""The text of a model card that a file's own description begins."""

import json
from collections.abc import Iterator
from pathlib import Path

from node.perception.models.guessed_card import GuessedCard
from node.perception.tasks.decoders.registry import DECODERS
from perception_client.text import printable

_USUAL_SIZE = {"classify": (224, 224), "detect": (640, 640), "segment": (512, 512)}
_FROM_EITHER = ("boxes", "ssd")
"""Decoders whose exports number the labels from 0 or, after a background, from 1."""
_HINTS = {
    "classify": "; the output must be logits, before the softmax",
    "segment": "; the output must be logits of each pixel",
    "detect": "",
}


def card_text(file: Path, guess: GuessedCard) -> str:
    """Returns a card as TOML text, in which a comment marks each guess.

    Args:
        file: the model file.
        guess: what it says.
    """
    return "\n".join(_lines(file, guess)) + "\n"


def _lines(file: Path, guess: GuessedCard) -> Iterator[str]:
    yield f"# Model card of {printable(file.name)}. Check each line that says guess."
    yield f"name = {_toml(guess.name)}"
    decoder, *others = guess.fitting or [None]
    yield f'task = "{guess.kind}"' + ("" if decoder else f"  # guess{_HINTS[guess.kind]}")
    if decoder is not None:
        doubt = f"  # guess: or {' or '.join(map(_toml, others))}" if others else ""
        yield f"decoder = {_toml(decoder)}{doubt or f'  # by its outputs {guess.outputs}'}"
        if decoder in _FROM_EITHER:
            usual = DECODERS[decoder].first_class
            yield f"first_class = {usual}  # guess: its number of the first label, 0 or 1"
    elif guess.kind == "detect":
        yield f"# decoder = ...  # one of {', '.join(DECODERS)}; the outputs: {guess.outputs}"
    yield from _labels(guess)
    yield ""
    yield "[input]"
    size = list(guess.size or _USUAL_SIZE[guess.kind])
    doubt = "" if guess.size else "; guess: the file leaves it free"
    yield f"size = {size}  # height, width{doubt}"
    family = "decoder" if decoder else "task"
    for key, value in guess.usual_input.items():
        yield f"{key} = {_toml(value)}  # guess: usual with this {family}"


def _labels(guess: GuessedCard) -> Iterator[str]:
    if guess.labels is None:
        count = guess.classes
        number = f"{count} name{'s' * (count > 1)}" if count else "the names"
        yield f'labels = "labels.txt"  # write this file: {number} of the classes, one a line'
        return
    yield "labels = [  # by the file's metadata"
    yield from (f"    {_toml(label)}," for label in guess.labels)
    yield "]"


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
