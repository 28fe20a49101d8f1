"""What `tune` says of detectors and of users' graphs is true."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from node.config.schema import ModelConfig
from node.errors import FrameError
from node.perception.models.registry import load_model
from node.perception.perceiver import build_perceiver
from node.perception.tuning.tune import INT8_FRAMES, reference_choices, tune

CLASSES = 2


def yolox(
    folder: Path, size: tuple[int, int], *, bias: float = 0.0, batch: int | str = "n",
    domain: str = "",
) -> Path:  # fmt: skip
    """A detector with YOLOX's raw output; of random weights, its objectness around a bias."""
    random = np.random.default_rng(1)
    nodes, constants = [], []
    for stride in (8, 16, 32):
        weights = random.normal(size=(5 + CLASSES, 3, stride, stride)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights / stride, f"w{stride}"))
        pads = [0, 0, -size[0] % stride, -size[1] % stride]
        nodes += [
            helper.make_node("Conv", ["x", f"w{stride}"], [f"c{stride}"],
                             strides=[stride, stride], pads=pads),
            helper.make_node("Reshape", [f"c{stride}", "flat"], [f"r{stride}"]),
        ]  # fmt: skip
    constants += [
        numpy_helper.from_array(np.array([0, 5 + CLASSES, -1]), "flat"),
        numpy_helper.from_array(np.array([4, 1 + CLASSES]), "parts"),
        numpy_helper.from_array(np.array(bias, np.float32), "bias"),
    ]
    nodes += [
        helper.make_node("Concat", ["r8", "r16", "r32"], ["all"], axis=2),
        helper.make_node("Split", ["all", "parts"], ["box", "raw"], axis=1),
        helper.make_node("Add", ["raw", "bias"], ["biased"]),
        helper.make_node("Sigmoid", ["biased"], ["scores"]),
        helper.make_node("Concat", ["box", "scores"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Own" if domain else "Identity", ["t"], ["y"], domain=domain),
    ]
    own = helper.make_opsetid("", 17)
    function = helper.make_function(
        domain, "Own", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], [own]
    )
    shape = [batch, None, 5 + CLASSES]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )  # fmt: skip
    opsets = [own, helper.make_opsetid(domain, 1)] if domain else [own]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=8, functions=[function] if domain else []
    )
    file = folder / "found.onnx"
    onnx.save(model, str(file))
    file.with_suffix(".toml").write_text(
        f'name = "found"\ntask = "detect"\ndecoder = "yolox"\nlabels = ["a", "b"]\n'
        f'[input]\nsize = [{size[0]}, {size[1]}]\nresize = "letterbox"\n'
    )
    return file


def frames(size: tuple[int, int], count: int = 3) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(2)
    return [random.integers(0, 256, (1, *size, 3), np.uint8) for _ in range(count)]


@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize("size", [(64, 96), (100, 90), (72, 40)])
def test_a_card_that_is_right_is_not_blamed(
    tmp_path: Path, size: tuple[int, int], batch: int | str
) -> None:
    """Also for a size that is no multiple of the strides, and with several cameras."""
    config = ModelConfig(name=str(yolox(tmp_path, size, batch=batch)), device="cpu")
    perceiver = build_perceiver(config, cameras=3)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    assert perceiver.perceive(image).detections
    assert perceiver.can_batch(3) == (batch != 1)
    model = load_model(config.name)
    result = tune(model, frames(size), "3 frames", threads=1)
    assert result.winner is not None
    refusals = {row.choice.precision: row.refused for row in result.measured if row.refused}
    assert refusals.keys() <= {"int8", "bf16"}
    assert refusals["int8"].endswith("these are 3")
    assert f"int8 needs {INT8_FRAMES} frames" in refusals["int8"]


def test_the_reference_is_an_engine_that_has_the_operators(tmp_path: Path) -> None:
    """OpenVINO reads no functions of a model."""
    model = load_model(str(yolox(tmp_path, (64, 64), domain="own.functions")))
    assert [choice.runtime for choice in reference_choices(model)] == ["openvino", "onnxruntime"]
    result = tune(model, frames((64, 64)), "3 frames", threads=1)
    assert result.winner is not None
    assert result.winner.runtime == "onnxruntime"
    assert {row.choice.runtime for row in result.measured} == {"openvino", "onnxruntime"}


def test_without_an_object_in_any_frame_no_lower_precision_is_accurate(tmp_path: Path) -> None:
    model = load_model(str(yolox(tmp_path, (64, 64), bias=-30)))
    result = tune(model, frames((64, 64), INT8_FRAMES), "frames", threads=1)
    lower = [row for row in result.measured if row.choice.precision != "fp32"]
    assert any(row.choice.precision == "int8" for row in lower)
    assert all(row.refused is not None for row in lower)
    assert {row.refused for row in lower if row.median_ms} == {
        "no frame shows an object to compare"
    }
    assert result.winner is not None
    assert result.winner.precision == "fp32"


def test_outputs_that_are_no_numbers_end_the_tuning_with_the_reason(tmp_path: Path) -> None:
    """They are those of the reference too, so no choice is to blame."""
    model = load_model(str(yolox(tmp_path, (64, 64), bias=float("nan"))))
    with pytest.raises(FrameError, match="not finite"):
        tune(model, frames((64, 64)), "3 frames", threads=1)
