"""Prepends the normalisation to the graph of an OpenVINO IR file."""

from pathlib import Path

from openvino.preprocess import ColorFormat, PrePostProcessor

from node.errors import ModelError
from node.perception.models.engine_errors import ENGINE_ERRORS, engine_reason
from node.perception.models.graph_input import ONE_PICTURE, GraphInput
from node.perception.openvino_import import core, ov, save_ir
from node.perception.preprocess.geometry import PreprocessSpec


def write_ir(
    file: Path, spec: PreprocessSpec, target: Path, graph_input: GraphInput = ONE_PICTURE
) -> None:
    """As `normalised_graph.write_onnx`, for OpenVINO IR files."""
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
