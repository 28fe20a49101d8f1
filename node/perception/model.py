"""Model: a network with all that is needed to feed it and to read its answer."""

from dataclasses import dataclass

from torch import nn

from node.perception.preprocess import PreprocessSpec


@dataclass(frozen=True, slots=True)
class Model:
    """One model, ready to run.

    name: as in the catalogue. task: `classify`.
    network: in eval mode; takes normalised RGB float32 [n, 3, h, w], gives logits [n, classes].
    label_names: one for each class, in the order of the logits.
    digest: sha256 of the weights file, hexadecimal.
    """

    name: str
    network: nn.Module
    preprocess: PreprocessSpec
    label_names: tuple[str, ...]
    digest: str
    task: str = "classify"
