"""Loads a user's model file, ONNX, OpenVINO IR or torch exported program, with the model card
beside it."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from node.errors import CHECK_NAME, ModelError
from node.perception.models.beside import beside
from node.perception.models.engine_errors import engine_reason
from node.perception.models.graph_input import ONE_PICTURE, graph_input_of
from node.perception.models.graph_signature import GraphValue, signature_of
from node.perception.models.guessed_card import card_without_file
from node.perception.models.model import Model, digest_of
from node.perception.models.model_card import (
    ModelCard,
    card_file,
    has_card,
    label_names,
    labels_file,
    read_card,
)
from node.perception.models.output_checks import decoder_of, output_order
from node.perception.models.torch_parts import check_torch

if TYPE_CHECKING:
    from torch import nn

SUFFIXES = (".onnx", ".xml", ".pt2")
"""Suffixes of model files."""


def load(file: Path, card: ModelCard | None = None) -> Model:
    """Loads a model file: float32 [n, 3, h, w] to logits [n, classes], or to the outputs that the
    card's decoder reads.

    Args:
        file: with one of SUFFIXES.
        card: its description; None: the card beside the file, or without one what an ONNX file says
            about itself.

    Raises:
        ModelError: the file or card cannot be read, or they do not match.
    """
    check_file(file)
    files = [file, *_other_files(file)]
    if card is None and file.suffix.lower() == ".onnx" and not has_card(file):
        card = card_without_file(file)
    elif card is None:
        card = read_card(file)
        files += [card_file(file), *labels_file(card, file)]
    names = label_names(card, file)
    exported_program = file.suffix.lower() == ".pt2"
    network: nn.Module | None = None
    if exported_program:
        network = _program(file)
        outputs = _outputs_of_network(network, file, card)
        graph_input = ONE_PICTURE
    else:
        signature = signature_of(file)
        outputs = signature.outputs
        graph_input = graph_input_of(file, signature.inputs, card)
    return Model(
        name=card.name,
        build=(lambda: network) if network is not None else None,
        preprocess=card.preprocess,
        label_names=names,
        digest=digest_of(files),
        task=card.task,
        decoder=decoder_of(card),
        first_class=card.first_class,
        output_order=output_order(file, outputs, card, len(names)),
        graph=None if exported_program else file,
        graph_input=graph_input,
        files=tuple(files),
    )


def description_of(file: Path) -> tuple[str, tuple[str, ...]] | None:
    """Returns the task and the class names in the card beside a model file; None without a file or
    without a card. Raises ModelError for a card that cannot be read."""
    if not (file.exists() and has_card(file)):
        return None
    card = read_card(file)
    return card.task, label_names(card, file)


def check_file(file: Path) -> None:
    """Raises ModelError if there is no such file."""
    try:
        mode = file.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelError(f"model {file}: there is no such file", fix=CHECK_NAME) from None
    except OSError as error:
        raise ModelError(
            f"model {file}: cannot be read: {error.strerror}",
            fix="check the path, and whether this user may read it",
        ) from error
    if not stat.S_ISREG(mode):
        raise ModelError(f"model {file}: is not a regular file", fix="name a model file")


def _program(file: Path) -> "nn.Module":
    check_torch(f"{file}: a torch exported program")
    from node.perception.models.exported_program import ExportedProgram

    return ExportedProgram(file)


def _outputs_of_network(
    network: "nn.Module", file: Path, card: ModelCard
) -> tuple[GraphValue, ...]:
    import torch

    try:
        with torch.inference_mode():
            outputs = network(torch.zeros(1, 3, *card.input.size))
    except Exception as error:
        # The user's program may raise anything.
        raise ModelError(
            f"{file}: does not take [1, 3, {card.input.size_px}] float32 ({engine_reason(error)})"
        ) from error
    tensors = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    if not isinstance(tensors, tuple) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors
    ):
        raise ModelError(
            f"{file}: gives a {type(outputs).__name__}", fix="export it to give tensors"
        )
    return tuple(
        GraphValue("", tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for tensor in tensors
    )


def _other_files(file: Path) -> tuple[Path, ...]:
    """Returns the other files that contain the tensors of a model file. Raises ModelError if one is
    not beside it."""
    if file.suffix.lower() == ".onnx":
        from node.perception.models.onnx_file import external_files  # imports onnx

        return external_files(file)
    if file.suffix.lower() != ".xml":
        return ()
    _check_ir(file)
    weights = file.with_suffix(".bin")
    if not weights.exists() and b'type="Const"' in file.read_bytes():
        raise ModelError(
            f"{file}: its weights {weights.name} are missing", fix="put it beside the file"
        )
    return (beside(file, weights.name),) if weights.exists() else ()


def _check_ir(file: Path) -> None:
    """Raises ModelError if a file is no XML: OpenVINO would detect any other format, which may
    refer to further files unknown to this check."""
    with file.open("rb") as stream:
        header = stream.read(5)
    if not header.startswith((b"<?xml", b"<net")):
        raise ModelError(f"{file} cannot be read (it is no OpenVINO IR)", fix="export it again")
