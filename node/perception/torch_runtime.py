"""TorchRuntime: PyTorch in float32, on the CPU or on a GPU."""

import copy
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from node.errors import ModelError
from node.perception.model import Model
from node.perception.preprocess import Normalise, PreprocessSpec
from node.perception.runtime import RuntimeInfo

_FOLDING_TOLERANCE = 1e-4
"""Largest change of a logit by folding, relative to the largest logit: float32 rounding."""


class TorchRuntime:
    """Runs a model's network as PyTorch does, channels last, with its BatchNorms folded.

    Keeps a copy of the network; the model stays as it was. How many threads PyTorch uses is for
    the caller to set (torch.set_num_threads).
    """

    info: RuntimeInfo

    def __init__(self, model: Model, device: str = "cpu") -> None:
        """device: `cpu`, `cuda` or `cuda:N`. Raises ModelError where that cannot be used."""
        self._name = model.name
        self._device = _checked_device(model.name, device)
        self.info = RuntimeInfo(runtime="torch", precision="fp32", device=str(self._device))
        network = nn.Sequential(Normalise(model.preprocess), _folded(model))
        try:
            self._network = network.eval().to(self._device)
        except RuntimeError as error:
            raise ModelError(
                f"model {model.name!r}: cannot be put on {device} ({_first_line(error)}); "
                'free the device or set model.device = "cpu"'
            ) from error

    def infer(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        """Logits of a batch.

        pixels: [n, height, width, 3] uint8 BGR, what `Preprocessor` made; not kept.
        Returns [n, classes] float32. Raises ModelError where PyTorch fails.
        """
        try:
            with torch.inference_mode():
                logits = self._network(pixels.to(self._device)).float().cpu()
        except RuntimeError as error:
            raise ModelError(
                f"model {self._name!r}: failed on {self.info.device} ({_first_line(error)}); "
                'try model.device = "cpu" or another model'
            ) from error
        return cast(NDArray[np.float32], logits.numpy())


def _checked_device(model_name: str, wanted: str) -> torch.device:
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    numbered = "cuda:0" if wanted == "cuda" else wanted
    if numbered not in here:
        raise ModelError(
            f"model {model_name!r}: device {wanted!r} is not on this machine; "
            f"devices here: {', '.join(here)}"
        )
    return torch.device(numbered)


def _folded(model: Model) -> nn.Module:
    """A copy of the network with each BatchNorm that directly follows a convolution folded into
    it, which saves a pass over the picture; a plain copy where folding changes the answer."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
