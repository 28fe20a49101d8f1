"""Model: a network with all that is needed to feed it and to read its answer."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from node.perception.preprocess import PreprocessSpec


@dataclass(frozen=True, slots=True)
class Model:
    """One model, ready to run.

    name: as in the catalogue. task: `classify`.
    network: in eval mode; takes normalised float32 [n, 3, h, w] in the channel order of
    `preprocess`, gives logits [n, classes]. None where there is only a graph.
    label_names: one for each class, in the order of the logits.
    digest: sha256 of the weights file, hexadecimal.
    graph: the user's own ONNX (.onnx) or OpenVINO (.xml) file, with the network's input and output.
    """

    name: str
    network: nn.Module | None
    preprocess: PreprocessSpec
    label_names: tuple[str, ...]
    digest: str
    task: str = "classify"
    graph: Path | None = None
