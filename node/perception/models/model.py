"""Model: a network with all that is needed to feed it and to read its answer."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from node.errors import ModelError
from node.perception.preprocess.geometry import PreprocessSpec


@dataclass(frozen=True)
class Model:
    """One model, ready to run.

    name: as in the catalogue. task: `classify` or `detect`. decoder: how its outputs are read.
    build: makes the network; None for a bare graph, which has none.
    label_names: one for each class, in the order of the logits.
    output_order: places of the outputs that the decoder reads, in its order.
    digest: sha256 of the weights file, hexadecimal.
    graph: the user's own ONNX (.onnx) or OpenVINO (.xml) file, with the network's input and output.
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
        """In eval mode; takes normalised float32 [n, 3, h, w] in the channel order of `preprocess`,
        gives logits [n, classes], or what the decoder reads. Made when it is first wanted: a copy
        that was exported before runs without it. Raises ModelError for a bare graph."""
        if self.build is None:
            raise ModelError(f"model {self.name!r}: has no torch network, only {self.graph}")
        return self.build()
