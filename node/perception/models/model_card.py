"""ModelCard: the description of a model file, a TOML file beside it."""

import difflib
import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.errors import ModelError
from node.perception.models.beside import MIB, beside, text_of
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.tasks.decoders.registry import DECODERS
from perception_client.text import printable

_MINIMAL = (
    'name = "mine", task = "classify", labels = "labels.txt", [input] size = [224, 224], '
    "mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225]"
)
_REQUIRED = {
    "name": 'name = "mine"',
    "task": 'task = "classify" (or "detect", "segment")',
    "labels": 'labels = "labels.txt" (a file with one name a line, or a list of names)',
    "input": "[input] size = [224, 224] (height, width)",
    "input.size": "size = [224, 224] (height, width) below [input]",
}
"""The keys that a card must have, as they are written."""
_DECODERS: dict[str, tuple[str | None, ...]] = {
    "classify": ("softmax", None),
    "detect": tuple(DECODERS),
    "segment": ("pixels", None),
}
"""Allowed decoders of each task, None for the default."""
DESCRIBED = (".onnx", ".xml")
"""Suffixes of the model files whose inputs and outputs tell a part of the card."""
_NAME_LABELS = "name a text file with a label a line, or list the names"
_MOST_CARD_BYTES = _MOST_LABELS_BYTES = 2 * MIB
"""All label names go into one message (perception_client.messages.kinds.MAX_MESSAGE_BYTES)."""
_MOST_LABELS, _LONGEST_LABEL = 100_000, 200
_UNSEEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, which terminals interpret, and characters that change the direction of
text."""
_Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
_Factor = Annotated[float, Field(ge=1e-6, le=1e6)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputCard(_Section):
    """The network's input geometry and normalisation; the network gets (pixel * scale - mean) /
    std. Each key is as in `PreprocessSpec`; the default of antialias is the decoder's, as in the
    preprocessing of its models."""

    size: tuple[Annotated[int, Field(ge=1, le=8192)], Annotated[int, Field(ge=1, le=8192)]]
    color: Literal["rgb", "bgr"] = "rgb"
    resize: Literal["crop", "stretch", "letterbox"] = "crop"
    resize_short: int | None = Field(None, ge=1, le=16384)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool | None = None
    pad_value: int = Field(0, ge=0, le=255)
    pad_anchor: Literal["center", "top-left"] = "center"
    scale: _Factor = 1 / 255
    mean: tuple[_Mean, _Mean, _Mean] = (0.0, 0.0, 0.0)
    std: tuple[_Factor, _Factor, _Factor] = (1.0, 1.0, 1.0)

    @property
    def size_px(self) -> str:
        """Height and width in words, `224, 224`."""
        return f"{self.size[0]}, {self.size[1]}"


class ModelCard(_Section):
    """The whole card. labels: the names, or a file beside the card with one name a line.
    first_class: of a detector, the number that it gives the first label. outputs: names of the
    file's outputs, in the order in which the decoder reads them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    task: Literal["classify", "detect", "segment"]
    labels: str | tuple[str, ...]
    decoder: str | None = None
    first_class: Literal[0, 1] | None = None
    outputs: tuple[str, ...] | None = Field(None, min_length=1, max_length=8)
    source: str | None = Field(None, max_length=1000)
    input: InputCard

    @property
    def preprocess(self) -> PreprocessSpec:
        """The input as the type that preprocessing uses."""
        card = self.input
        return PreprocessSpec(
            resize_short_px=card.resize_short or min(card.size),
            crop_px=card.size,
            interpolation=card.interpolation,
            mean=card.mean,
            std=card.std,
            fit=card.resize,
            color=card.color,
            scale=card.scale,
            pad_value=card.pad_value,
            pad_anchor=card.pad_anchor,
            antialias=self._antialias if card.antialias is None else card.antialias,
        )

    @property
    def _antialias(self) -> bool:
        return self.task != "detect" or DECODERS[self.decoder or ""].antialias


def card_file(model_file: Path) -> Path:
    """Returns the file of the card of a model file."""
    return model_file.with_suffix(".toml")


def has_card(model_file: Path) -> bool:
    """Whether a card lies beside a model file. A link that leads nowhere counts: the card that it
    names is missing, and no guess replaces it."""
    return card_file(model_file).exists() or card_file(model_file).is_symlink()


def labels_file(card: ModelCard, model_file: Path) -> tuple[Path, ...]:
    """Returns the file that the labels stand in; empty if they stand in the card. Raises
    ModelError."""
    if not isinstance(card.labels, str):
        return ()
    try:
        return (beside(model_file, card.labels),)
    except ModelError as error:
        setting = f"{card_file(model_file)}: labels = {card.labels!r:.80}"
        reason = str(error).removeprefix(f"{model_file}: ")
        raise ModelError(f"{setting}: {reason}", fix=_NAME_LABELS) from error


def missing_card(model_file: Path, reason: str = "", example: str = _MINIMAL) -> ModelError:
    """Returns the error of a model file without a card.

    Args:
        model_file: the file.
        reason: why the file alone is not enough; empty where its format says nothing.
        example: the least that its card needs.
    """
    because = f", and {reason}" if reason else ""
    command = f", or let `perception-node models card {shlex.quote(str(model_file))}` begin it"
    return ModelError(
        f"{model_file}: its model card {card_file(model_file)} is missing{because}",
        fix=f"write one{command if model_file.suffix.lower() in DESCRIBED else ''}: {example}",
    )


def read_card(model_file: Path) -> ModelCard:
    """Reads the card beside a model file. Raises ModelError if it is missing or invalid."""
    file = card_file(model_file)
    if not file.exists():
        raise missing_card(model_file)
    beside(model_file, file.name)
    try:
        content: dict[str, Any] = tomllib.loads(text_of(file, _MOST_CARD_BYTES))
        card = ModelCard.model_validate(content)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ModelError(f"{file}: {_first_problem(error)}") from error
    except RecursionError:
        raise ModelError(f"{file} is not valid TOML: its lists are nested too deeply") from None
    except ValueError as error:
        # Invalid TOML or UTF-8.
        raise ModelError(f"{file} is not valid TOML: {error}") from error
    if card.first_class is not None and card.task != "detect":
        raise ModelError(
            f'{file}: first_class is for task "detect", and this is "{card.task}"',
            fix="leave it out",
        )
    if card.decoder is None and card.task == "detect":
        raise ModelError(
            f"{file}: decoder is missing",
            fix=f"name the one that fits the outputs: {', '.join(DECODERS)}",
        )
    if card.decoder not in _DECODERS[card.task]:
        names = [name for name in _DECODERS[card.task] if name]
        similar = difflib.get_close_matches(str(card.decoder), names, n=1)
        hint = f'did you mean "{similar[0]}"? ' if similar else ""
        raise ModelError(
            f'{file}: decoder = "{printable(card.decoder or ""):.40}": task "{card.task}" has no '
            "such decoder",
            fix=f"{hint}its decoders: {', '.join(names)}",
        )
    return card


def label_names(card: ModelCard, model_file: Path) -> tuple[str, ...]:
    """Returns the names of the classes, in order. Raises ModelError."""
    where = f"{card_file(model_file)}: labels"
    names = card.labels if not isinstance(card.labels, str) else _read_labels(card, model_file)
    check_names(where, names)
    return names


def check_names(where: str, names: Sequence[str]) -> None:
    """Raises ModelError for names that no message may carry. where: the labels, for the error."""
    if not names:
        raise ModelError(f"{where}: there is no name", fix="name each class of the model")
    if len(names) > _MOST_LABELS:
        raise ModelError(f"{where}: {len(names)} names", fix=f"at most {_MOST_LABELS}")
    for number, name in enumerate(names):
        if not name.strip():
            raise ModelError(
                f"{where}: name {number} is blank, counted from 0",
                fix='remove it if it is no class, or give the class a name such as "N/A"',
            )
        if len(name) > _LONGEST_LABEL or _UNSEEN.search(name):
            raise ModelError(
                f"{where}: {name!r:.60} is no name: at most {_LONGEST_LABEL} characters, none of "
                "them a control character"
            )


def _read_labels(card: ModelCard, model_file: Path) -> tuple[str, ...]:
    (file,) = labels_file(card, model_file)
    try:
        # splitlines() also splits at characters that `check_names` refuses, which would move names.
        lines = re.split("\r\n|\r|\n", text_of(file, _MOST_LABELS_BYTES))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{card_file(model_file)}: labels = {card.labels!r:.80}: {file} cannot be read",
            fix=_NAME_LABELS,
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return tuple(lines)


def _first_problem(error: ValidationError) -> str:
    # A misspelt key is the reason why another one is missing.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    key = printable(".".join(str(part) for part in problem["loc"]))
    if problem["type"] == "extra_forbidden":
        keys = list((InputCard if key.startswith("input.") else ModelCard).model_fields)
        similar = difflib.get_close_matches(str(problem["loc"][-1]), keys, n=1, cutoff=0.5)
        hint = f"did you mean {similar[0]}? " if similar else ""
        return f"{key}: unknown key; {hint}keys here: {', '.join(keys)}"
    if key in _REQUIRED and problem["type"] == "missing":
        locations = (".".join(map(str, other["loc"])) for other in problems)
        missing = [location for location in locations if location in _REQUIRED]
        are = f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
        return f"{are}; write {', '.join(_REQUIRED[location] for location in missing)}"
    if problem["loc"][0] == "labels":
        return f"labels are neither a file nor a list of names; write {_REQUIRED['labels']}"
    if problem["type"] in ("missing", "too_short", "too_long"):
        return f"{key.rstrip('.0123456789')} has too few or too many values; see docs/models.md"
    if problem["type"] == "tuple_type":
        return f"{key} = {problem['input']!r}: write a list, in brackets: [...]"
    allowed = problem["msg"].removeprefix("Input ")
    return f"{key} = {problem['input']!r}: {allowed[0].lower()}{allowed[1:]}"
