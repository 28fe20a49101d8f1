"""Weights files: reading, and loading into a network."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from node.perception.models.download import reason_of, sha256_of
from node.perception.models.weights_file import WeightsError, check_weights_file, members

_NESTED_UNDER = ("state_dict", "model")
"""Keys under which training scripts store the state dict."""

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """The content of a weights file.

    Attributes:
        file: its path.
        state: tensors by name.
        digest: sha256 of the file, hexadecimal.
    """

    file: Path
    state: StateDict
    digest: str


def read_weights(file: Path) -> Weights:
    """Reads a state dict written by torch.save, bare or under the key `state_dict` or `model`.
    Executes nothing in the file (weights_only). Raises WeightsError for anything else."""
    check_weights_file(file)
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True)
        digest = sha256_of(file)
    except Exception as error:
        # torch.load has no exception type of its own for a damaged file.
        raise WeightsError(f"weights {file}: {_why_unreadable(file, error)}") from error
    return Weights(file, _state_in(content, file), digest)


def put_into(network: nn.Module, weights: Weights, model_name: str) -> None:
    """Loads weights into a network whose tensors have the same names and shapes. BatchNorm's
    counters (`num_batches_tracked`) may be missing.

    Raises WeightsError with the numbers of missing, unknown and misshaped tensors, and the first of
    each.
    """
    network_state = network.state_dict()
    state = weights.state
    missing = [name for name in network_state if name not in state and not is_counter(name)]
    unknown = [name for name in state if name not in network_state and not is_counter(name)]
    misshaped = [
        name
        for name in network_state
        if name in state and network_state[name].shape != state[name].shape
    ]
    if missing or unknown or misshaped:
        examples = [*missing[:1], *unknown[:1]]
        for name in misshaped[:1]:
            examples.append(f"{name} is {_shape(state[name])}, not {_shape(network_state[name])}")
        raise WeightsError(
            f"weights {weights.file}: do not fit model {model_name!r}: {len(missing)} tensors "
            f"missing, {len(unknown)} unknown, {len(misshaped)} of another shape "
            f"({'; '.join(examples)})",
            fix="name the model that they were saved from",
        )
    try:
        network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"weights {weights.file}: do not fit model {model_name!r} ({reason_of(error)})",
            fix="save them with torch.save(model.state_dict(), PATH)",
        ) from error


def is_counter(tensor_name: str) -> bool:
    """Whether a tensor is BatchNorm's count of training batches, which inference does not use."""
    return tensor_name.endswith("num_batches_tracked")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(length) for length in tensor.shape) or "a single number"


def _why_unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({reason_of(error)})"
    if _is_torchscript(file):
        return (
            "is a TorchScript archive, not a state dict; "
            "save one with torch.save(model.state_dict(), PATH)"
        )
    if members(file) and isinstance(error, pickle.UnpicklingError):
        return (
            "holds a pickled object, not only tensors, and is not loaded since that runs code "
            "in it; save a state dict with torch.save(model.state_dict(), PATH)"
        )
    return "is not a torch weights file, or is damaged; copy or download it again"


def _is_torchscript(file: Path) -> bool:
    return any(Path(member.filename).name == "constants.pkl" for member in members(file))


def _state_in(content: object, file: Path) -> StateDict:
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        kind = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsError(f"weights {file}: holds {kind}, not a state dict", fix=_SAVE)
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise WeightsError(
                f"weights {file}: its entry {name!r} is a {type(tensor).__name__}, not a tensor",
                fix=_SAVE,
            )
    # Not converted to a plain dict: torch stores version numbers in an attribute.
    return cast(StateDict, content)


_SAVE = "save one with torch.save(model.state_dict(), PATH)"
