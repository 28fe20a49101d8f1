"""Model files that others released for commercial use too, by name: where each is, and its card."""

from dataclasses import dataclass
from pathlib import Path

from node.perception.models import model_file
from node.perception.models.download import fetched, is_here
from node.perception.models.model import Model
from node.perception.models.model_card import InputCard, ModelCard


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A released file. sha256: of the whole file, hexadecimal; size_mb: in MB."""

    url: str
    sha256: str
    size_mb: float
    parameters: int
    task: str


_YOLOX_NANO = PublishedModel(
    url="https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_nano.onnx",
    sha256="695e750a5d5754bb5a8d5325643b59282191a7e7a564e435a415fd3c578eab14",
    size_mb=3.7,
    parameters=910_000,  # YOLOX's own README, table of light models
    task="detect",
)
RELEASED = {"yolox_nano": _YOLOX_NANO}


def weights_here(name: str) -> bool:
    """Whether the file lies where it is kept."""
    return is_here(RELEASED[name].url)


def fetch(name: str) -> Path:
    """The file of a model, downloaded where need be and held against its sha256. Raises
    ModelError."""
    released = RELEASED[name]
    return fetched(released.url, name, released.sha256)


def load(name: str, file: Path | None = None) -> Model:
    """name: one of RELEASED. file: a copy of it. Raises ModelError."""
    return model_file.load(file or fetch(name), _card(name))


def _card(name: str) -> ModelCard:
    """YOLOX's preprocessing is that of its release: BGR, 0 to 255, padded at the right and bottom
    with 114 (yolox/data/data_augment.py, preproc)."""
    return ModelCard(
        name=name,
        task="detect",
        labels=_coco_names(),
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


def _coco_names() -> tuple[str, ...]:
    """COCO's 80 classes in its order; torchvision lists them among 91 places, some of them free."""
    from torchvision import models

    weights = models.detection.SSDLite320_MobileNet_V3_Large_Weights.DEFAULT
    return tuple(
        name for name in weights.meta["categories"] if name not in ("__background__", "N/A")
    )
