"""TorchRuntime: PyTorch in float32, on the CPU or on a GPU."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.errors import ModelError
from node.perception.folding import folded
from node.perception.model import Model
from node.perception.preprocess import Normalise
from node.perception.runtime import RuntimeInfo


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
        network = nn.Sequential(Normalise(model.preprocess), folded(model))
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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
