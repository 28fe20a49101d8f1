"""Model: a network, the preprocessing of its input and the decoding of its outputs."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from node.errors import ModelError
from node.perception.preprocess.geometry import PreprocessSpec


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        name: as in the registry or the model card.
        build: makes the network; None for a bare graph, which has no torch network.
        preprocess: input geometry and normalisation.
        label_names: of the classes, in the order of the logits.
        digest: sha256 of the weights file, hexadecimal.
        task: `classify`, `detect` or `segment`.
        decoder: how the outputs are decoded.
        output_order: indices of the outputs that the decoder reads, in its order.
        graph: the user's ONNX (.onnx) or OpenVINO (.xml) file.
    """

    name: str
    build: Callable[[], nn.Module] | None
    preprocess: PreprocessSpec
    label_names: tuple[str, ...]
    digest: str
    task: str = "classify"
    decoder: str = "softmax"
    output_order: tuple[int, ...] = (0,)
    graph: Path | None = None

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network in eval mode: normalised float32 [n, 3, h, w], in the channel order of
        `preprocess`, to logits [n, classes] or the decoder's input. Built on first use, since an
        exported graph runs without it. Raises ModelError for a bare graph."""
        if self.build is None:
            raise ModelError(f"model {self.name!r}: has no torch network, only {self.graph}")
        return self.build()
