"""The copy that the node runs of a user's graph means the same as the graph, whatever it is made
of: for each shape of graph, and each engine that runs it, the outputs are those of the plain engine
on the user's own file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from node.config.schema import CropsConfig, ModelConfig
from node.errors import ModelError
from node.perception.models.registry import load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.runtimes import normalised_graph
from node.perception.runtimes.select import build_runtime
from node.perception.tasks.second_stage import SecondStage
from perception_client.messages.kinds import Box, Detection

CARD = """
name = "shape"
task = "classify"
labels = ["a", "b", "c", "d"]
[input]
size = [24, 40]
resize = "stretch"
color = "{color}"
mean = [0.4, 0.5, 0.6]
std = [0.2, 0.3, 0.4]
"""
HEIGHT, WIDTH, CLASSES = 24, 40, 4
RANDOM = np.random.default_rng(7)
WEIGHTS = RANDOM.normal(size=(3, CLASSES)).astype(np.float32)
Made = onnx.ModelProto


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **more: object) -> NodeProto:
    return helper.make_node(kind, inputs, outputs, **more)


def floats(name: str, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def constant(name: str, values: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def graph(
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto] = (),
    *,
    batch: int | str = "n",
    opset: int = 17,
    domains: Sequence[str] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> Made:
    """A model from `x`, of which `z` are three means a picture, and `w` the weights, to `y`."""
    head = [node("GlobalAveragePool", ["x"], ["p"]), node("Flatten", ["p"], ["z"])]
    made = helper.make_graph(
        [*head, *nodes],
        "shape",
        [floats("x", [batch, 3, HEIGHT, WIDTH]), *inputs],
        [floats("y", [batch, CLASSES])],
        [constant("w", WEIGHTS), *constants],
        sparse_initializer=sparse,
    )
    return helper.make_model(
        made,
        opset_imports=[helper.make_opsetid(domain, opset if not domain else 1)
                       for domain in ("", *domains)],
        ir_version=8,
        functions=functions,
    )  # fmt: skip


def branch(nodes: Sequence[NodeProto], output: str, *constants: TensorProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, output, [], [floats(output, None)], constants)


def multiplied(output: str = "y") -> NodeProto:
    return node("MatMul", ["z", "w"], [output])


def brighter(then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> list[NodeProto]:
    """One branch for pictures whose brightest mean is above `edge`, another one below."""
    return [
        node("ReduceMax", ["z"], ["most"], keepdims=0),
        node("Greater", ["most", "edge"], ["bright"]),
        node("If", ["bright"], [output], then_branch=then, else_branch=other),
    ]


def with_if() -> Made:
    then = branch([multiplied("m"), node("Add", ["m", "bias"], ["t"])], "t")
    other = branch([node("Gemm", ["z", "w", "bias"], ["e"], beta=-2.0)], "e")
    return graph(brighter(then, other), [constant("bias", [1, 2, 3, 4]), constant("edge", 0.3)])


def with_nested_if() -> Made:
    inner = [
        node("Less", ["most", "far"], ["near"]),
        node("If", ["near"], ["t"],
             then_branch=branch([node("Add", ["product", "pixels"], ["u"])], "u"),
             else_branch=branch([node("Sub", ["product", "pixels"], ["v"])], "v")),
    ]  # fmt: skip
    other = branch([node("Identity", ["product"], ["e"])], "e")
    constants = [
        constant("edge", -9), constant("far", 9), constant("pixels", [5, 6, 7, 8])
    ]  # fmt: skip
    return graph([multiplied("product"), *brighter(branch(inner, "t"), other)], constants)


def with_a_branch_that_reads_the_picture() -> Made:
    then = branch(
        [node("ReduceMax", ["x"], ["top"], axes=[2, 3], keepdims=0),
         node("MatMul", ["top", "w"], ["t"])], "t",
    )  # fmt: skip
    return graph(brighter(then, branch([multiplied("e")], "e")), [constant("edge", 0.0)])


def with_loop() -> Made:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["v", "step"], ["v1"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []), floats("v", None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), floats("v1", None)],
    )  # fmt: skip
    constants = [
        constant("times", 3, np.int64), constant("yes", True, np.bool_),
        constant("step", [[1, 0, 2, 0]]),
    ]  # fmt: skip
    return graph(
        [multiplied("m"), node("Loop", ["times", "yes", "m"], ["y"], body=body)], constants
    )


def with_scan() -> Made:
    body = helper.make_graph(
        [node("Mul", ["row", "scale"], ["scaled"]), node("Add", ["sum", "scaled"], ["sum1"]),
         node("Identity", ["sum1"], ["seen"])],
        "body",
        [floats("sum", [1, CLASSES]), floats("row", [CLASSES])],
        [floats("sum1", [1, CLASSES]), floats("seen", [1, CLASSES])],
    )  # fmt: skip
    nodes = [
        multiplied("m"),
        node("Scan", ["m", "rows"], ["y", "all"], body=body, num_scan_inputs=1),
    ]
    rows = RANDOM.normal(size=(5, CLASSES))
    return graph(nodes, [constant("rows", rows), constant("scale", 3)], batch=1)


def with_function() -> Made:
    function = helper.make_function(
        "own.functions", "Head", ["a", "b"], ["c"],
        [node("MatMul", ["a", "b"], ["pixels"]),
         node("Constant", [], ["planes"], value=constant("k", [2, 0, 0, 1])),
         node("Add", ["pixels", "planes"], ["c"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    return graph(
        [node("Head", ["z", "w"], ["y"], domain="own.functions")],
        domains=["own.functions"],
        functions=[function],
    )


def with_sparse_weights() -> Made:
    values = constant("sparse", [2, -1, 4])
    places = constant("places", [0, 5, 11], np.int64)
    return graph(
        [node("MatMul", ["z", "sparse"], ["s"]), multiplied("m"), node("Add", ["s", "m"], ["y"])],
        sparse=[helper.make_sparse_tensor(values, places, [3, CLASSES])],
    )


def with_other_domain() -> Made:
    return graph(
        [multiplied("m"), node("BiasGelu", ["m", "bias"], ["y"], domain="com.microsoft")],
        [constant("bias", [1, -2, 3, -4])],
        domains=["com.microsoft"],
    )


def with_constants_as_inputs() -> Made:
    made = graph([multiplied()], inputs=[floats("w", [3, CLASSES])])
    made.graph.input.insert(0, made.graph.input.pop())
    return made


def of_an_early_version() -> Made:
    made = graph([multiplied()], inputs=[floats("w", [3, CLASSES])], opset=8)
    made.ir_version = 3
    return made


def of_the_first_operators() -> Made:
    """Whose arithmetic broadcasts by attributes; ONNX Runtime has no kernel for it."""
    made = graph(
        [multiplied("m"), node("Add", ["m", "bias"], ["y"], broadcast=1, axis=1)],
        [constant("bias", [1, 2, 3, 4])],
        opset=6,
        inputs=[floats("w", [3, CLASSES]), floats("bias", [CLASSES])],
    )
    made.ir_version = 3
    return made


def of_the_first_operator_set() -> Made:
    made = graph([multiplied()], opset=1, inputs=[floats("w", [3, CLASSES])])
    made.ir_version = 3
    return made


def with_a_kernel_that_onnxruntime_lacks() -> Made:
    return graph(
        [node("Cast", ["z"], ["d"], to=TensorProto.DOUBLE), node("Selu", ["d"], ["s"]),
         node("Cast", ["s"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["f", "w"], ["y"])],
    )  # fmt: skip


def quantised() -> Made:
    nodes = []
    for name in ("z", "w"):
        nodes += [
            node("QuantizeLinear", [name, f"{name}_scale", f"{name}_zero"], [f"{name}_q"]),
            node("DequantizeLinear", [f"{name}_q", f"{name}_scale", f"{name}_zero"], [f"{name}_d"]),
        ]
    constants = [
        constant("z_scale", 0.02), constant("z_zero", 128, np.uint8),
        constant("w_scale", 0.03), constant("w_zero", 0, np.int8),
    ]  # fmt: skip
    made = graph([*nodes, node("MatMul", ["z_d", "w_d"], ["y"])], constants)
    annotation = made.graph.quantization_annotation.add(tensor_name="z")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="z_scale")
    return made


def with_shared_weights() -> Made:
    return graph(
        [multiplied("one"), node("Neg", ["z"], ["minus"]), node("MatMul", ["minus", "w"], ["two"]),
         node("Max", ["one", "two"], ["y"])],
    )  # fmt: skip


def with_the_names_that_the_node_uses() -> Made:
    return graph(
        [node("MatMul", ["z", "pixels"], ["levels"]), node("Add", ["levels", "factor"], ["scaled"]),
         node("Add", ["scaled", "offset"], ["output"]), node("Identity", ["output"], ["y"])],
        [constant("pixels", WEIGHTS), constant("factor", [1, 2, 3, 4]), constant("offset", 5),
         constant("order", [0, 1, 2], np.int64)],
    )  # fmt: skip


def of_any_rank() -> Made:
    made = graph([multiplied()])
    made.graph.input[0].CopyFrom(floats("x", None))
    made.graph.output[0].CopyFrom(floats("y", None))
    return made


def of_a_negative_batch() -> Made:
    return graph([multiplied()], batch=-1)


SHAPES: dict[Callable[[], Made], tuple[str, ...]] = {
    with_if: ("onnxruntime", "openvino"),
    with_nested_if: ("onnxruntime", "openvino"),
    with_a_branch_that_reads_the_picture: ("onnxruntime", "openvino"),
    with_loop: ("onnxruntime", "openvino"),
    with_scan: ("onnxruntime", "openvino"),
    with_function: ("onnxruntime",),
    with_sparse_weights: ("onnxruntime",),
    with_other_domain: ("onnxruntime", "openvino"),
    with_constants_as_inputs: ("onnxruntime", "openvino"),
    of_an_early_version: ("onnxruntime", "openvino"),
    of_the_first_operators: ("openvino",),
    of_the_first_operator_set: ("openvino",),
    with_a_kernel_that_onnxruntime_lacks: ("openvino",),
    quantised: ("onnxruntime", "openvino"),
    with_shared_weights: ("onnxruntime", "openvino"),
    with_the_names_that_the_node_uses: ("onnxruntime", "openvino"),
    of_any_rank: ("onnxruntime", "openvino"),
    of_a_negative_batch: ("onnxruntime", "openvino"),
}
"""Each shape, and the engines that have its operators."""


def written(folder: Path, model: Made, *, color: str = "rgb", **more: object) -> Path:
    file = folder / "shape.onnx"
    onnx.save_model(model, str(file), **more)
    file.with_suffix(".toml").write_text(CARD.format(color=color))
    return file


def pictures(count: int = 1) -> NDArray[np.uint8]:
    noise = np.random.default_rng(3).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)
    return noise


def network_input(pixels: NDArray[np.uint8], color: str = "rgb") -> NDArray[np.float32]:
    channels = pixels[..., ::-1] if color == "rgb" else pixels
    levels = channels.astype(np.float32) / 255
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
    return np.ascontiguousarray(((levels - mean) / std).transpose(0, 3, 1, 2), np.float32)


def plain(file: Path, engine: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What an engine makes of the user's own file."""
    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["y"], {"x": inputs})[0])
    core = ov.Core()
    read = core.read_model(file)
    read.reshape(list(inputs.shape))
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return np.asarray(core.compile_model(read, "CPU", exact)(inputs)[0])


@pytest.mark.parametrize(
    ("make", "engine"),
    [(make, engine) for make, engines in SHAPES.items() for engine in engines],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_copy_means_what_the_graph_means(
    tmp_path: Path, make: Callable[[], Made], engine: str
) -> None:
    file = written(tmp_path, make())
    expected = plain(file, engine, network_input(pictures()))
    runtime = build_runtime(
        load_model(str(file)), ModelConfig.model_validate({"runtime": engine, "precision": "fp32"})
    )
    np.testing.assert_allclose(runtime.infer(pictures())[0], expected, atol=1e-4)
    assert np.ptp(expected) > 0.1  # something to tell apart


@pytest.mark.parametrize("make", SHAPES, ids=lambda make: make.__name__)
def test_auto_takes_an_engine_that_has_the_operators(
    tmp_path: Path, make: Callable[[], Made], caplog: pytest.LogCaptureFixture
) -> None:
    perceiver = build_perceiver(ModelConfig(name=str(written(tmp_path, make())), device="cpu"))
    assert perceiver.info.runtime in SHAPES[make]
    assert all("\n" not in record.getMessage() for record in caplog.records)


def all_tensors(model: Made) -> list[TensorProto]:
    """The constants of the graph, of its branches' nodes, and of its functions' nodes."""
    tensors: list[TensorProto] = []
    pending: list[object] = [model.graph, *model.functions]
    while pending:
        part = pending.pop()
        tensors += getattr(part, "initializer", ())
        for item in part.node:  # type: ignore[attr-defined]
            for attribute in item.attribute:
                tensors += [attribute.t] if attribute.HasField("t") else []
                pending += [attribute.g] if attribute.HasField("g") else []
    return tensors


@pytest.mark.parametrize("make", [with_function, with_loop, with_nested_if, with_shared_weights])
def test_weights_in_other_files_are_copied_wherever_they_stand(
    tmp_path: Path, make: Callable[[], Made]
) -> None:
    """And are part of the digest: the file itself stays the same."""
    model = make()
    file = written(tmp_path, model)
    expected = plain(file, "onnxruntime", network_input(pictures()))
    for index, tensor in enumerate(all_tensors(model)):
        if tensor.data_type == TensorProto.FLOAT:
            (tmp_path / f"part{index}.bin").write_bytes(numpy_helper.to_array(tensor).tobytes())
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=f"part{index}.bin")
    file.write_bytes(model.SerializeToString())
    loaded = load_model(str(file))
    runtime = build_runtime(loaded, ModelConfig(runtime="onnxruntime"))
    np.testing.assert_allclose(runtime.infer(pictures())[0], expected, atol=1e-4)
    for part in tmp_path.glob("part*.bin"):
        before = part.read_bytes()
        part.write_bytes(before[:-4] + np.float32(0.125).tobytes())
        assert load_model(str(file)).digest != loaded.digest
        part.write_bytes(before)


def test_a_model_of_links_runs_as_the_files_that_they_lead_to(tmp_path: Path) -> None:
    """As a model hub keeps it: files named by their content, and a folder of links to them."""
    (tmp_path / "blobs").mkdir()
    file = written(
        tmp_path / "blobs", graph([multiplied()]), save_as_external_data=True,
        location="shape.onnx_data", size_threshold=0,
    )  # fmt: skip
    expected = plain(file, "onnxruntime", network_input(pictures()))
    (tmp_path / "main").mkdir()
    for number, name in enumerate(("shape.onnx", "shape.onnx_data", "shape.toml")):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / f"{number:064x}")
        (tmp_path / "main" / name).symlink_to(f"../blobs/{number:064x}")
    for engine in ("onnxruntime", "openvino"):
        config = ModelConfig.model_validate({"runtime": engine, "precision": "fp32"})
        runtime = build_runtime(load_model(str(tmp_path / "main" / "shape.onnx")), config)
        np.testing.assert_allclose(runtime.infer(pictures())[0], expected, atol=1e-4)


def test_weights_that_are_missing_or_cut_off_are_named(tmp_path: Path) -> None:
    file = written(
        tmp_path, graph([multiplied()]), save_as_external_data=True,
        location="shape.data", size_threshold=0,
    )  # fmt: skip
    (tmp_path / "shape.data").write_bytes((tmp_path / "shape.data").read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"shape\.(onnx|data)") as raised:
        build_runtime(load_model(str(file)), ModelConfig())
    assert "\n" not in str(raised.value)
    file = written(tmp_path, graph([multiplied()]))
    ov.save_model(ov.Core().read_model(file), file.with_suffix(".xml"))
    file.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match=r"its weights shape\.bin are missing; put it"):
        load_model(str(file.with_suffix(".xml")))


def test_a_copy_too_large_for_one_file_has_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalised_graph, "_MOST_IN_ONE_FILE", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    large = constant("large", np.ones((CLASSES, 400)))
    nodes = [
        multiplied("m"),
        node("MatMul", ["m", "large"], ["l"]),
        node("ReduceMean", ["l"], ["one"], axes=[1]),
        node("Mul", ["one", "m"], ["y"]),
    ]
    file = written(tmp_path, graph(nodes, [large]))
    for engine in ("onnxruntime", "openvino"):
        expected = plain(file, engine, network_input(pictures()))
        config = ModelConfig.model_validate({"runtime": engine, "precision": "fp32"})
        got = build_runtime(load_model(str(file)), config).infer(pictures())[0]
        np.testing.assert_allclose(got, expected, atol=1e-3)
    assert list((tmp_path / "cache").rglob("model.onnx.data"))


@pytest.mark.parametrize("color", ["rgb", "bgr"])
@pytest.mark.parametrize("make", [with_if, with_loop, with_shared_weights, of_a_negative_batch])
def test_the_copy_of_an_openvino_file_means_what_the_file_means(
    tmp_path: Path, make: Callable[[], Made], color: str
) -> None:
    file = written(tmp_path, make(), color=color)
    read = ov.Core().read_model(file)
    ov.save_model(read, file.with_suffix(".xml"), compress_to_fp16=False)
    expected = plain(file.with_suffix(".xml"), "openvino", network_input(pictures(), color))
    config = ModelConfig(precision="fp32", device="cpu")
    runtime = build_runtime(load_model(str(file.with_suffix(".xml"))), config)
    np.testing.assert_allclose(runtime.infer(pictures())[0], expected, atol=1e-4)


def for_one_picture_alone() -> Made:
    return graph([multiplied()], batch=1)


def that_mixes_its_pictures() -> Made:
    """It says that it takes any number of them, and was made with one."""
    return graph(
        [node("ReduceMax", ["z"], ["most"], axes=[0]), node("Sub", ["z", "most"], ["d"]),
         node("MatMul", ["d", "w"], ["q"]), multiplied("m"), node("Add", ["q", "m"], ["y"])],
    )  # fmt: skip


def that_takes_any_number() -> Made:
    return graph([multiplied()])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("make", "takes_batches"),
    [
        (for_one_picture_alone, False),
        (that_mixes_its_pictures, False),
        (that_takes_any_number, True),
    ],
)
def test_a_graph_for_one_picture_gets_no_batch(
    tmp_path: Path, make: Callable[[], Made], takes_batches: bool, engine: str
) -> None:
    config = ModelConfig.model_validate(
        {"name": str(written(tmp_path, make())), "runtime": engine, "precision": "fp32"}
    )
    perceiver = build_perceiver(config, cameras=4)
    assert perceiver.can_batch(4) == takes_batches
    assert takes_batches or perceiver.at_most == 1
    images = list(pictures(4))
    alone = [perceiver.perceive(image).labels for image in images]
    if takes_batches:
        together = [result.labels for result in perceiver.perceive_all(images)]
        for own, other in zip(together, alone, strict=True):
            assert [label.name for label in own] == [label.name for label in other]


@pytest.mark.parametrize("make", [for_one_picture_alone, that_mixes_its_pictures])
def test_crops_are_looked_at_one_by_one_where_the_classifier_takes_one(
    tmp_path: Path, make: Callable[[], Made]
) -> None:
    classifier = build_perceiver(
        ModelConfig(name=str(written(tmp_path, make())), runtime="onnxruntime")
    )
    image = np.random.default_rng(5).integers(0, 256, (100, 300, 3), np.uint8)
    image[:, 100:200] //= 3
    boxes = tuple(
        Detection(0, "thing", 0.9, Box(cx, 50, 60, 60)) for cx in (50.0, 150.0, 250.0)
    )  # fmt: skip
    crops = SecondStage(classifier, CropsConfig(margin=0, top_k=4), ("thing",))
    crops.warm_up()
    seen = [detection.labels for detection in crops.label(image, boxes)]
    alone = [crops.label(image, (box,))[0].labels for box in boxes]
    assert seen == alone


class Free(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, (2, 2)).flatten(1)[:, :CLASSES]


class Fixed(torch.nn.Module):
    """Of several pictures it would give one result, of their mixed channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = torch.nn.functional.adaptive_avg_pool2d(x, (2, 2)).reshape(1, -1)
        return (means - means.mean())[:, :CLASSES]


@pytest.mark.parametrize(("network", "free"), [(Free(), True), (Fixed(), False)])
def test_an_exported_program_for_one_picture_gets_no_batch(
    tmp_path: Path, network: torch.nn.Module, free: bool
) -> None:
    shapes = {"x": {0: torch.export.Dim("n", min=1, max=64)}} if free else None
    example = torch.zeros(2 if free else 1, 3, HEIGHT, WIDTH)
    program = torch.export.export(network.eval(), (example,), dynamic_shapes=shapes)
    file = tmp_path / "shape.pt2"
    torch.export.save(program, file)
    file.with_suffix(".toml").write_text(CARD.format(color="rgb"))
    expected = [network(torch.from_numpy(network_input(picture[None]))) for picture in pictures(3)]
    model = load_model(str(file))
    for engine in ("torch", "onnxruntime", "openvino"):
        config = ModelConfig.model_validate(
            {"runtime": engine, "precision": "fp32", "device": "cpu"}
        )
        perceiver = Perceiver(model, build_runtime(model, config), top_k=2)
        assert perceiver.can_batch(3) == free
        for index in range(3):
            got = build_runtime(model, config).infer(pictures(3)[index : index + 1])[0]
            np.testing.assert_allclose(got, expected[index].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([4, 3, HEIGHT, WIDTH], "takes 4 pictures at once"),
        (
            ["n", 3, HEIGHT, WIDTH + 1],
            r"takes \[n, 3, 24, 41\], and its card says .*; correct input",
        ),
        (["n", 1, HEIGHT, WIDTH], "the batch first, then the colours"),
        (
            ["n", HEIGHT, WIDTH + 1, 3],
            r"takes \[n, 24, 41, 3\], and its card says \[n, 24, 40, 3\]",
        ),
    ],
)
def test_a_picture_in_another_form_is_refused_with_the_true_reason(
    tmp_path: Path, shape: list[int | str], reason: str
) -> None:
    model = graph(
        [node("MatMul", ["z", "v"], ["y"])], [constant("v", np.ones((shape[1], CLASSES)))]
    )
    model.graph.input[0].CopyFrom(floats("x", shape))
    model.graph.output[0].CopyFrom(floats("y", [shape[0], CLASSES]))
    with pytest.raises(ModelError, match=reason) as raised:
        load_model(str(written(tmp_path, model)))
    assert "\n" not in str(raised.value)


def test_an_input_of_another_type_is_refused_with_the_true_reason(tmp_path: Path) -> None:
    model = graph(
        [node("Cast", ["z"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["f", "w"], ["y"])]
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(ModelError, match="takes float64, and the node gives float32, float16 or"):
        load_model(str(written(tmp_path, model)))


def test_an_operator_that_no_engine_has_is_refused_with_both_reasons(tmp_path: Path) -> None:
    model = graph([node("Teleport", ["z", "w"], ["y"], domain="own")], domains=["own"])
    with pytest.raises(
        ModelError, match=r"OpenVINO: .*Teleport.*; ONNX Runtime: .*Teleport"
    ) as caught:
        load_model(str(written(tmp_path, model)))
    assert "\n" not in str(caught.value)


def test_a_damaged_name_that_is_no_text_is_refused_in_one_line(tmp_path: Path) -> None:
    """OpenVINO quotes it, and its binding fails to make a text of the error."""
    nodes = [helper.make_node("Unheard", ["x"], ["y"])]
    file = written(tmp_path, graph(nodes))
    file.write_bytes(file.read_bytes().replace(b"Unheard", b"Unh\xff\xferd"))
    with pytest.raises(ModelError, match=r"shape\.onnx cannot be read .*Unh..rd.*export it again"):
        load_model(str(file))
