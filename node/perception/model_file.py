"""Model files of the user's own: ONNX, OpenVINO IR and torch exported programs, each with its model
card beside it."""

import hashlib
from pathlib import Path

import openvino as ov
import torch
from torch import nn

from node.errors import ModelError
from node.perception.card import ModelCard, label_names, read_card
from node.perception.model import Model
from node.perception.weights import sha256_of

SUFFIXES = (".onnx", ".xml", ".pt2")


def load(file: Path) -> Model:
    """The model in a file with one of SUFFIXES: float32 [n, 3, h, w] in, logits [n, classes] out.

    Raises ModelError where the file or its card cannot be read, or they do not fit each other.
    """
    if not file.is_file():
        raise ModelError(f"model {file}: there is no such file")
    card = read_card(file)
    names = label_names(card, file)
    exported_program = file.suffix.lower() == ".pt2"
    if exported_program:
        network = _Exported(file)
        _check_network(network, file, card, len(names))
    else:
        _check_graph(file, card, len(names))
    return Model(
        name=card.name,
        network=network if exported_program else None,
        preprocess=card.preprocess,
        label_names=names,
        digest=_digest(file),
        graph=None if exported_program else file,
    )


class _Exported(nn.Module):
    """An exported program as a network. It is for inference already, and says so to nobody."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        try:
            self.program = torch.export.load(file).module()
        except Exception as error:  # torch.export.load has no exception of its own
            raise ModelError(
                f"{file} cannot be read as a torch exported program; "
                "write it with torch.export.save of this torch version"
            ) from error

    def train(self, mode: bool = True) -> "_Exported":
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.program(x)
        return logits


def _check_network(network: nn.Module, file: Path, card: ModelCard, classes: int) -> None:
    try:
        with torch.inference_mode():
            logits = network(torch.zeros(1, 3, *card.input.size))
    except Exception as error:  # whatever the user's program raises
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{file}: does not take [1, 3, {_size(card)}] float32 ({reason})"
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{file}: gives a {type(logits).__name__}; export it to give the logits")
    _check_classes(file, list(logits.shape), classes)


def _check_graph(file: Path, card: ModelCard, classes: int) -> None:
    try:
        graph = ov.Core().read_model(file)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{file} cannot be read ({reason}); export it again") from error
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(
            f"{file}: has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; "
            "a classifier has one of each"
        )
    wanted = ov.PartialShape([-1, 3, *card.input.size])
    shape = graph.input().partial_shape
    if graph.input().element_type != ov.Type.f32 or not shape.compatible(wanted):
        raise ModelError(
            f"{file}: takes {shape} {graph.input().element_type.to_string()}; the card says "
            f"[n, 3, {_size(card)}] float32: mend input.size, or export it so"
        )
    output = graph.output().partial_shape
    _check_classes(file, [d.get_length() if d.is_static else -1 for d in output], classes)


def _check_classes(file: Path, shape: list[int], classes: int) -> None:
    if len(shape) != 2 or shape[1] not in (classes, -1):
        raise ModelError(
            f"{file}: gives {shape}; its card has {classes} labels, which makes [n, {classes}]: "
            "name the labels that it was trained with"
        )


def _size(card: ModelCard) -> str:
    return f"{card.input.size[0]}, {card.input.size[1]}"


def _digest(file: Path) -> str:
    weights = file.with_suffix(".bin")
    if file.suffix.lower() != ".xml" or not weights.is_file():
        return sha256_of(file)
    return hashlib.sha256((sha256_of(file) + sha256_of(weights)).encode()).hexdigest()
