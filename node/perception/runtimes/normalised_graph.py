"""Prefixed graphs: a user's own ONNX or OpenVINO file with our normalisation put before it, so that
it takes the same pixels as every exported model."""

from pathlib import Path

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, compose, helper, numpy_helper
from openvino.preprocess import ColorFormat, PrePostProcessor

from node.errors import ModelError
from node.perception.preprocess.geometry import PreprocessSpec

INPUT, OUTPUT = "pixels", "logits"
"""Names in an exported graph; a user's own graph has outputs `output0`, `output1`, ..."""
IR_FILE = "model.xml"
_OWN = "own/"


def write_onnx(file: Path, spec: PreprocessSpec, target: Path) -> None:
    """Writes the ONNX file with input `pixels` [n, h, w, 3] uint8 BGR and its outputs in float32.

    file: input float32 [n, 3, h, w]. Raises ModelError where it cannot be read.
    """
    try:
        model = compose.add_prefix(onnx.load(str(file)), prefix=_OWN)
    except Exception as error:  # onnx and protobuf raise many kinds
        raise ModelError(f"{file} cannot be read as ONNX ({error}); export it again") from error
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    (given,) = (value for value in graph.input if value.name not in weights)
    batch = given.type.tensor_type.shape.dim[0]
    size = batch.dim_value if batch.HasField("dim_value") else "n"
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [size, *spec.crop_px, 3])
    names = [f"output{place}" for place in range(len(graph.output))]
    last = [
        helper.make_node("Cast", [own.name], [name], to=TensorProto.FLOAT)
        for own, name in zip(graph.output, names, strict=True)
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    nodes = [*_normalising(spec, given.name), *graph.node, *last]
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
    factor, offset = (x.float().view(1, 3, 1, 1).numpy() for x in spec.factors)
    found = [numpy_helper.from_array(factor, "factor"), numpy_helper.from_array(offset, "offset")]
    if spec.color == "rgb":
        found.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
    return found


def write_ir(file: Path, spec: PreprocessSpec, target: Path) -> None:
    """The same for an OpenVINO IR file. Raises ModelError where it cannot be read."""
    try:
        steps = PrePostProcessor(ov.Core().read_model(file))
        given = steps.input()
        given.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC")).set_color_format(
            ColorFormat.BGR
        )
        given.model().set_layout(ov.Layout("NCHW"))
        given.preprocess().convert_element_type(ov.Type.f32)
        if spec.color == "rgb":
            given.preprocess().convert_color(ColorFormat.RGB)
        # (pixel - mean / scale) / (std / scale) is (pixel * scale - mean) / std
        given.preprocess().mean([x / spec.scale for x in spec.mean])
        given.preprocess().scale([x / spec.scale for x in spec.std])
        ov.save_model(steps.build(), target, compress_to_fp16=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"{file} cannot be read as OpenVINO IR ({reason})") from error
