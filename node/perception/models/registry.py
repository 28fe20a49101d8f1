"""Registry: all models by name, and loading by name."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from node.errors import ModelError
from node.perception.classical import tags
from node.perception.models import catalogue, efficientnet_lite, model_file, published
from node.perception.models.model import Model
from perception_client.paths import expanded

DEFAULT_MODEL = efficientnet_lite.NAME
_CLASSICAL: dict[str, Callable[[str], Model]] = dict.fromkeys(tags.NAMES, tags.load)
"""What loads each model without a network, by its name."""
_WEIGHTS_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """A model of the registry.

    Attributes:
        name: name for `model.name`.
        task: `classify`, `detect` or `segment`.
        size_mb: size of its weights file in MB, None if unknown, 0 for a model without a network.
        parameters: number of weights.
        weights_here: no download is needed: the weights are on this computer, or there are none.
        bundled: the weights are part of the installation.
    """

    name: str
    task: str
    size_mb: float | None
    parameters: int
    weights_here: bool
    bundled: bool


def entries() -> list[RegistryEntry]:
    """Returns all models: the default first, the others by name within each origin."""
    return [
        _default_entry(),
        *(_torchvision_entry(name) for name in catalogue.names()),
        *(_released_entry(name) for name in published.RELEASED),
        *(_classical_entry(name) for name in _CLASSICAL),
    ]


def load_model(name: str, weights: Path | None = None) -> Model:
    """Loads a model by name, or a model file. Downloads weights on first use.

    Args:
        name: a name of the registry, or a file with one of `model_file.SUFFIXES`.
        weights: weights file; None: the model's own weights.

    Raises:
        ModelError: the name is unknown, or the weights cannot be found, downloaded or read, or do
            not match the model.
    """
    try:
        return replace(_loaded(name, weights), origin=name, weights=weights)
    except OSError as error:  # of a folder that this user may not search, or a disk that fails
        raise ModelError(
            f"model {name!r}: {error.filename or weights or name} cannot be read: "
            f"{error.strerror or error}",
            fix="check the path, and whether this user may read it",
        ) from error


def _loaded(name: str, weights: Path | None) -> Model:
    if name == efficientnet_lite.NAME:
        return efficientnet_lite.load(weights)
    if Path(name).suffix.lower() in model_file.SUFFIXES:
        if weights is not None:
            raise ModelError(
                f"model {name!r}: a model file has its own weights", fix="leave model.weights out"
            )
        return model_file.load(expanded(name))
    if name in _CLASSICAL:
        if weights is not None:
            raise ModelError(
                f"model {name!r}: has no network, so no weights", fix="leave model.weights out"
            )
        return _CLASSICAL[name](name)
    if name in published.RELEASED:
        return published.load(name, weights)
    if name in catalogue.names():
        return catalogue.load(name, weights)
    raise ModelError(f"model {name!r}: {_why_unknown(name)}")


def check_name(name: str) -> None:
    """Raises ModelError for a name that is neither a model's nor that of a model file, which need
    not exist."""
    if Path(name).suffix.lower() not in model_file.SUFFIXES and name not in _names():
        raise ModelError(f"model {name!r}: {_why_unknown(name)}")


def fetch(name: str) -> Path | None:
    """Returns the file of a model, downloaded on first use; None for a model without a network.
    Raises ModelError."""
    if name == efficientnet_lite.NAME:
        return efficientnet_lite.weights_file()
    if name in catalogue.names():
        return catalogue.fetch(name)
    if name in published.RELEASED:
        return published.fetch(name)
    if name in _CLASSICAL:
        return None
    raise ModelError(f"model {name!r}: {_why_unknown(name)}")


def _default_entry() -> RegistryEntry:
    file = efficientnet_lite.bundled_file()
    return RegistryEntry(
        name=efficientnet_lite.NAME,
        task="classify",
        size_mb=file.stat().st_size / 1e6 if file else None,
        parameters=efficientnet_lite.PARAMETERS,
        weights_here=file is not None,
        bundled=True,
    )


def _torchvision_entry(name: str) -> RegistryEntry:
    described = catalogue.entry(name)
    return RegistryEntry(
        name=name,
        task=described.task,
        size_mb=described.size_mb,
        parameters=described.parameters,
        weights_here=described.weights_here,
        bundled=False,
    )


def _released_entry(name: str) -> RegistryEntry:
    described = published.RELEASED[name]
    return RegistryEntry(
        name=name,
        task=described.task,
        size_mb=described.size_mb,
        parameters=described.parameters,
        weights_here=published.weights_here(name),
        bundled=False,
    )


def _classical_entry(name: str) -> RegistryEntry:
    return RegistryEntry(
        name=name, task="detect", size_mb=0.0, parameters=0, weights_here=True, bundled=False
    )


def _why_unknown(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in _WEIGHTS_FILES:
        return (
            'is a weights file, not a model; name it with model.weights = "PATH" '
            "and its model with model.name, as `perception-node models` lists them"
        )
    if suffix and os.sep in name:
        return (
            f"no model has this name, and a model file ends in {', '.join(model_file.SUFFIXES)}; "
            "`perception-node models` lists the names"
        )
    similar = difflib.get_close_matches(name.lower(), _names(), n=3)
    nearest = f"the nearest: {', '.join(similar)}; " if similar else ""
    return f"no model has this name; {nearest}`perception-node models` lists all"


def _names() -> list[str]:
    return [efficientnet_lite.NAME, *catalogue.names(), *published.RELEASED, *_CLASSICAL]
