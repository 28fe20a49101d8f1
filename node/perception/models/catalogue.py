"""Catalogue: torchvision's models as data. Their networks are built by `torchvision_models`, and
only where torch infers or exports."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.data import class_names, torchvision_catalogue
from node.perception.models.download import fetched, is_here, sha256_of
from node.perception.models.model import Model
from node.perception.models.weights_file import check_weights_file
from node.perception.preprocess.geometry import PreprocessSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """torchvision's description of a model.

    Attributes:
        name: torchvision's name.
        task: `classify`, `detect` or `segment`.
        url: address of the newest weights.
        size_mb: size of the weights file in MB.
        parameters: number of weights.
        label_names: of the classes, in the order of the outputs.
        preprocess: input geometry and normalisation.
    """

    name: str
    task: str
    url: str
    size_mb: float
    parameters: int
    label_names: tuple[str, ...]
    preprocess: PreprocessSpec

    @property
    def weights_here(self) -> bool:
        """Whether the weights are on this computer."""
        return is_here(self.url)


def names() -> list[str]:
    """Returns the names of all classifiers, detectors and segmentation networks, each kind
    sorted."""
    return [row["name"] for row in torchvision_catalogue()]


def entry(name: str) -> CatalogueEntry:
    """Returns the description of a model. name: one of `names`."""
    row = next(row for row in torchvision_catalogue() if row["name"] == name)
    return CatalogueEntry(
        name=name,
        task=row["task"],
        url=row["url"],
        size_mb=row["size_mb"],
        parameters=row["parameters"],
        label_names=class_names(row["labels"]),
        preprocess=_spec(row),
    )


def fetch(name: str) -> Path:
    """Returns the weights file of a model, downloaded on first use. Raises ModelError."""
    return fetched(entry(name).url, name)


def load(name: str, file: Path | None = None) -> Model:
    """Loads a model. Its weights are read where its network is used, so that an exported graph
    needs no torch. Raises ModelError.

    Args:
        name: one of `names`.
        file: weights, a state dict of the same network; None: torchvision's weights, downloaded on
            first use.
    """
    described = entry(name)
    weights = file or fetch(name)
    check_weights_file(weights)

    def build() -> "nn.Module":
        from node.perception.models import torchvision_models

        return torchvision_models.network(name, described.task, weights)

    return Model(
        name=name,
        build=build,
        preprocess=described.preprocess,
        label_names=described.label_names,
        digest=sha256_of(weights),
        task=described.task,
        decoder=_DECODERS[described.task],
        output_order=(0, 1, 2) if described.task == "detect" else (0,),
    )


_DECODERS = {"classify": "softmax", "detect": "boxes", "segment": "pixels"}
_WHOLE_FRAME = PreprocessSpec(
    resize_short_px=480,
    crop_px=(480, 640),
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="none",
)
"""torchvision's detectors resize by themselves."""


def _spec(row: dict[str, Any]) -> PreprocessSpec:
    if row["task"] == "detect":
        return _WHOLE_FRAME
    short_px = row["resize_short_px"]
    crop_px = (row["crop_px"],) * 2 if row["task"] == "classify" else (short_px, short_px * 4 // 3)
    return PreprocessSpec(
        resize_short_px=short_px,
        crop_px=(crop_px[0], crop_px[1]),
        interpolation=row["interpolation"],
        mean=tuple(row["mean"]),
        std=tuple(row["std"]),
        fit="crop" if row["task"] == "classify" else "short",
    )
