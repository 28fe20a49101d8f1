"""Prepends the normalisation to the graph of an ONNX or OpenVINO file, so that it takes the same
pixels as every exported model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from openvino.preprocess import ColorFormat, PrePostProcessor

from node.errors import ModelError
from node.perception.models.engine_errors import ENGINE_ERRORS, engine_reason
from node.perception.models.graph_input import ONE_PICTURE, GraphInput
from node.perception.models.onnx_file import read_onnx
from node.perception.openvino_import import core, ov, save_ir
from node.perception.preprocess.geometry import PreprocessSpec

INPUT, OUTPUT = "pixels", "logits"
"""Names in the exported graph of a torch network. The copy of a user's graph has names of its own,
so runtimes address inputs and outputs by their order."""
_MOST_IN_ONE_FILE = 1 << 30
"""Bytes of tensors that an ONNX file may hold: protobuf's limit is 2 GiB for the whole file."""
_OPSET = 17
"""Operator set for a graph that imports none of ONNX's own."""
_BROADCASTS_BY_SHAPE = 7
"""First operator set whose arithmetic broadcasts by the shapes alone."""


def write_onnx(
    file: Path, spec: PreprocessSpec, target: Path, graph_input: GraphInput = ONE_PICTURE
) -> None:
    """Writes a copy of an ONNX file with the input `pixels` [n, h, w, 3] uint8 BGR and its outputs
    in float32.

    The user's graph stays as it is, with its names, branches, functions and constants; only nodes
    with unused names are added before and after it.

    Args:
        file: with an input for the picture.
        spec: the normalisation.
        target: the file to write; tensors of more than a GiB go into a second file beside it.
        graph_input: how the file takes the picture.

    Raises:
        ModelError: the file cannot be read.
    """
    write_graph(read_onnx(file), spec, target, graph_input)


def write_graph(
    model: onnx.ModelProto,
    spec: PreprocessSpec,
    target: Path,
    graph_input: GraphInput = ONE_PICTURE,
) -> None:
    """As `write_onnx`, for a model in memory, which is changed."""
    graph = model.graph
    naming = _Naming(graph)
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    own_inputs = [value for value in graph.input if value.name not in constants]
    picture = own_inputs[graph_input.index]
    before, weights = _normalising(spec, graph_input, picture.name, naming, _own_opset(model))
    weights += [
        numpy_helper.from_array(value, own_inputs[index].name)
        for index, value in graph_input.constants
    ]
    casts = [
        _cast(value.name, naming.unused("output"), TensorProto.FLOAT) for value in graph.output
    ]
    nodes = [*before, *graph.node, *casts]
    pixels = helper.make_tensor_value_info(
        before[0].input[0], TensorProto.UINT8, [_batch_of(picture), *spec.crop_px, 3]
    )
    outputs = [
        helper.make_tensor_value_info(cast.output[0], TensorProto.FLOAT, None) for cast in casts
    ]
    for repeated, items in ((graph.node, nodes), (graph.input, [pixels]), (graph.output, outputs)):
        del repeated[:]
        repeated.extend(items)
    graph.initializer.extend(weights)
    # Earlier versions list constants as inputs, which the copy does not.
    model.ir_version = max(model.ir_version, 4)
    onnx.save_model(
        model,
        str(target),
        save_as_external_data=_tensor_bytes(graph) > _MOST_IN_ONE_FILE,
        location=f"{target.name}.data",
    )


class _Naming:
    """Gives names that a graph does not use, in any of its branches: a branch sees the names around
    it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._used = set(_names(graph))

    def unused(self, name: str) -> str:
        """Returns the name, with a number behind it where it is used; used from now on."""
        candidate, number = name, 0
        while candidate in self._used:
            number += 1
            candidate = f"{name}{number}"
        self._used.add(candidate)
        return candidate


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield value.name
    for sparse in graph.sparse_initializer:
        yield sparse.values.name
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                yield from _names(branch)


def _own_opset(model: onnx.ModelProto) -> int:
    """Returns the version of ONNX's own operators; adds one to a model that imports none."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            return int(entry.version)
    model.opset_import.add(domain="", version=_OPSET)
    return _OPSET


def _batch_of(value: onnx.ValueInfoProto) -> int | str | None:
    """Returns the length or name of an input's first dimension; None if it has neither. Exporters
    write 0 and -1 for a free length."""
    dims = value.type.tensor_type.shape.dim
    if not dims:
        return None
    return max(dims[0].dim_value, 0) or dims[0].dim_param or None


def _tensor_bytes(graph: onnx.GraphProto) -> int:
    return sum(tensor.ByteSize() for tensor in graph.initializer)


def _normalising(
    spec: PreprocessSpec, graph_input: GraphInput, target: str, naming: _Naming, opset: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Returns the nodes from pixels to the user's input, and their constants."""
    source = naming.unused(INPUT)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    axis = 3
    if graph_input.layout == "NCHW":
        axis = 1
        planes = naming.unused("planes")
        nodes.append(helper.make_node("Transpose", [source], [planes], perm=[0, 3, 1, 2]))
        source = planes
    if spec.color == "rgb":
        ordered, order = map(naming.unused, ("ordered", "order"))
        nodes.append(helper.make_node("Gather", [source, order], [ordered], axis=axis))
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), order))
        source = ordered
    if graph_input.dtype == "uint8":
        return [*nodes, helper.make_node("Identity", [source], [target])], constants
    levels, scaled = map(naming.unused, ("levels", "scaled"))
    nodes.append(_cast(source, levels, TensorProto.FLOAT))
    half = graph_input.dtype == "float16"
    whole = naming.unused("whole") if half else target
    by_shape = opset >= _BROADCASTS_BY_SHAPE
    broadcast: dict[str, Any] = {} if by_shape else {"broadcast": 1, "axis": axis}
    for kind, values, source, result in (
        ("Mul", spec.factors[0], levels, scaled),
        ("Add", spec.factors[1], scaled, whole),
    ):
        constant = naming.unused("factor" if kind == "Mul" else "offset")
        array = values.reshape((3, 1, 1) if by_shape and axis == 1 else (3,))
        constants.append(numpy_helper.from_array(array, constant))
        nodes.append(helper.make_node(kind, [source, constant], [result], **broadcast))
    return [*nodes, *([_cast(whole, target, TensorProto.FLOAT16)] if half else ())], constants


def _cast(source: str, result: str, dtype: int) -> onnx.NodeProto:
    # OpenVINO takes the number of the type in every operator set; ONNX Runtime has no earlier Cast.
    return helper.make_node("Cast", [source], [result], to=dtype)


def write_ir(
    file: Path, spec: PreprocessSpec, target: Path, graph_input: GraphInput = ONE_PICTURE
) -> None:
    """As `write_onnx`, for OpenVINO IR files."""
    try:
        graph = core().read_model(file)
        _set_constants(graph, graph_input)
        steps = PrePostProcessor(graph)
        own_input = steps.input()
        own_input.tensor().set_element_type(ov.Type.u8).set_layout(
            ov.Layout("NHWC")
        ).set_color_format(ColorFormat.BGR)
        own_input.model().set_layout(ov.Layout(graph_input.layout))
        own_input.preprocess().convert_element_type(ov.Type.f32)
        if spec.color == "rgb":
            own_input.preprocess().convert_color(ColorFormat.RGB)
        # (pixel - mean / scale) / (std / scale) is (pixel * scale - mean) / std
        own_input.preprocess().mean([value / spec.scale for value in spec.mean])
        own_input.preprocess().scale([value / spec.scale for value in spec.std])
        for index in range(len(graph.outputs)):
            steps.output(index).tensor().set_element_type(ov.Type.f32)
        save_ir(steps.build(), target)
    except ENGINE_ERRORS as error:
        raise ModelError(
            f"{file} cannot be read as OpenVINO IR ({engine_reason(error)})", fix="export it again"
        ) from error


def _set_constants(graph: "ov.Model", graph_input: GraphInput) -> None:
    inputs = list(graph.inputs)
    for index, value in graph_input.constants:
        constant = ov.opset13.constant(value).output(0)
        for reader in list(inputs[index].get_target_inputs()):
            reader.replace_source_output(constant)
        graph.remove_parameter(inputs[index].get_node())
    graph.validate_nodes_and_infer_types()
