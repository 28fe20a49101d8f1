"""Weights files: finding and downloading them, reading them, and putting them into a network.

Downloads are kept where torch hub keeps them, so a machine that has used torchvision has them.
"""

import hashlib
import http.client
import os
import pickle
import re
import secrets
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from torch import nn

from node.errors import ModelError

OFFLINE_MODELS = ("efficientnet_lite0",)
"""Models whose weights come with the installation."""
_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 18
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
_NESTED_UNDER = ("state_dict", "model")

StateDict = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """What a weights file holds. digest: sha256 of the file, hexadecimal."""

    file: Path
    state: StateDict
    digest: str


def sha256_of(file: Path) -> str:
    """sha256 of a file's bytes, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_file(url: str) -> Path:
    """Where the weights of this address lie once downloaded: torch hub's checkpoint directory."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def fetch_weights(url: str, model_name: str) -> Path:
    """The downloaded weights of a model, downloading them first where they are not there.

    A file name like `resnet18-f37072fd.pth` ends in the beginning of the file's sha256; a file
    that differs is downloaded again. Raises ModelError where that fails.
    """
    file = cached_file(url)
    if _is_whole(file):
        return file
    try:
        _download(url, file)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"model {model_name!r}: its weights {file.name} could not be downloaded from {url} "
            f"({_reason(error)}); put that file at {file}, or name a copy with "
            f'model.weights = "PATH"; works without a network: {", ".join(OFFLINE_MODELS)}'
        ) from error
    return file


def read_weights(file: Path) -> Weights:
    """A state dict as torch.save writes it, bare or under the key `state_dict` or `model`.

    Nothing in the file is run (weights_only). Raises ModelError for anything else.
    """
    problem = _problem_with(file)
    if problem:
        raise ModelError(f"weights {file}: {problem}")
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True)
        digest = sha256_of(file)
    except Exception as error:  # torch.load has no exception of its own for a damaged file
        raise ModelError(f"weights {file}: {_why_unreadable(file, error)}") from error
    return Weights(file, _state_in(content, file), digest)


def put_into(network: nn.Module, weights: Weights, model_name: str) -> None:
    """Loads weights into a network whose tensors have the same names and shapes.

    Counters of BatchNorm (`num_batches_tracked`) may be missing. Raises ModelError that says how
    many tensors are missing, unknown or of another shape, and the first of them.
    """
    own = network.state_dict()
    state = weights.state
    missing = [name for name in own if name not in state and not is_counter(name)]
    extra = [name for name in state if name not in own and not is_counter(name)]
    misshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or extra or misshaped:
        first = [*missing[:1], *extra[:1]]
        for name in misshaped[:1]:
            first.append(f"{name} is {_shape(state[name])}, not {_shape(own[name])}")
        raise ModelError(
            f"weights {weights.file}: do not fit model {model_name!r}: {len(missing)} tensors "
            f"missing, {len(extra)} unknown, {len(misshaped)} of another shape "
            f"({'; '.join(first)}); name the model that they were saved from"
        )
    try:
        network.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"weights {weights.file}: do not fit model {model_name!r} ({_reason(error)}); "
            "save them with torch.save(model.state_dict(), PATH)"
        ) from error


def is_counter(tensor_name: str) -> bool:
    """Whether this is BatchNorm's count of training batches, which inference does not use."""
    return tensor_name.endswith("num_batches_tracked")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "a single number"


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0 and _matches_name(file, file.name)


def _matches_name(file: Path, name: str) -> bool:
    found = _HASH_IN_NAME.search(name)
    return found is None or sha256_of(file).startswith(found[1])


def _download(url: str, target: Path) -> None:
    """Downloads to a name of its own first, so that no reader and no second process ever sees a
    part of the file. Raises OSError or HTTPException."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response,
            part.open("wb") as stream,
            _progress() as progress,
        ):
            size = response.headers.get("Content-Length")
            total = int(size) if size and size.isdigit() else None
            task = progress.add_task(target.name, total=total)
            received = _copy(response, stream, lambda n: progress.advance(task, n))
        if total is not None and received != total:
            raise OSError(f"the connection ended after {received} of {total} bytes")
        if not _matches_name(part, target.name):
            raise OSError("what came is damaged: its sha256 is not the one in the file's name")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO, advance: Callable[[int], None]) -> int:
    received = 0
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        advance(len(chunk))
        received += len(chunk)
    return received


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        "downloading {task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _problem_with(file: Path) -> str | None:
    """What can be said against a file before reading it."""
    if file.is_dir():
        return "is a directory; name the weights file in it"
    if not file.exists():
        return "does not exist; mend model.weights, or leave it out for the model's own weights"
    if not file.is_file():
        return "is not a regular file; name a weights file that torch.save wrote"
    if file.stat().st_size == 0:
        return "is empty (0 bytes); copy or download it again"
    if not os.access(file, os.R_OK):
        return "may not be read by this user; mend its permissions"
    return None


def _why_unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({_reason(error)})"
    if _is_torchscript(file):
        return (
            "is a TorchScript archive, not a state dict; "
            "save one with torch.save(model.state_dict(), PATH)"
        )
    if zipfile.is_zipfile(file) and isinstance(error, pickle.UnpicklingError):
        return (
            "holds a pickled object, not only tensors, and is not loaded since that runs code "
            "in it; save a state dict with torch.save(model.state_dict(), PATH)"
        )
    return "is not a torch weights file, or is damaged; copy or download it again"


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())


def _state_in(content: object, file: Path) -> StateDict:
    for key in _NESTED_UNDER:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        kind = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelError(f"weights {file}: holds {kind}, not a state dict; {_SAVE}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ModelError(
                f"weights {file}: its entry {name!r} is a {type(tensor).__name__}, "
                f"not a tensor; {_SAVE}"
            )
    # As it is, not a plain dict: torch keeps version numbers in an attribute of it.
    return cast(StateDict, content)


_SAVE = "save one with torch.save(model.state_dict(), PATH)"
