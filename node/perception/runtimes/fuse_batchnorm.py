"""Folds each BatchNorm of a network into the convolution before it, which keeps the result and
saves a pass over the picture."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from node.perception.models.model import Model
from node.perception.preprocess.geometry import PreprocessSpec

_FOLDING_TOLERANCE = 1e-4
"""Largest change of a logit, relative to the largest logit: rounding in float32."""


def folded(model: Model) -> nn.Module:
    """Returns a copy of the network in which each BatchNorm that directly follows a convolution is
    folded into it; a plain copy if folding changes the result."""
    if model.preprocess.keeps_frame:
        # The result depends on the frame's size, so one probe proves nothing.
        return copy.deepcopy(model.network)
    network = copy.deepcopy(model.network).to(memory_format=torch.channels_last)
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return network
    probe = _probe(model.preprocess)
    with torch.inference_mode():
        expected = network(probe)
    _fold(network, probe)
    with torch.inference_mode():
        change = (network(probe) - expected).abs().max()
    if change <= _FOLDING_TOLERANCE * expected.abs().max():
        return network
    return copy.deepcopy(model.network).to(memory_format=torch.channels_last)


def _probe(spec: PreprocessSpec) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((1, 3, *spec.crop_px), generator=generator)
    return noise.contiguous(memory_format=torch.channels_last)


def _fold(network: nn.Module, probe: torch.Tensor) -> None:
    paths = {module: path for path, module in network.named_modules()}
    for convolution, norm in _pairs(network, probe):
        _replace(network, paths[convolution], fuse_conv_bn_eval(convolution, norm))
        # timm's BatchNorm contains the activation that follows it.
        _replace(network, paths[norm], nn.Sequential(*norm.children()))


def _pairs(network: nn.Module, probe: torch.Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Returns the convolutions whose output is the input of a BatchNorm, found by running the
    network once."""
    # Keeping the tensor keeps its id unique.
    outputs_by_id: dict[int, tuple[nn.Conv2d, torch.Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, _: object, output: torch.Tensor) -> None:
        outputs_by_id[id(output)] = (cast(nn.Conv2d, module), output)

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if id(inputs[0]) in outputs_by_id:
            pairs.append((outputs_by_id[id(inputs[0])][0], cast(nn.BatchNorm2d, module)))

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


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)
