"""Loads a user's model file, ONNX, OpenVINO IR or torch exported program, with the model card
beside it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.beside import beside
from node.perception.models.download import sha256_of
from node.perception.models.exported_program import ExportedProgram
from node.perception.models.model import Model
from node.perception.models.model_card import ModelCard, label_names, read_card
from node.perception.models.onnx_file import external_files
from node.perception.tasks.decode import cells_of

SUFFIXES = (".onnx", ".xml", ".pt2")
"""Suffixes of model files."""


def load(file: Path, card: ModelCard | None = None) -> Model:
    """Loads a model file: float32 [n, 3, h, w] to logits [n, classes], or to the outputs that the
    card's decoder reads.

    Args:
        file: with one of SUFFIXES.
        card: its description; None: the card beside the file.

    Raises:
        ModelError: the file or card cannot be read, or they do not match.
    """
    if not file.exists():
        raise ModelError(f"model {file}: there is no such file")
    if not file.is_file():
        raise ModelError(f"model {file}: is not a regular file", fix="name a model file")
    card = card or read_card(file)
    names = label_names(card, file)
    others = _other_files(file)
    exported_program = file.suffix.lower() == ".pt2"
    if exported_program:
        network = ExportedProgram(file)
        outputs = _outputs_of_network(network, file, card)
    else:
        outputs = _outputs_of_graph(file, card)
    decoder = card.decoder or _DEFAULT_DECODER[card.task]
    order = _CHECKS[decoder](file, outputs, card, len(names))
    return Model(
        name=card.name,
        build=(lambda: network) if exported_program else None,
        preprocess=card.preprocess,
        label_names=names,
        digest=_digest(file, others),
        task=card.task,
        decoder=decoder,
        output_order=order,
        graph=None if exported_program else file,
    )


@dataclass(frozen=True, slots=True)
class _Output:
    """An output of a graph.

    Attributes:
        name: empty if unknown.
        shape: -1 for a dynamic length; empty if the rank is unknown.
        whole_numbers: its type is an integer.
    """

    name: str
    shape: tuple[int, ...]
    whole_numbers: bool


def _outputs_of_network(network: nn.Module, file: Path, card: ModelCard) -> list[_Output]:
    try:
        with torch.inference_mode():
            outputs = network(torch.zeros(1, 3, *card.input.size))
    except Exception as error:
        # The user's program may raise anything.
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{file}: does not take [1, 3, {_size(card)}] float32 ({reason})"
        ) from error
    tensors = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    if not isinstance(tensors, tuple) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors
    ):
        raise ModelError(
            f"{file}: gives a {type(outputs).__name__}", fix="export it to give tensors"
        )
    return [_Output("", tuple(tensor.shape), not tensor.is_floating_point()) for tensor in tensors]


def _outputs_of_graph(file: Path, card: ModelCard) -> list[_Output]:
    try:
        graph = ov.Core().read_model(file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{file} cannot be read ({reason})", fix="export it again") from error
    if len(graph.inputs) != 1:
        raise ModelError(
            f"{file}: has {len(graph.inputs)} inputs", fix="export it with one, the picture"
        )
    expected = ov.PartialShape([-1, 3, *card.input.size])
    shape = graph.input().partial_shape
    if graph.input().element_type != ov.Type.f32 or not shape.compatible(expected):
        raise ModelError(
            f"{file}: takes {shape} {graph.input().element_type.to_string()}",
            fix=f"the card says [n, 3, {_size(card)}] float32: correct input.size, or export it so",
        )
    return [
        _Output(
            name=min(output.get_names(), default=""),
            shape=_lengths(output.partial_shape),
            whole_numbers=output.element_type.is_integral(),
        )
        for output in graph.outputs
    ]


def _lengths(shape: ov.PartialShape) -> tuple[int, ...]:
    if shape.rank.is_dynamic:
        return ()
    return tuple(length.get_length() if length.is_static else -1 for length in shape)


def _check_classes(
    file: Path, outputs: list[_Output], card: ModelCard, classes: int
) -> tuple[int, ...]:
    if len(outputs) != 1:
        raise ModelError(
            f"{file}: has {len(outputs)} outputs", fix="a classifier has one, the logits"
        )
    shape = list(outputs[0].shape)
    if len(shape) != 2 or shape[1] not in (classes, -1):
        raise ModelError(
            f"{file}: gives {shape}",
            fix=f"its card has {classes} labels, which makes [n, {classes}]: "
            "name the labels that it was trained with",
        )
    return (0,)


def _check_yolox(
    file: Path, outputs: list[_Output], card: ModelCard, classes: int
) -> tuple[int, ...]:
    expected = (cells_of(card.input.size), 5 + classes)
    shape = outputs[0].shape
    fits = len(shape) == 3 and all(
        length in (expected_length, -1)
        for length, expected_length in zip(shape[1:], expected, strict=True)
    )
    if len(outputs) != 1 or not fits:
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        raise ModelError(
            f"{file}: gives {shapes}",
            fix=f"a yolox decoder with {classes} labels and input.size = "
            f"[{_size(card)}] needs [n, {expected[0]}, {expected[1]}]: correct labels, "
            "input.size or decoder",
        )
    return (0,)


def _check_pixels(
    file: Path, outputs: list[_Output], card: ModelCard, classes: int
) -> tuple[int, ...]:
    if len(outputs) != 1:
        raise ModelError(
            f"{file}: has {len(outputs)} outputs", fix="a segmentation has one, the logits"
        )
    shape = list(outputs[0].shape)
    if len(shape) != 4 or shape[1] not in (classes, -1):
        raise ModelError(
            f"{file}: gives {shape}",
            fix=f"its card has {classes} labels, which makes "
            f"[n, {classes}, height, width]: name the labels that it was trained with",
        )
    return (0,)


def _check_boxes(
    file: Path, outputs: list[_Output], card: ModelCard, classes: int
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
    shape = outputs[indices[0]].shape
    if shape and shape[-1] not in (4, -1):
        raise ModelError(
            f"{file}: gives boxes of {list(shape)}",
            fix="a boxes decoder needs [k, 4], as x1, y1, x2, y2",
        )
    return indices


def _kind(output: _Output) -> str:
    name = output.name.lower()
    for kind, words in _WORDS.items():
        if any(word in name for word in words):
            return kind
    if output.shape and output.shape[-1] == 4:
        return "boxes"
    return "classes" if output.whole_numbers else "scores"


_WORDS = {"boxes": ("box", "det"), "scores": ("score", "conf"), "classes": ("class", "label")}
_CHECKS = {
    "softmax": _check_classes,
    "yolox": _check_yolox,
    "boxes": _check_boxes,
    "pixels": _check_pixels,
}
_DEFAULT_DECODER = {"classify": "softmax", "segment": "pixels"}


def _size(card: ModelCard) -> str:
    return f"{card.input.size[0]}, {card.input.size[1]}"


def _other_files(file: Path) -> tuple[Path, ...]:
    """Returns the other files that contain the tensors of a model file. Raises ModelError if one is
    not beside it."""
    if file.suffix.lower() == ".onnx":
        return external_files(file)
    if file.suffix.lower() != ".xml":
        return ()
    _check_ir(file)
    weights = file.with_suffix(".bin")
    return (beside(file, weights.name),) if weights.exists() else ()


def _check_ir(file: Path) -> None:
    """Raises ModelError if a file is no XML: OpenVINO would detect any other format, which may
    refer to further files unknown to this check."""
    with file.open("rb") as stream:
        header = stream.read(5)
    if not header.startswith((b"<?xml", b"<net")):
        raise ModelError(f"{file} cannot be read (it is no OpenVINO IR)", fix="export it again")


def _digest(file: Path, others: tuple[Path, ...]) -> str:
    if not others:
        return sha256_of(file)
    digests = "".join(sha256_of(path) for path in (file, *others))
    return hashlib.sha256(digests.encode()).hexdigest()
