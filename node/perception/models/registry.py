"""Registry: all models by name, and loading by name."""

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from node.config.redact import redacted
from node.data import class_names
from node.errors import ModelError, SettingsError
from node.perception.classical import tags
from node.perception.models import catalogue, efficientnet_lite, model_file, published
from node.perception.models.foreign_formats import check_format
from node.perception.models.model import Model
from perception_client.paths import expanded

DEFAULT_MODEL = efficientnet_lite.NAME
_CLASSICAL: dict[str, Callable[[str], Model]] = dict.fromkeys(tags.NAMES, tags.load)
"""What loads each model without a network, by its name."""


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


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known of a model before it is loaded.

    Attributes:
        task: `classify`, `detect` or `segment`.
        label_names: of the classes, in order.
        finds_tags: whether the model finds fiducial tags, without a network.
    """

    task: str
    label_names: tuple[str, ...]
    finds_tags: bool = False


def described(name: str) -> ModelDescription | None:
    """Returns the description of a model by name, or of a model file by its card; None for a file
    without a card, and for an unknown name. Raises ModelError for a card that cannot be read."""
    if name == efficientnet_lite.NAME:
        return ModelDescription("classify", class_names("imagenet"))
    if Path(name).suffix.lower() in model_file.SUFFIXES:
        try:
            described_file = model_file.description_of(expanded(name))
        except OSError as error:
            raise _unreadable(name, None, error) from error
        return ModelDescription(*described_file) if described_file else None
    if name in _CLASSICAL:
        return ModelDescription("detect", _CLASSICAL[name](name).label_names, finds_tags=True)
    if name in published.RELEASED:
        card = published.card_of(name)
        return ModelDescription(card.task, tuple(card.labels))
    if name in catalogue.names():
        entry = catalogue.entry(name)
        return ModelDescription(entry.task, entry.label_names)
    return None


def check_weights(name: str, weights: Path | None, key: str = "model.weights") -> None:
    """Raises SettingsError where a model takes no weights file. key: of the weights, for the
    error."""
    if weights is None:
        return
    if Path(name).suffix.lower() in model_file.SUFFIXES:
        problem = "a model file has its own weights"
    elif name in _CLASSICAL:
        problem = "has no network, so no weights"
    else:
        return
    raise SettingsError(f"model {name!r}: {problem}", fix=f"leave {key} out")


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
        raise _unreadable(name, weights, error) from error


def _unreadable(name: str, weights: Path | None, error: OSError) -> ModelError:
    return ModelError(
        f"model {name!r}: {error.filename or weights or name} cannot be read: "
        f"{error.strerror or error}",
        fix="check the path, and whether this user may read it",
    )


def _loaded(name: str, weights: Path | None) -> Model:
    if name == efficientnet_lite.NAME:
        return efficientnet_lite.load(weights)
    check_weights(name, weights)
    if Path(name).suffix.lower() in model_file.SUFFIXES:
        return model_file.load(expanded(name))
    if name in _CLASSICAL:
        return _CLASSICAL[name](name)
    if name in published.RELEASED:
        return published.load(name, weights)
    if name in catalogue.names():
        return catalogue.load(name, weights)
    raise _unknown(name)


def check_name(name: str) -> None:
    """Raises ModelError for a name that is neither a model's nor that of a model file, which need
    not exist."""
    if Path(name).suffix.lower() not in model_file.SUFFIXES and name not in _names():
        raise _unknown(name)


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
    raise _unknown(name)


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


def _unknown(name: str) -> ModelError:
    """Returns the error of an unknown name. Raises ModelError for a file of another format."""
    check_format(name)
    problem = f"model {redacted(name)!r}: no model has this name"
    if Path(name).suffix and os.sep in name:
        return ModelError(
            f"{problem}, and a model file ends in {', '.join(model_file.SUFFIXES)}",
            fix="`perception-node models` lists the names",
        )
    similar = difflib.get_close_matches(name.lower(), _names(), n=3)
    nearest = f"the nearest: {', '.join(similar)}; " if similar else ""
    return ModelError(problem, fix=f"{nearest}`perception-node models` lists all")


def _names() -> list[str]:
    return [efficientnet_lite.NAME, *catalogue.names(), *published.RELEASED, *_CLASSICAL]
