"""Model files published by others under licences that allow commercial use: their addresses and
model cards."""

from dataclasses import dataclass
from pathlib import Path

from node.data import class_names
from node.perception.models import model_file
from node.perception.models.download import fetched, is_here
from node.perception.models.model import Model
from node.perception.models.model_card import InputCard, ModelCard


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published file.

    Attributes:
        url: its address.
        sha256: of the whole file, hexadecimal.
        size_mb: size in MB.
        parameters: number of weights.
        task: `classify`, `detect` or `segment`.
    """

    url: str
    sha256: str
    size_mb: float
    parameters: int
    task: str


_YOLOX_NANO = PublishedModel(
    url="https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
    sha256="695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
    size_mb=3.7,
    parameters=910_000,  # YOLOX's README, table of light models
    task="detect",
)
RELEASED = {"yolox_nano": _YOLOX_NANO}
"""Published models by name."""


def weights_here(name: str) -> bool:
    """Whether the file of a model has been downloaded."""
    return is_here(RELEASED[name].url)


def fetch(name: str) -> Path:
    """Returns the file of a model, downloaded on first use and checked against its sha256. Raises
    ModelError."""
    released = RELEASED[name]
    return fetched(released.url, name, released.sha256)


def load(name: str, file: Path | None = None) -> Model:
    """Loads a model. Raises ModelError.

    Args:
        name: a key of RELEASED.
        file: a copy of its file; None: the downloaded file.
    """
    return model_file.load(file or fetch(name), card_of(name))


def card_of(name: str) -> ModelCard:
    """Returns the card of a model, a key of RELEASED. The preprocessing is that of YOLOX's release:
    BGR, 0 to 255, padded on the right and bottom with 114 (yolox/data/data_augment.py, preproc)."""
    return ModelCard(
        name=name,
        task="detect",
        labels=class_names("coco"),
        decoder="yolox",
        source="YOLOX, Megvii, Apache-2.0",
        input=InputCard(
            size=(416, 416),
            color="bgr",
            resize="letterbox",
            pad_value=114,
            pad_anchor="top-left",
            scale=1.0,
        ),
    )
