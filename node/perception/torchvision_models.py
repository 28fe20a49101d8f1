"""torchvision's classifiers, by torchvision's names, with torchvision's newest weights for each."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn
from torchvision import models

from node.perception.model import Model
from node.perception.preprocess import Interpolation, PreprocessSpec
from node.perception.weights import Weights, cached_file, fetch_weights, put_into, read_weights

# Names in the weights of densenet that modules must not have any more; torchvision's
# densenet._load_state_dict mends them the same way.
_OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
)
# Heads that only training uses.
_AUXILIARY = re.compile(r"^(AuxLogits|aux1|aux2)\.")
# What torchvision sets itself where it is asked for pretrained weights: they were trained on
# another scale of the pixels, which the network turns to.
_PRETRAINED_ARGUMENTS = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}


@dataclass(frozen=True, slots=True)
class TorchvisionEntry:
    """What torchvision says of a model. size_mb: of the weights file; parameters: how many."""

    name: str
    size_mb: float
    parameters: int
    weights_here: bool


def names() -> list[str]:
    """The names of all classifiers, sorted."""
    return sorted(models.list_models(module=models))


def entry(name: str) -> TorchvisionEntry:
    """name: one of `names`."""
    weights = models.get_model_weights(name).DEFAULT
    file = cached_file(weights.url)
    return TorchvisionEntry(
        name=name,
        size_mb=float(weights.meta["_file_size"]),
        parameters=int(weights.meta["num_params"]),
        weights_here=file.is_file() and file.stat().st_size > 0,
    )


def load(name: str, file: Path | None = None) -> Model:
    """A classifier with torchvision's weights, downloaded where need be, or those of a file.

    name: one of `names`. file: a state dict of the same network. Raises ModelError.
    """
    published = models.get_model_weights(name).DEFAULT
    weights = read_weights(file or fetch_weights(published.url, name))
    network: nn.Module = models.get_model(name, weights=None, **_PRETRAINED_ARGUMENTS.get(name, {}))
    put_into(network, _in_todays_names(weights, name), name)
    return Model(
        name=name,
        network=network.eval(),
        preprocess=_spec_of(published),
        label_names=tuple(published.meta["categories"]),
        digest=weights.digest,
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


def _in_todays_names(weights: Weights, name: str) -> Weights:
    state = weights.state
    if name.startswith("densenet"):
        state = {_OLD_DENSENET.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    if name in _PRETRAINED_ARGUMENTS:
        state = {key: tensor for key, tensor in state.items() if not _AUXILIARY.match(key)}
    return replace(weights, state=state)
