"""GraphSignature: what the graph of a user's file takes and gives, read by any engine that can."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from node.errors import ModelError
from node.perception.models.engine_errors import ENGINE_ERRORS, engine_reason
from perception_client.text import printable

if TYPE_CHECKING:
    from node.perception.onnxruntime_import import ort
    from node.perception.openvino_import import ov

_KINDS = {"f": "float", "bf": "bfloat", "i": "int", "u": "uint"}
"""OpenVINO's names of types, as numpy names them."""

_FORMS_ONLY = ("Result", "Convert", "Reshape", "Squeeze", "Unsqueeze")
"""OpenVINO's operators that leave the numbers as they are."""


@dataclass(frozen=True, slots=True)
class GraphValue:
    """An input or output of a graph.

    Attributes:
        name: empty if unknown.
        shape: -1 for a free length; None if the number of dimensions is unknown.
        dtype: as numpy names it, such as `float32`.
        is_softmax: an output of a softmax; False also where the engine does not tell.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str
    is_softmax: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are integers."""
        return "int" in self.dtype

    @property
    def described(self) -> str:
        """Its shape in words, `[n, 3, 224, 224]`."""
        if self.shape is None:
            return "any shape"
        return f"[{', '.join('n' if length < 0 else str(length) for length in self.shape)}]"


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """The inputs without those that the file has constants for, and the outputs, in the order of
    the file."""

    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]


def signature_of(file: Path, input_px: tuple[int, int] | None = None) -> GraphSignature:
    """Reads the signature of an ONNX (.onnx) or OpenVINO (.xml) file.

    OpenVINO derives more shapes, so it reads first; an ONNX file that it has no operators for is
    read by ONNX Runtime.

    Args:
        file: the file.
        input_px: (height, width) to set where the picture's own is free; None: leaves it.

    Raises:
        ModelError: neither can read it.
    """
    try:
        return _read_by_openvino(file, input_px)
    except ENGINE_ERRORS as error:
        reason = engine_reason(error)
    if file.suffix.lower() == ".onnx":
        try:
            return _read_by_onnxruntime(file)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            reason = f"OpenVINO: {reason}; ONNX Runtime: {engine_reason(error)}"
    raise ModelError(f"{file} cannot be read ({reason})", fix="export it again") from None


def _read_by_openvino(file: Path, input_px: tuple[int, int] | None) -> GraphSignature:
    from node.perception.openvino_import import core

    graph = core().read_model(file)
    if input_px is not None and len(graph.inputs) == 1:
        own = graph.input().partial_shape
        colours_last = own[3].is_static and own[3].get_length() == 3
        usual = (1, *input_px, 3) if colours_last else (1, 3, *input_px)
        graph.reshape([length if length.is_static else new
                       for length, new in zip(own, usual, strict=True)])  # fmt: skip
    return GraphSignature(
        *(tuple(map(_of_openvino, values)) for values in (graph.inputs, graph.outputs))
    )


def _of_openvino(value: "ov.Output") -> GraphValue:
    shape = value.partial_shape
    lengths = None
    if not shape.rank.is_dynamic:
        lengths = tuple(length.get_length() if length.is_static else -1 for length in shape)
    element = value.element_type.to_string()
    kind = element.rstrip("0123456789")
    dtype = _KINDS.get(kind, kind) + element.removeprefix(kind)
    name = printable(min(value.get_names(), default=""))
    return GraphValue(name, lengths, dtype, _is_softmax(value))


def _is_softmax(value: "ov.Output") -> bool:
    node = value.get_node()
    while node.get_type_name() in _FORMS_ONLY:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Softmax")


def _read_by_onnxruntime(file: Path) -> GraphSignature:
    from node.perception.onnxruntime_import import ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    # With a fallback it would print on stdout, and try the same again.
    session = ort.InferenceSession(str(file), options, providers, enable_fallback=False)
    return GraphSignature(
        *(
            tuple(map(_of_onnxruntime, values))
            for values in (session.get_inputs(), session.get_outputs())
        )
    )


def _of_onnxruntime(value: "ort.NodeArg") -> GraphValue:
    # An empty shape is that of a value of unknown rank; a single number is no picture and no label.
    lengths = tuple(length if isinstance(length, int) else -1 for length in value.shape)
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return GraphValue(printable(value.name), lengths or None, {"float": "float32"}.get(kind, kind))
