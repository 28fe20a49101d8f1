"""torchvision's networks, by torchvision's names. `catalogue` describes them without torch."""

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from node.perception.models.weights import Weights, put_into, read_weights

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


def network(name: str, task: str, file: Path) -> nn.Module:
    """Builds a network with the weights of a file, in eval mode. Raises ModelError.

    Args:
        name: torchvision's name.
        task: `classify`, `detect` or `segment`.
        file: a state dict of the same network.
    """
    weights = read_weights(file)
    built: nn.Module
    if task == "classify":
        built = models.get_model(name, weights=None, **_PRETRAINED_ARGUMENTS.get(name, {}))
        put_into(built, _with_current_names(weights, name), name)
    elif task == "detect":
        built = models.get_model(name, weights=None, weights_backbone=None)
        put_into(built, weights, name)
        built = Detector(built)
    else:
        built = models.get_model(name, weights=None, weights_backbone=None, aux_loss=None)
        put_into(built, _without_auxiliary(weights), name)
        built = Segmentation(built)
    return built.eval()


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


def _without_auxiliary(weights: Weights) -> Weights:
    state = {
        key: tensor
        for key, tensor in weights.state.items()
        if not key.startswith("aux_classifier.")
    }
    return replace(weights, state=state)


def _with_current_names(weights: Weights, name: str) -> Weights:
    state = weights.state
    if name.startswith("densenet"):
        state = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    if name in _PRETRAINED_ARGUMENTS:
        state = {key: tensor for key, tensor in state.items() if not _AUXILIARY.match(key)}
    return replace(weights, state=state)
