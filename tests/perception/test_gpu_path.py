"""The path of a frame on a GPU, computed on the CPU: what a GPU computes is in tests/gpu."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as PILImage
from torch import nn

from node.config.schema import SegmentConfig
from node.errors import FrameError, ModelError
from node.perception.models.model import Model
from node.perception.models.onnx_to_torch import as_torch
from node.perception.models.registry import load_model
from node.perception.preprocess.geometry import Fit, Interpolation, PreprocessSpec
from node.perception.preprocess.gpu import GpuPreprocessor
from node.perception.preprocess.reference import reference_transform
from node.perception.preprocess.resize_matrices import resize_matrices
from node.perception.runtimes.class_map import ClassMap
from node.perception.runtimes.gpu_network import MOST_SHAPES, GpuNetwork
from node.perception.runtimes.inductor import Compiled
from node.perception.tasks.segment import Segment

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
SPECS = [("crop", 64, (56, 56)), ("letterbox", 0, (64, 48)), ("stretch", 0, (40, 60)),
         ("short", 48, (48, 48))]  # fmt: skip


def spec_of(
    fit: Fit, short_px: int, crop_px: tuple[int, int], interpolation: Interpolation
) -> PreprocessSpec:
    return PreprocessSpec(
        short_px, crop_px, interpolation, (0.0,) * 3, (1.0,) * 3, fit=fit, pad_value=114
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("fit", "short_px", "crop_px"), SPECS)
@pytest.mark.parametrize("size", [(180, 320), (120, 160), (40, 30), (21, 300)])
def test_pixels_are_those_of_the_reference_transform(
    size: tuple[int, int],
    fit: Fit,
    short_px: int,
    crop_px: tuple[int, int],
    interpolation: Interpolation,
) -> None:
    spec = spec_of(fit, short_px, crop_px, interpolation)
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    pixels = GpuPreprocessor(spec, "cpu")(image)[0].numpy()
    picture = PILImage.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    reference = reference_transform(spec)(picture).mul(255).permute(1, 2, 0).numpy()[:, :, ::-1]
    difference = np.abs(pixels - reference)
    assert difference.mean() < 0.1
    assert difference.max() < 2.5


def test_only_what_the_network_sees_is_uploaded() -> None:
    """The rest of the frame can hold anything."""
    spec = spec_of("crop", 256, (224, 224), "bicubic")
    image = RNG.integers(0, 256, (720, 1280, 3), np.uint8)
    matrices = resize_matrices(spec, 720, 1280, CPU)
    region = matrices.region(image)
    assert region.shape == (640, 640, 3)
    other = 255 - image
    matrices.region(other)[:] = region
    preprocess = GpuPreprocessor(spec, "cpu")
    assert torch.equal(preprocess(image), preprocess(other))


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        return (pixels.float().mean((1, 2)) * 2,)


class Slow(Doubling):
    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        time.sleep(0.002)
        return super().forward(pixels)


class Rig:
    """A network, and what compiles it in place of Inductor."""

    def __init__(self, network: Doubling, compiled: Compiled) -> None:
        self.network = network
        self.gpu = GpuNetwork("x", network, CPU)
        with torch.inference_mode():
            self.gpu.compile(lambda network: compiled, self._pixels(4, 3))

    def infer(self, side: int = 4, value: int = 3) -> float:
        with torch.inference_mode():
            return float(self.gpu.infer(self._pixels(side, value))[0][0, 0])

    def _pixels(self, side: int, value: int) -> torch.Tensor:
        return torch.full((1, side, side, 3), value, dtype=torch.uint8)


def fast(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (pixels.float().mean((1, 2)) * 2,)


def test_a_faster_compiled_network_is_used_for_its_shape() -> None:
    rig = Rig(Slow(), fast)
    assert rig.gpu.is_compiled
    calls = rig.network.calls
    assert rig.infer(value=7) == 14
    assert rig.network.calls == calls
    assert rig.infer(side=6, value=7) == 14
    assert rig.network.calls > calls


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pixels: (pixels.float().mean((1, 2)) * 2.2,),
        lambda pixels: (pixels.float().mean((1, 2)) * float("nan"),),
        lambda pixels: (pixels.float().mean((1, 2)), pixels),
        lambda pixels: (pixels.float().mean((1, 2, 3)),),
    ],
)
def test_a_compiled_network_with_other_outputs_is_not_used(
    wrong: Compiled, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(Slow(), wrong)
    assert (rig.infer(), rig.gpu.is_compiled) == (6, False)
    assert "model x: compiled, it gives other outputs; not used" in caplog.text


def test_a_compiled_network_that_is_slower_is_not_used() -> None:
    rig = Rig(Doubling(), Slow())
    calls = rig.network.calls
    assert (rig.infer(), rig.gpu.is_compiled) == (6, False)
    assert rig.network.calls == calls + 1


def test_without_a_compiler_the_network_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def failing(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("gcc: not found\nand a page of traceback")

    rig = Rig(Doubling(), failing)
    assert (rig.infer(), rig.gpu.is_compiled) == (6, False)
    assert "model x: cannot be compiled (gcc: not found); it runs as it is" in caplog.text


def test_shapes_without_end_take_no_memory_without_end() -> None:
    rig = Rig(Doubling(), fast)
    for side in range(1, 3 * MOST_SHAPES):
        assert rig.infer(side) == 6
    assert len(rig.gpu._graphs) == MOST_SHAPES


def test_a_map_of_classes_gives_what_its_logits_give() -> None:
    names = tuple("abcd")
    spec = spec_of("stretch", 0, (30, 40), "bilinear")
    logits = RNG.normal(size=(2, 4, 30, 40)).astype(np.float32)
    segment = Segment(names, spec, SegmentConfig(masks=True, min_fraction=0.0))
    (classes,) = ClassMap()((torch.from_numpy(logits),))
    assert classes.dtype == torch.uint8
    for index in range(2):
        expected = segment.read((logits,), index, (60, 80))
        assert segment.read((classes.numpy(),), index, (60, 80)) == expected
    assert segment.agreement((classes.numpy(),), (logits,)) == (1.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pixel_without_a_class_is_an_error(value: float) -> None:
    segment = Segment(("a", "b"), spec_of("stretch", 0, (3, 3), "bilinear"), SegmentConfig())
    logits = np.zeros((1, 2, 3, 3), np.float32)
    logits[0, 1, 2, 2] = value
    (classes,) = ClassMap()((torch.from_numpy(logits),))
    with pytest.raises(FrameError, match="not finite"):
        segment.read((classes.numpy(),), 0, (3, 3))


def test_a_map_of_more_classes_than_names_is_an_error() -> None:
    segment = Segment(("a", "b"), spec_of("stretch", 0, (3, 3), "bilinear"), SegmentConfig())
    with pytest.raises(FrameError, match="class 2 for 2 label names"):
        segment.read((np.full((1, 3, 3), 2, np.uint8),), 0, (3, 3))  # type: ignore[arg-type]


CARD = """name = "graph"
task = "segment"
labels = ["a", "b", "c"]

[input]
size = [6, 8]
resize = "stretch"
mean = [0, 0, 0]
std = [1, 1, 1]
"""
Tensors = dict[str, NDArray[np.generic]]


def graph_file(
    folder: Path, nodes: list[onnx.NodeProto], constants: Tensors, opset: int = 13
) -> Model:
    picture = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, None, None])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", [picture], [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset < 19 else 9
    onnx.save(model, folder / "graph.onnx")
    (folder / "graph.toml").write_text(CARD)
    return load_model(str(folder / "graph.onnx"))


def whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def node(operator: str, inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


GRAPHS: dict[str, tuple[list[onnx.NodeProto], Tensors]] = {
    "slice": (
        [node("Slice", "x starts ends axes steps")],
        {
            "starts": whole(0, -1),
            "ends": whole(5, -9),
            "axes": whole(2, 3),
            "steps": whole(2, -1),
        },
    ),
    "slice with steps backwards": (
        [node("Slice", "x starts ends axes steps")],
        {"starts": whole(7), "ends": whole(0), "axes": whole(3), "steps": whole(-3)},
    ),
    "resize": (
        [node("Resize", "x empty scales", mode="nearest", nearest_mode="floor",
              coordinate_transformation_mode="asymmetric")],
        {"empty": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "shape of the picture": (
        [
            node("Shape", "x", "shape"),
            node("Slice", "shape first two", "head"),
            node("Concat", "head flat", "target", axis=0),
            node("Reshape", "x target", "rows"),
            node("Reshape", "rows shape", "y"),
        ],
        {"first": whole(0), "two": whole(2), "flat": whole(-1)},
    ),
    "space to depth of slices": (
        [
            node("Slice", "x even end axes two", "a"),
            node("Slice", "x odd end axes two", "b"),
            node("Add", "a b", "y"),
        ],
        {"even": whole(0, 0), "odd": whole(1, 1), "end": whole(9, 9), "axes": whole(2, 3),
         "two": whole(2, 2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [13, 19, 21])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_gives_the_same_as_a_torch_network(tmp_path: Path, name: str, opset: int) -> None:
    """`as_torch` itself compares the network with ONNX Runtime."""
    network = as_torch(graph_file(tmp_path, *GRAPHS[name], opset)).network
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 6, 8)).shape[:2] == (1, 3)


def test_axes_that_are_an_input_are_read(tmp_path: Path) -> None:
    """From operator set 18 on."""
    mean = node("ReduceMean", "x axes", keepdims=1)
    network = as_torch(graph_file(tmp_path, [mean], {"axes": whole(2, 3)}, 19)).network
    with torch.inference_mode():
        assert network(torch.ones(1, 3, 6, 8)).shape == (1, 3, 1, 1)


def unknown(folder: Path) -> Model:
    return graph_file(
        folder,
        [
            node("Hardmax", "x"),
        ],
        {},
    )


def other_layout(folder: Path) -> Model:
    model = graph_file(folder, [node("Identity", "x")], {})
    bytes_graph = onnx.load(folder / "graph.onnx")
    bytes_graph.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    bytes_graph.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(bytes_graph, folder / "graph.onnx")
    return load_model(str(folder / "graph.onnx")) if model else model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unknown, "Converter is not implemented .*Hardmax"),
        (other_layout, "it takes more than one float32 picture of NCHW"),
    ],
)
def test_what_cannot_run_on_a_gpu_says_why(
    tmp_path: Path, make: Callable[[Path], Model], reason: str
) -> None:
    with pytest.raises(ModelError, match=f"graph.onnx does not run on a GPU here: {reason}"):
        as_torch(make(tmp_path))
