"""The catalogue: every model that a name stands for, and loading one."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from node.errors import ModelError
from node.perception.models import efficientnet_lite, model_file
from node.perception.models import published as released
from node.perception.models.model import Model
from perception_client.paths import expanded

DEFAULT_MODEL = efficientnet_lite.NAME
_WEIGHTS_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One model of the catalogue.

    size_mb: of its weights file in MB, None where that is not known.
    weights_here: the weights are on this machine, so no network is needed.
    bundled: they come with the installation.
    """

    name: str
    task: str
    size_mb: float | None
    parameters: int
    weights_here: bool
    bundled: bool


def entries() -> list[RegistryEntry]:
    """All models, the default first, the others by name."""
    from node.perception.models import torchvision_models

    return [
        _default_entry(),
        *(_torchvision_entry(name) for name in torchvision_models.names()),
        *(_released_entry(name) for name in released.RELEASED),
    ]


def load_model(name: str, weights: Path | None = None) -> Model:
    """A model by its name, with its own weights or with those of a file; or a model file.

    Downloads on first use what does not come with the installation. Raises ModelError for an
    unknown name and for weights that cannot be found, fetched or read, or that do not fit.
    """
    if name == efficientnet_lite.NAME:
        return efficientnet_lite.load(weights)
    if Path(name).suffix.lower() in model_file.SUFFIXES:
        if weights is not None:
            raise ModelError(
                f"model {name!r}: a model file has its own weights; leave model.weights out"
            )
        return model_file.load(expanded(name))
    if name in released.RELEASED:
        return released.load(name, weights)
    from node.perception.models import torchvision_models  # takes a second

    if name in torchvision_models.names():
        return torchvision_models.load(name, weights)
    raise ModelError(f"model {name!r}: {_why_unknown(name)}")


def fetch(name: str) -> Path:
    """The file of a model of the catalogue, downloaded where need be. Raises ModelError."""
    if name == efficientnet_lite.NAME:
        return efficientnet_lite.weights_file()
    from node.perception.models import torchvision_models

    if name in torchvision_models.names():
        return torchvision_models.fetch(name)
    if name in released.RELEASED:
        return released.fetch(name)
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
    from node.perception.models import torchvision_models

    found = torchvision_models.entry(name)
    return RegistryEntry(
        name=name,
        task=found.task,
        size_mb=found.size_mb,
        parameters=found.parameters,
        weights_here=found.weights_here,
        bundled=False,
    )


def _released_entry(name: str) -> RegistryEntry:
    found = released.RELEASED[name]
    return RegistryEntry(
        name=name,
        task=found.task,
        size_mb=found.size_mb,
        parameters=found.parameters,
        weights_here=released.weights_here(name),
        bundled=False,
    )


def _why_unknown(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in _WEIGHTS_FILES:
        return (
            'is a weights file, not a model; name it with model.weights = "PATH" '
            "and its model with model.name, as `perception-node models` lists them"
        )
    from node.perception.models import torchvision_models

    known = [efficientnet_lite.NAME, *torchvision_models.names(), *released.RELEASED]
    near = difflib.get_close_matches(name.lower(), known, n=3)
    nearest = f"the nearest: {', '.join(near)}; " if near else ""
    return f"no model has this name; {nearest}`perception-node models` lists all"
