"""torchvision's classifiers, detectors and segmentation networks, by torchvision's names, with its
newest weights."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torchvision import models

from node.perception.models.download import fetched, is_here
from node.perception.models.model import Model
from node.perception.models.weights import Weights, put_into, read_weights
from node.perception.preprocess.geometry import Interpolation, PreprocessSpec

# Names in the weights of densenet that modules may no longer have; torchvision's
# densenet._load_state_dict renames them in the same way.
_OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)
# Heads that only training uses.
_AUXILIARY = re.compile(r"^(AuxLogits|aux1|aux2)\.")
# Arguments that torchvision sets for pretrained weights: these were trained on another scale of the
# pixels, to which the network converts.
_PRETRAINED_ARGUMENTS = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}


@dataclass(frozen=True, slots=True)
class TorchvisionEntry:
    """torchvision's description of a model.

    Attributes:
        name: torchvision's name.
        size_mb: size of the weights file in MB.
        parameters: number of weights.
        task: `classify`, `detect` or `segment`.
        weights_here: the weights are on this computer.
    """

    name: str
    size_mb: float
    parameters: int
    task: str
    weights_here: bool


def names() -> list[str]:
    """Returns the names of all classifiers, detectors and segmentation networks, each kind
    sorted."""
    classifiers = sorted(models.list_models(module=models))
    return [*classifiers, *detector_names(), *segmentation_names()]


def detector_names() -> list[str]:
    """Returns the names of all detectors, sorted. Of those with masks or keypoints, only the boxes
    are used."""
    return sorted(models.list_models(module=models.detection))


def segmentation_names() -> list[str]:
    """Returns the names of all segmentation networks, sorted."""
    return sorted(models.list_models(module=models.segmentation))


def task_of(name: str) -> str:
    """Returns the task of a model. name: one of `names`."""
    if name in segmentation_names():
        return "segment"
    return "detect" if name in detector_names() else "classify"


def entry(name: str) -> TorchvisionEntry:
    """Returns the description of a model. name: one of `names`."""
    weights = models.get_model_weights(name).DEFAULT
    return TorchvisionEntry(
        name=name,
        size_mb=float(weights.meta["_file_size"]),
        parameters=int(weights.meta["num_params"]),
        task=task_of(name),
        weights_here=is_here(weights.url),
    )


def load(name: str, file: Path | None = None) -> Model:
    """Loads a model. Raises ModelError.

    Args:
        name: one of `names`.
        file: weights, a state dict of the same network; None: torchvision's weights, downloaded on
            first use.
    """
    published = models.get_model_weights(name).DEFAULT
    weights = read_weights(file or fetch(name))
    task = task_of(name)
    if task == "detect":
        return _load_detector(name, weights, tuple(published.meta["categories"]))
    if task == "segment":
        return _load_segmentation(name, weights, published)
    network: nn.Module = models.get_model(name, weights=None, **_PRETRAINED_ARGUMENTS.get(name, {}))
    put_into(network, _with_current_names(weights, name), name)
    return Model(
        name=name,
        build=network.eval,
        preprocess=_spec_of(published),
        label_names=tuple(published.meta["categories"]),
        digest=weights.digest,
    )


def fetch(name: str) -> Path:
    """Returns the weights file of a model, downloaded on first use. Raises ModelError."""
    return fetched(models.get_model_weights(name).DEFAULT.url, name)


def _load_detector(name: str, weights: Weights, names: tuple[str, ...]) -> Model:
    network: nn.Module = models.get_model(name, weights=None, weights_backbone=None)
    put_into(network, weights, name)
    return Model(
        name=name,
        build=Detector(network).eval,
        preprocess=_WHOLE_FRAME,
        label_names=names,
        digest=weights.digest,
        task="detect",
        decoder="boxes",
        output_order=(0, 1, 2),
    )


def _load_segmentation(name: str, weights: Weights, published: models.WeightsEnum) -> Model:
    network: nn.Module = models.get_model(name, weights=None, weights_backbone=None, aux_loss=None)
    state = {
        key: tensor
        for key, tensor in weights.state.items()
        if not key.startswith("aux_classifier.")
    }
    put_into(network, replace(weights, state=state), name)
    preset = published.transforms()
    short_px = preset.resize_size[0]
    return Model(
        name=name,
        build=Segmentation(network).eval,
        preprocess=PreprocessSpec(
            resize_short_px=short_px,
            crop_px=(short_px, short_px * 4 // 3),
            interpolation=cast(Interpolation, preset.interpolation.value),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            fit="short",
        ),
        label_names=tuple(published.meta["categories"]),
        digest=weights.digest,
        task="segment",
        decoder="pixels",
    )


class Segmentation(nn.Module):
    """Wraps torchvision's segmentation network, which returns a dict, as a network with one
    output."""

    def __init__(self, segmentation: nn.Module) -> None:
        super().__init__()
        self.segmentation = segmentation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] to logits [n, classes, h, w]."""
        logits: torch.Tensor = self.segmentation(x)["out"]
        return logits


class Detector(nn.Module):
    """Wraps torchvision's detector, which takes a list of frames of any size, as a network with one
    input."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[1, 3, h, w] float32 RGB, 0 to 1, to boxes [k, 4] in px, scores [k] and class ids [k]."""
        (output,) = self.detector([frames[0]])
        return output["boxes"], output["scores"], output["labels"]


_WHOLE_FRAME = PreprocessSpec(
    resize_short_px=480,
    crop_px=(480, 640),
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="none",
)


def _spec_of(published: models.WeightsEnum) -> PreprocessSpec:
    preset = published.transforms()
    crop_h, crop_w = preset.crop_size * 2
    return PreprocessSpec(
        resize_short_px=preset.resize_size[0],
        crop_px=(crop_h, crop_w),
        interpolation=cast(Interpolation, preset.interpolation.value),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _with_current_names(weights: Weights, name: str) -> Weights:
    state = weights.state
    if name.startswith("densenet"):
        state = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    if name in _PRETRAINED_ARGUMENTS:
        state = {key: tensor for key, tensor in state.items() if not _AUXILIARY.match(key)}
    return replace(weights, state=state)
