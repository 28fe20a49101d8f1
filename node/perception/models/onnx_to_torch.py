"""Turns the graph of an ONNX file into a torch network, which runs on a GPU."""

import importlib.util
import tempfile
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx

from node.errors import ModelError
from node.perception.models.engine_errors import engine_reason
from node.perception.models.graph_input import ONE_PICTURE
from node.perception.models.model import Model
from node.perception.models.onnx_file import read_onnx
from node.perception.onnxruntime_import import ort

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_TOLERANCE = 1e-3
"""Largest difference of an output from ONNX Runtime's, relative to the largest output: rounding in
float32."""
_BY_SHAPE = (
    "Slice", "Reshape", "Resize", "Expand", "Tile", "Pad", "Squeeze", "Unsqueeze", "Reduce", "Clip",
    "Split", "TopK", "Upsample",
)  # fmt: skip
"""Beginnings of the names of onnx2torch's modules whose inputs after the first are numbers that
Python reads: lengths, axes, limits."""

_UNKNOWN_TO_ONNX2TORCH = "SliceConcatToSpaceToDepthFusion"
"""An optimisation of ONNX Runtime's that makes an operator which onnx2torch does not convert."""

_NEWEST_OPSET = 17
"""Newest operator set of which onnx2torch knows the usual operators. In later ones most of them
differ in their types only; where one differs in what it computes, the comparison shows it."""
_AXES_AS_INPUT = "ReduceSum"
"""The one reduction whose axes are an input in `_NEWEST_OPSET`: those of the others are
attributes."""


@lru_cache(maxsize=2)
def as_torch(model: Model) -> Model:
    """Returns a model that runs the same graph as a torch network, for one picture at a time.

    The network is compared with ONNX Runtime on noise.

    Args:
        model: of an ONNX file.

    Raises:
        ModelError: the graph cannot be converted, or gives other outputs.
    """
    assert model.graph is not None
    reason = _refusal(model)
    if reason is not None:
        raise _failure(model, reason)
    plain = _simplified(model)
    network = _converted(model, plain)
    _compare(model, plain, network)
    return replace(model, build=lambda: network)


def _refusal(model: Model) -> str | None:
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnx2torch") is None:
        return "the extra perception-node[gpu] is not installed"
    if model.graph_input != ONE_PICTURE or model.graph_input.constants:
        return "it takes more than one float32 picture of NCHW"
    if model.preprocess.free_size:
        return "its pictures have no fixed size"
    return None


def _simplified(model: Model) -> onnx.ModelProto:
    """Returns the graph for one picture of the card's size, in which ONNX Runtime has computed all
    that does not depend on the picture."""
    assert model.graph is not None
    graph = read_onnx(model.graph)
    constants = {tensor.name for tensor in graph.graph.initializer}
    (picture,) = (value for value in graph.graph.input if value.name not in constants)
    shape = picture.type.tensor_type.shape
    for dimension, length in zip(shape.dim, (1, 3, *model.preprocess.crop_px), strict=True):
        dimension.dim_value = length
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plain.onnx"
        options.optimized_model_filepath = str(file)
        try:
            ort.InferenceSession(
                graph.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[_UNKNOWN_TO_ONNX2TORCH],
            )
            return onnx.load(file)
        except Exception as error:  # protobuf's and ONNX Runtime's own kinds
            raise _failure(model, engine_reason(error)) from error


def _converted(model: Model, graph: onnx.ModelProto) -> "nn.Module":
    import onnx2torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = onnx2torch.convert(_of_known_opset(graph)).eval()
    except Exception as error:  # whatever an operator that it does not know raises
        raise _failure(model, engine_reason(error)) from error
    _fix_constants(network)
    return cast("nn.Module", network)


def _of_known_opset(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy with the operators as in `_NEWEST_OPSET`."""
    known = onnx.ModelProto()
    known.CopyFrom(graph)
    for entry in known.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > _NEWEST_OPSET:
            entry.version = _NEWEST_OPSET
    constants = {tensor.name: tensor for tensor in known.graph.initializer}
    for node in known.graph.node:
        is_reduction = node.op_type.startswith("Reduce") and node.op_type != _AXES_AS_INPUT
        if is_reduction and len(node.input) == 2 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]])
            node.attribute.append(onnx.helper.make_attribute("axes", axes.tolist()))
            del node.input[1]
    return known


def _fix_constants(network: "fx.GraphModule") -> None:
    """Gives each module that computes with lengths and axes these numbers on the CPU: a read from
    the GPU would wait for it at each frame, and cannot be recorded."""
    from torch import nn

    class _WithConstants(nn.Module):
        def __init__(self, module: nn.Module, constants: tuple["torch.Tensor | None", ...]) -> None:
            super().__init__()
            self.module = module
            self.constants = constants  # a tuple's tensors stay where they are

        def forward(self, x: "torch.Tensor") -> "torch.Tensor":
            return cast("torch.Tensor", self.module(x, *self.constants))

    for node in list(network.graph.nodes):
        if node.op != "call_module" or len(node.args) < 2:
            continue
        module = network.get_submodule(node.target)
        kind = type(module).__name__.removeprefix("Onnx")
        if not kind.startswith(_BY_SHAPE):
            continue
        if not all(value is None or _is_constant(value) for value in node.args[1:]):
            continue
        constants = tuple(value and _tensor(network, value.target) for value in node.args[1:])
        if kind.startswith("Slice"):
            node.op, node.target = "call_function", _sliced
            node.args = (node.args[0], _slices(constants))
        else:
            network.set_submodule(node.target, _WithConstants(module, constants))
            node.args = node.args[:1]
        node.kwargs = {}
    network.recompile()


def _is_constant(value: object) -> bool:
    return getattr(value, "op", None) == "get_attr"


def _tensor(network: "fx.GraphModule", path: str) -> "torch.Tensor":
    owner, _, name = path.rpartition(".")
    tensor: torch.Tensor = getattr(network.get_submodule(owner), name)
    return tensor.detach().cpu()


def _slices(
    constants: tuple["torch.Tensor | None", ...],
) -> tuple[tuple[int, int, int, int], ...]:
    """Returns (axis, start, end, step) of each axis that ONNX's operator Slice slices."""
    starts, ends, axes, steps = (
        None if values is None else [int(value) for value in values.tolist()]
        for values in (*constants, None, None)[:4]
    )
    assert starts is not None
    assert ends is not None
    return tuple(
        zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True)
    )


def _sliced(x: "torch.Tensor", slices: tuple[tuple[int, int, int, int], ...]) -> "torch.Tensor":
    """ONNX's operator Slice. onnx2torch's own indexes with a list, which torch from 2.9 on takes as
    the indices of elements."""
    for axis, start, end, step in slices:
        length = x.shape[axis]
        begin, stop, stride = slice(start, end, step).indices(length)
        if stride < 0:
            count = len(range(begin, stop, stride))
            x = x.flip(axis).narrow(axis, length - 1 - begin, max(0, (count - 1) * -stride + 1))
            stride = -stride
        else:
            x = x.narrow(axis, min(begin, length), max(0, stop - begin))
        if stride > 1:
            index: list[slice] = [slice(None)] * x.dim()
            index[axis] = slice(None, None, stride)
            x = x[tuple(index)]
    return x


def _compare(model: Model, graph: onnx.ModelProto, network: "nn.Module") -> None:
    import torch

    noise = np.random.default_rng(0).normal(size=(1, 3, *model.preprocess.crop_px))
    picture = noise.astype(np.float32)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: picture})
    try:
        with torch.inference_mode():
            results = network(torch.from_numpy(picture))
    except Exception as error:
        raise _failure(model, engine_reason(error)) from error
    outputs = (results,) if isinstance(results, torch.Tensor) else tuple(results)
    for output, reference in zip(outputs, expected, strict=True):
        if output.shape != reference.shape:
            raise _failure(model, f"torch gives the shape {list(output.shape)}")
        limit = _TOLERANCE * float(np.abs(reference).max(initial=0))
        if not np.abs(output.numpy() - reference).max(initial=0) <= limit:
            raise _failure(model, "torch gives other outputs than ONNX Runtime")


def _failure(model: Model, reason: str) -> ModelError:
    return ModelError(f"model {model.name!r}: {model.graph} does not run on a GPU here: {reason}")
