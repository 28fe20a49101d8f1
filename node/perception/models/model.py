"""Model: a network, the preprocessing of its input and the decoding of its outputs."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from node.errors import ModelError
from node.perception.models.download import sha256_of
from node.perception.models.graph_input import ONE_PICTURE, GraphInput
from node.perception.preprocess.geometry import PreprocessSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from node.config.schema import DetectConfig
    from node.perception.runtimes.base import Runtime
    from node.perception.tasks.base import Task


def digest_of(files: Sequence[Path]) -> str:
    """Returns the digest of a model made of these files: of one file its sha256, hexadecimal."""
    digests = [sha256_of(file) for file in files]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Classical:
    """What a model without a network has in place of one.

    Attributes:
        runtime: makes what runs it, on the CPU; `Runtime.infer` gets [1, height, width, 3] as
            `Model.preprocess` says: the frame itself for fit `none`.
        task: makes what reads the outputs of that. Raises ModelError for settings that do not fit.
    """

    runtime: "Callable[[], Runtime]"
    task: "Callable[[DetectConfig], Task]"


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        name: as in the registry or the model card.
        build: makes the network; None for a bare graph, which has no torch network.
        preprocess: input geometry and normalisation.
        label_names: of the classes, in the order of the logits.
        digest: sha256 of all that the model is made of, hexadecimal: of the weights file of a
            model of the registry, else of `files`.
        task: `classify`, `detect` or `segment`.
        decoder: how the outputs are decoded.
        first_class: of a detector, the number that it gives the first label; None: the decoder's.
        output_order: indices of the outputs that the decoder reads, in its order.
        graph: the user's ONNX (.onnx) or OpenVINO (.xml) file.
        graph_input: how that file takes the picture.
        files: of a user's model: the model file, the files with its tensors, its card, its labels.
        origin: the name or file that `load_model` was given; None for a model made otherwise.
        weights: the weights file that `load_model` was given.
        make_graph: makes the network as an ONNX graph, float32 [n, 3, h, w] to the decoder's input,
            without torch; None where only torch can.
        classical: of a model without a network, None for any other. Such a model has no weights,
            no `build` and no `graph`; what needs a network calls `check_network`.
    """

    name: str
    build: "Callable[[], nn.Module] | None"
    preprocess: PreprocessSpec
    label_names: tuple[str, ...]
    digest: str
    task: str = "classify"
    decoder: str = "softmax"
    first_class: int | None = None
    output_order: tuple[int, ...] = (0,)
    graph: Path | None = None
    graph_input: GraphInput = ONE_PICTURE
    files: tuple[Path, ...] = ()
    origin: str | None = None
    weights: Path | None = None
    make_graph: "Callable[[], onnx.ModelProto] | None" = None
    classical: Classical | None = None

    @property
    def is_onnx(self) -> bool:
        """Whether the model is the graph of an ONNX file."""
        return self.graph is not None and self.graph.suffix.lower() != ".xml"

    def check_network(self, purpose: str, fix: str | None = None) -> None:
        """Raises ModelError for a model without a network. purpose: what needs one."""
        if self.classical is not None:
            raise ModelError(f"{purpose}: model {self.name!r} has no network", fix=fix)

    @functools.cached_property
    def network(self) -> "nn.Module":
        """The network in eval mode: normalised float32 [n, 3, h, w], in the channel order of
        `preprocess`, to logits [n, classes] or the decoder's input. Built on first use, since an
        exported graph runs without it. Raises ModelError for a bare graph."""
        self.check_network("torch")
        if self.build is None:
            raise ModelError(f"model {self.name!r}: has no torch network, only {self.graph}")
        return self.build()
