"""GuessedCard: what a model file says about itself, for a file without a model card.

ONNX files of common exporters have metadata: `names`, a Python literal such as
"{0: 'person', 1: 'car'}", `imgsz`, and `task`. The outputs' names and shapes tell the decoder.
"""

import ast
import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from node.errors import ModelError
from node.perception.models.graph_signature import GraphValue, signature_of
from node.perception.models.model_card import (
    InputCard,
    ModelCard,
    check_names,
    missing_card,
)
from node.perception.models.output_checks import recognised
from node.perception.tasks.decoders.base import ANY
from node.perception.tasks.decoders.registry import DECODERS
from perception_client.text import printable

log = logging.getLogger(__name__)

_MOST_METADATA = 1 << 18
"""Characters of an entry: parsing takes a hundred bytes of memory for each."""
_IMAGENET: Mapping[str, object] = {
    "color": "rgb",
    "scale": 1 / 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
_USUAL: Mapping[str, Mapping[str, object]] = {
    "classify": {"resize": "crop", **_IMAGENET},
    "segment": {"resize": "stretch", **_IMAGENET},
    "detect": {},
}
_NOT_READ = ("segment", "pose", "obb")
"""Tasks of YOLO's exporters whose outputs no decoder reads."""
NO_NAMES = "the file has no names of its classes"
"""What is missing of a file that says all else."""
_FEW = 3
"""Labels in an example."""
_LIKELY_PX = (640, 640)
"""The size of the input for which the outputs of a graph of free size are looked at."""
_LARGEST_PX = 8192
"""As in `InputCard.size`."""


@dataclass(frozen=True)
class GuessedCard:
    """What a file says.

    Attributes:
        name: for the card, from the name of the file.
        size: (height, width) of the input in px; None if the file leaves it free. Then the outputs
            are those for 640 x 640.
        labels: names of the classes; None if the file does not say them.
        task: as the exporter names it; None without it.
        fitting: the decoders that the outputs and the labels fit, each with its number of labels.
        outputs: the outputs in words.
        count: number of classes of a classifier or segmentation, by its one output; else None.
        dtype: of the picture, as numpy names it.
        kind: the task that the outputs are most like.
    """

    name: str
    size: tuple[int, int] | None
    labels: tuple[str, ...] | None
    task: str | None
    fitting: Mapping[str, int]
    outputs: str
    count: int | None
    dtype: str
    kind: Literal["classify", "detect", "segment"]

    @property
    def decoder(self) -> str | None:
        """The first decoder that fits; None without one."""
        return next(iter(self.fitting), None)

    @property
    def classes(self) -> int | None:
        """The number of classes by the outputs; None where they leave it open."""
        return self.fitting.get(self.decoder or "", self.count or ANY) or None

    @property
    def usual_input(self) -> Mapping[str, object]:
        """The card's other keys of `[input]` as they usually are for the decoder or the task."""
        usual = DECODERS[self.decoder].usual_input if self.decoder else _USUAL[self.kind]
        if self.dtype != "uint8":
            return usual
        # Grey levels, which the graph itself scales.
        plain = {key: value for key, value in usual.items() if key not in ("mean", "std")}
        return {**plain, "scale": 1.0}

    @property
    def missing(self) -> str | None:
        """What the file leaves open, in words; None if the file can run as it is."""
        if self.task not in (None, "detect"):
            return (
                f'its exporter says task "{self.task:.20}", and without a card only "detect" runs'
            )
        if self.dtype == "uint8":
            return "its input is uint8, so it may normalise pictures by itself"
        if self.kind != "detect":
            return "only detectors run without one"
        if self.size is None:
            return "the size of its input is free"
        if not self.fitting:
            of_labels = f" with {len(self.labels)} class names" if self.labels else ""
            return f"no decoder recognises its outputs {self.outputs}{of_labels}"
        if len(self.fitting) > 1:
            return f"its outputs {self.outputs} fit the decoders {' and '.join(self.fitting)}"
        if self.labels is None:
            return NO_NAMES
        (decoder,) = self.fitting
        if not DECODERS[decoder].is_input_usual:
            return f'models of decoder "{decoder}" differ in their input'
        return None

    @property
    def example(self) -> str:
        """The least that its card needs, as far as it is known."""
        decoder = self.decoder
        names = f'"{decoder}"' if decoder else f"one of {', '.join(DECODERS)}"
        lines = [f'name = "{self.name}"', f'task = "{self.kind}"', f"labels = {self._labels}"]
        lines += [f"decoder = {names}"] if self.kind == "detect" else []
        size = list(self.size or _LIKELY_PX)
        lines += [f"[input] size = {size}{'' if self.size else ' (or that of the training)'}"]
        lines += [
            f"{key} = {json.dumps(value)}"
            for key, value in self.usual_input.items()
            if value != InputCard.model_fields[key].default
        ]
        return ", ".join(lines)

    @property
    def _labels(self) -> str:
        """The labels in an example: the first of them, if the file has their names."""
        if self.labels is None:
            return '"labels.txt"'
        shown = ", ".join(json.dumps(name, ensure_ascii=False) for name in self.labels[:_FEW])
        more = f", ... all {len(self.labels)} in its metadata" if len(self.labels) > _FEW else ""
        return f"[{shown}{more}]"


def guess_card(file: Path) -> GuessedCard:
    """Reads what an ONNX (.onnx) or OpenVINO (.xml) file says about itself. Raises ModelError if it
    cannot be read, or is of a task that no decoder reads."""
    metadata: Mapping[str, str] = {}
    if file.suffix.lower() == ".onnx":
        from node.perception.models.onnx_file import metadata_of  # imports onnx

        metadata = metadata_of(file)
    task = printable(metadata["task"]) if "task" in metadata else None
    if task in _NOT_READ:
        raise ModelError(
            f'{file}: its exporter says task "{task}", and no decoder reads that',
            fix="take a detector of the same family",
        )
    signature = signature_of(file)
    pictures = [value for value in signature.inputs if value.shape and len(value.shape) == 4]
    size = _input_size(pictures, _literal(metadata.get("imgsz", "")))
    if pictures and any(-1 in (output.shape or ())[1:] for output in signature.outputs):
        signature = signature_of(file, size or _LIKELY_PX)
    labels = _labels(file, _literal(metadata.get("names", "")))
    fitting = recognised(signature.outputs, size or _LIKELY_PX) if pictures else {}
    if labels is not None:
        fitting = {name: count for name, count in fitting.items() if count in (ANY, len(labels))}
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", file.stem).lstrip("_.-")[:64]
    several = len(signature.outputs) > 1
    listed = ", ".join(
        f"{output.name} {output.described}".lstrip() if several else output.described
        for output in signature.outputs[:4]
    )
    kind, count = ("detect", None) if fitting else _by_shape(signature.outputs)
    return GuessedCard(
        name=name or "model",
        size=size,
        labels=labels,
        task=task,
        fitting=fitting,
        outputs=listed,
        count=count,
        dtype=pictures[0].dtype if pictures else "",
        kind=kind,
    )


def card_without_file(file: Path) -> ModelCard:
    """Builds the card of an ONNX file from its shapes and metadata. Raises ModelError if these
    leave something open."""
    guess = guess_card(file)
    if guess.missing is not None:
        raise missing_card(file, guess.missing, guess.example)
    assert guess.size is not None
    assert guess.labels is not None
    (decoder,) = guess.fitting
    card = ModelCard(
        name=guess.name,
        task="detect",
        labels=guess.labels,
        decoder=decoder,
        input=InputCard.model_validate({"size": guess.size, **DECODERS[decoder].usual_input}),
    )
    usual = ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in DECODERS[decoder].usual_input.items()
    )
    log.info(
        "%s has no model card; decoder %s by its outputs %s, %d labels by its metadata, input %d x "
        "%d px, and by guess %s; perception-node models card writes these down",
        file, decoder, guess.outputs, len(guess.labels), *guess.size, usual,
    )  # fmt: skip
    return card


def _by_shape(
    outputs: Sequence[GraphValue],
) -> tuple[Literal["classify", "detect", "segment"], int | None]:
    """Returns the task of logits and the number of classes; `detect` for all else."""
    shape = outputs[0].shape if len(outputs) == 1 else None
    if shape is None or len(shape) not in (2, 4) or shape[0] not in (1, -1):
        return "detect", None
    return "classify" if len(shape) == 2 else "segment", max(shape[1], 0) or None


def _input_size(pictures: Sequence[GraphValue], imgsz: object) -> tuple[int, int] | None:
    """Returns (height, width) of the picture: the graph's own, else the exporter's."""
    shape = pictures[0].shape if len(pictures) == 1 else None
    if shape is None:
        return None
    sides: object = shape[1:3] if shape[3] == 3 and shape[1] != 3 else shape[2:]
    if -1 in shape[1:]:
        sides = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if not isinstance(sides, tuple | list) or len(sides) != 2:
        return None
    height, width = sides
    if not all(type(side) is int and 0 < side <= _LARGEST_PX for side in sides):
        return None
    return height, width


def _labels(file: Path, names: object) -> tuple[str, ...] | None:
    """Returns the labels in order; None if the names are no complete list."""
    if isinstance(names, dict):
        by_id = {_id(key): name for key, name in names.items()}
        if by_id.keys() != set(range(len(names))):
            return None
        names = [by_id[class_id] for class_id in range(len(names))]
    if not isinstance(names, list | tuple) or not names:
        return None
    if not all(isinstance(name, str) for name in names):
        return None
    labels = tuple(names)
    check_names(f"{file}: names in its metadata", labels)
    return labels


def _id(key: object) -> object:
    """Returns a class id that JSON made a text of as a number, and any other key as it is."""
    return int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 9 else key


def _literal(text: str) -> object:
    """Returns the value of a Python literal; None for any other text. Nothing is evaluated."""
    if len(text) > _MOST_METADATA:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in names
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
