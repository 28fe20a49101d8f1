"""Folding: a network's BatchNorms put into the convolutions before them, which changes no answer
and saves a pass over the picture for each."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from node.perception.models.model import Model
from node.perception.preprocess.geometry import PreprocessSpec

_FOLDING_TOLERANCE = 1e-4
"""Largest change of a logit by folding, relative to the largest logit: float32 rounding."""


def folded(model: Model) -> nn.Module:
    """A copy of the network with each BatchNorm that directly follows a convolution folded into
    it, which saves a pass over the picture; a plain copy where folding changes the answer."""
    if model.preprocess.fit == "none":
        return copy.deepcopy(model.network)  # its answer depends on the frame's size
    network = copy.deepcopy(model.network).to(memory_format=torch.channels_last)
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    probe = _probe(model.preprocess)
    with torch.inference_mode():
        before = network(probe)
    _fold(network, probe)
    with torch.inference_mode():
        change = (network(probe) - before).abs().max()
    if change <= _FOLDING_TOLERANCE * before.abs().max():
        return network
    return copy.deepcopy(model.network).to(memory_format=torch.channels_last)


def _probe(spec: PreprocessSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((1, 3, *spec.crop_px), generator=generator)
    return noise.contiguous(memory_format=torch.channels_last)


def _fold(network: nn.Module, probe: torch.Tensor) -> None:
    places = {module: place for place, module in network.named_modules()}
    for convolution, norm in _pairs(network, probe):
        _replace(network, places[convolution], fuse_conv_bn_eval(convolution, norm))
        # timm's BatchNorm has the activation that follows inside.
        _replace(network, places[norm], nn.Sequential(*norm.children()))


def _pairs(network: nn.Module, probe: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions whose very output a BatchNorm takes, seen by running the network once."""
    made: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}  # the tensor is kept, so is its id
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: object, output: torch.Tensor) -> None:
        made[id(output)] = (cast(nn.Conv2d, module), output)

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], cast(nn.BatchNorm2d, module)))

    hooks = [
        module.register_forward_hook(after)
        if isinstance(module, nn.Conv2d)
        else module.register_forward_pre_hook(before)
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    with torch.inference_mode():
        network(probe)
    for hook in hooks:
        hook.remove()
    return pairs


def _replace(network: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, leaf = place.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)
