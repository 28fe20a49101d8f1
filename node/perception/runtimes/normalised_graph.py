"""Prepends the normalisation to the graph of an ONNX or OpenVINO file, so that it takes the same
pixels as every exported model."""

from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, compose, helper, numpy_helper
from openvino.preprocess import ColorFormat, PrePostProcessor

from node.errors import ModelError
from node.perception.preprocess.geometry import PreprocessSpec

INPUT, OUTPUT = "pixels", "logits"
"""Names in an exported graph; the outputs of a user's own graph are named `output0`, `output1`,
..."""
IR_FILE = "model.xml"
_OWN = "own/"
"""Prefix of the names of the user's graph."""


def write_onnx(file: Path, spec: PreprocessSpec, target: Path) -> None:
    """Writes the graph of an ONNX file with the input `pixels` [n, h, w, 3] uint8 BGR and its
    outputs in float32.

    Args:
        file: with one input, float32 [n, 3, h, w].
        spec: the normalisation.
        target: the file to write.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        model = compose.add_prefix(onnx.load(str(file)), prefix=_OWN)
    except Exception as error:
        # onnx and protobuf raise many types.
        raise ModelError(
            f"{file} cannot be read as ONNX ({error})", fix="export it again"
        ) from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    (own_input,) = (value for value in graph.input if value.name not in weights)
    batch = own_input.type.tensor_type.shape.dim[0]
    size = batch.dim_value if batch.HasField("dim_value") else "n"
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [size, *spec.crop_px, 3])
    names = [f"output{index}" for index in range(len(graph.output))]
    casts = [
        helper.make_node("Cast", [graph_output.name], [name], to=TensorProto.FLOAT)
        for graph_output, name in zip(graph.output, names, strict=True)
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    nodes = [*_normalising(spec, own_input.name), *graph.node, *casts]
    constants = [*_constants(spec), *graph.initializer]
    model.graph.CopyFrom(helper.make_graph(nodes, graph.name, [pixels], outputs, constants))
    onnx.save(model, str(target))


def _normalising(spec: PreprocessSpec, target: str) -> list[onnx.NodeProto]:
    planes = [helper.make_node("Transpose", [INPUT], ["planes"], perm=[0, 3, 1, 2])]
    if spec.color == "rgb":
        planes.append(helper.make_node("Gather", ["planes", "order"], ["ordered"], axis=1))
    return [
        *planes,
        helper.make_node("Cast", [planes[-1].output[0]], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["levels", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], [target]),
    ]


def _constants(spec: PreprocessSpec) -> list[onnx.TensorProto]:
    factor, offset = (values.float().view(1, 3, 1, 1).numpy() for values in spec.factors)
    constants = [
        numpy_helper.from_array(factor, "factor"),
        numpy_helper.from_array(offset, "offset"),
    ]
    if spec.color == "rgb":
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
    return constants


def write_ir(file: Path, spec: PreprocessSpec, target: Path) -> None:
    """As `write_onnx`, for OpenVINO IR files."""
    try:
        steps = PrePostProcessor(ov.Core().read_model(file))
        own_input = steps.input()
        own_input.tensor().set_element_type(ov.Type.u8).set_layout(
            ov.Layout("NHWC")
        ).set_color_format(ColorFormat.BGR)
        own_input.model().set_layout(ov.Layout("NCHW"))
        own_input.preprocess().convert_element_type(ov.Type.f32)
        if spec.color == "rgb":
            own_input.preprocess().convert_color(ColorFormat.RGB)
        # (pixel - mean / scale) / (std / scale) is (pixel * scale - mean) / std
        own_input.preprocess().mean([value / spec.scale for value in spec.mean])
        own_input.preprocess().scale([value / spec.scale for value in spec.std])
        ov.save_model(steps.build(), target, compress_to_fp16=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{file} cannot be read as OpenVINO IR ({reason})") from error
