"""Model files of detectors: a file of each form that exporters write runs as it is, with a card or
without one, or one line names what fits."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from conftest import Run
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from node.config.schema import ModelConfig
from node.errors import ModelError
from node.perception.models.registry import load_model
from node.perception.perceiver import build_perceiver

Object = tuple[float, float, float, float, float, int]
"""x1, y1, x2, y2, score, class."""


def xywh(cx: float, cy: float, w: float, h: float) -> tuple[float, float, float, float]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


# Model files: each gives the same whatever picture it gets, but for the scores of `by_colour`.


def constant_graph(
    outputs: dict[str, NDArray[np.generic]],
    *,
    metadata: dict[str, str] | None = None,
    shapes: dict[str, list[int | str]] | None = None,
    second: tuple[str, int, list[int | str]] | None = None,
    size: Sequence[int | str] = (64, 64),
) -> onnx.ModelProto:
    """A model from a picture [1, 3, *size] to these outputs."""
    nodes = [
        helper.make_node("ReduceMin", ["images"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0), "zero")]
    values = []
    for name, value in outputs.items():
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(helper.make_node("Cast", ["nothing"], [f"{name}_zero"], to=kind))
        nodes.append(helper.make_node("Add", [f"{name}_all", f"{name}_zero"], [name]))
        constants.append(numpy_helper.from_array(value, f"{name}_all"))
        shape = (shapes or {}).get(name, list(value.shape))
        values.append(helper.make_tensor_value_info(name, kind, shape))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *size])]
    if second is not None:
        inputs.insert(0, helper.make_tensor_value_info(*second))
    return made(helper.make_graph(nodes, "g", inputs, values, constants), metadata)


def made(graph: onnx.GraphProto, metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def written(
    folder: Path, model: onnx.ModelProto, decoder: str | None = None,
    labels: Sequence[str] = ("cat", "dog"), **keys: object,
) -> Path:  # fmt: skip
    file = folder / "own.onnx"
    onnx.save(model, file)
    if decoder is not None:
        settings = {"size": [64, 64], "resize": "stretch", **keys}
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in settings.items()]
        file.with_suffix(".toml").write_text(
            f'name = "own"\ntask = "detect"\ndecoder = "{decoder}"\nlabels = {list(labels)}\n'
            "[input]\n" + "\n".join(lines)
        )
    return file


def perceived(file: Path, runtime: str, picture: NDArray[np.uint8] | None = None) -> list[Object]:
    """What a file sees in a picture of twice its input's size, stretched to it."""
    config = ModelConfig.model_validate(
        {"name": str(file), "runtime": runtime, "precision": "fp32"}
    )
    image = np.zeros((128, 192, 3), np.uint8) if picture is None else picture
    seen = build_perceiver(config).perceive(image).detections
    return [
        (*xywh(item.box.cx, item.box.cy, item.box.w, item.box.h), item.score, item.id)
        for item in seen
    ]


def rows(columns: int, count: int, *objects: Sequence[float]) -> NDArray[np.float32]:
    values = np.zeros((1, count, columns), np.float32)
    values[0, : len(objects)] = np.reshape(objects, (-1, columns))
    return values


HEADS = rows(
    6, 84, (30, 20, 20, 10, 0.1, 0.9), (31, 20, 20, 10, 0.2, 0.8), (32, 32, 64, 64, 0.4, 0)
)
LOGITS = np.full((1, 9, 2), -9, np.float32)
LOGITS[0, :2] = (-9, 2.1972246), (-0.4054651, -9)
SOFTMAX = np.concatenate([LOGITS + 9, np.full((1, 9, 1), 9, np.float32)], 2)
SOFTMAX[0, :2] = (0, 9 + 2.1972246, 9), (9 - 0.4054651, 0, 9)
FRACTIONS = rows(4, 9, (30 / 64, 20 / 64, 20 / 64, 10 / 64), (0.5, 0.5, 1, 1))
ONE_EACH = rows(6, 9, (20, 15, 40, 25, 0.9, 1), (0, 0, 64, 64, 0.4, 0))
FILES: dict[str, tuple[str, dict[str, NDArray[np.generic]]]] = {
    "anchor_free": ("anchor_free", {"output0": HEADS.transpose(0, 2, 1).copy()}),
    "anchor_free, cells first": ("anchor_free", {"output0": HEADS}),
    "end_to_end": ("end_to_end", {"output0": ONE_EACH}),
    "yolov5": (
        "yolov5",
        {
            "output": rows(7, 252, (30, 20, 20, 10, 0.9, 0.1, 1), (32, 32, 64, 64, 0.4, 1, 0)),
            "head": np.zeros((1, 3, 8, 8, 7), np.float32),
        },
    ),
    "yolov5 in float16": ("yolov5", {"output": rows(7, 252, (30, 20, 20, 10, 0.9, 0.1, 1),
        (32, 32, 64, 64, 0.4, 1, 0)).astype(np.float16)}),
    "D-FINE": ("detr_sigmoid", {"logits": LOGITS, "boxes": FRACTIONS}),
    "Hugging Face": (
        "detr_sigmoid",
        {"logits": LOGITS, "last_hidden_state": np.zeros((1, 9, 4), np.float32),
         "pred_boxes": FRACTIONS},
    ),
    "RF-DETR": ("detr_sigmoid", {"dets": FRACTIONS, "labels": LOGITS}),
    "without names": ("detr_sigmoid", {"5671": FRACTIONS, "5680": LOGITS}),
    "DETR": ("detr_softmax", {"logits": SOFTMAX, "pred_boxes": FRACTIONS}),
    "ssd": (
        "ssd",
        {
            "detection_anchor_indices": np.zeros((1, 9), np.float32),
            "detection_boxes": ONE_EACH[..., [1, 0, 3, 2]] / 64,
            "detection_classes": ONE_EACH[..., 5] + 1,
            "detection_scores": ONE_EACH[..., 4],
            "num_detections": np.array([2], np.float32),
        },
    ),
}  # fmt: skip
SEEN = [(60, 30, 120, 50, 0.9, 1), (0, 0, 192, 128, 0.4, 0)]
"""What each of FILES sees: a dog, and a cat all over the picture."""


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("form", FILES)
def test_a_file_of_each_form_gives_its_boxes(tmp_path: Path, form: str, runtime: str) -> None:
    decoder, outputs = FILES[form]
    file = written(tmp_path, constant_graph(outputs), decoder)
    atol = 0.3 if "float16" in form else 1e-3
    np.testing.assert_allclose(perceived(file, runtime), SEEN, atol=atol)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("form", ["ssd", "boxes"])
def test_the_first_label_has_the_number_that_the_card_says(
    tmp_path: Path, form: str, first: int
) -> None:
    """torchvision numbers the first class 1, since 0 is the background; TensorFlow Lite 0."""
    classes = ONE_EACH[..., 5] + first
    outputs: dict[str, NDArray[np.generic]] = (
        {**FILES["ssd"][1], "detection_classes": classes}
        if form == "ssd"
        else {
            "boxes": ONE_EACH[0, :2, :4].copy(),
            "labels": classes[0, :2].astype(np.int64),
            "scores": ONE_EACH[0, :2, 4].copy(),
        }
    )
    file = written(tmp_path, constant_graph(outputs), form)
    card = file.with_suffix(".toml")
    card.write_text(f"first_class = {first}\n{card.read_text()}")
    np.testing.assert_allclose(perceived(file, "openvino"), SEEN, atol=1e-3)
    card.write_text(
        card.read_text().replace(f"first_class = {first}", f"first_class = {1 - first}")
    )
    if first == 0:
        with pytest.raises(ModelError, match=r"class -1 of 2 labels; .* first_class = 0 or 1"):
            perceived(file, "openvino")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "IR"])
def test_the_size_of_the_picture_is_given_where_a_graph_takes_it(
    tmp_path: Path, engine: str
) -> None:
    """As RT-DETR and D-FINE export it: the graph scales the boxes itself."""
    model = constant_graph(
        {
            "labels": np.array([[1, 0]]),
            "fractions": FRACTIONS[:, :2],
            "scores": rows(2, 1, (0.9, 0.4))[0],
        },
        second=("orig_target_sizes", TensorProto.INT64, ["n", 2]),
        size=(64, 32),
    )
    graph = model.graph
    nodes = [
        helper.make_node("Cast", ["orig_target_sizes"], ["wh"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["wh", "wh"], ["whwh"], axis=1),
        helper.make_node("Unsqueeze", ["whwh", "one"], ["sizes"]),
        helper.make_node("MatMul", ["fractions", "to_corners"], ["corners"]),
        helper.make_node("Mul", ["corners", "sizes"], ["boxes"]),
    ]
    graph.node.extend(nodes)
    to_corners = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])
    graph.initializer.append(numpy_helper.from_array(to_corners.astype(np.float32), "to_corners"))
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    graph.output[1].CopyFrom(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 2, 4]))
    file = written(tmp_path, model, "boxes", size=[64, 32])
    if engine == "IR":
        ov.save_model(ov.Core().read_model(file), file.with_suffix(".xml"), compress_to_fp16=False)
        file, engine = file.with_suffix(".xml"), "openvino"
    np.testing.assert_allclose(perceived(file, engine), SEEN, atol=1e-3)


def by_colour(kind: int, shape: list[int | str]) -> onnx.ModelProto:
    """One object whose class is the strongest colour, and whose score is its mean; the picture in
    any form."""
    sides = [1, 2] if shape[3] == 3 else [2, 3]
    divisor = 255 if kind == TensorProto.UINT8 else 1
    mask = np.zeros((1, 1, 84), np.float32)
    mask[..., 3] = 1 / divisor
    boxes = np.zeros((1, 4, 84), np.float32)
    boxes[0, :, 3] = 30, 20, 20, 10
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=sides, keepdims=0),
        helper.make_node("Unsqueeze", ["means", "two"], ["columns"]),
        helper.make_node("Mul", ["columns", "mask"], ["scores"]),
        helper.make_node("ReduceMean", ["scores"], ["any"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["any", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),
        helper.make_node("Concat", ["placed", "scores"], ["output0"], axis=1),
    ]  # fmt: skip
    constants = {"mask": mask, "boxes": boxes, "zero": np.float32(0), "two": np.array([2])}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [shape[0], 7, "cells"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return made(graph)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "IR"])
@pytest.mark.parametrize(
    ("kind", "shape", "color"),
    [
        (TensorProto.FLOAT, [1, 3, 64, 64], "rgb"),
        (TensorProto.FLOAT, ["n", 3, "h", "w"], "bgr"),
        (TensorProto.FLOAT, ["n", 64, 64, 3], "rgb"),
        (TensorProto.FLOAT16, [1, 3, 64, 64], "bgr"),
        (TensorProto.UINT8, [1, "h", "w", 3], "rgb"),
        (TensorProto.UINT8, ["n", 64, 64, 3], "bgr"),
        (TensorProto.UINT8, ["n", 3, 64, 64], "rgb"),
    ],
    ids=str,
)
def test_a_picture_is_given_in_the_form_that_the_graph_takes(
    tmp_path: Path, kind: int, shape: list[int | str], engine: str, color: str
) -> None:
    whole = kind == TensorProto.UINT8
    labels = ("red", "green", "blue") if color == "rgb" else ("blue", "green", "red")
    file = written(
        tmp_path, by_colour(kind, shape), "anchor_free", labels, color=color,
        scale=1.0 if whole else 1 / 255,
    )  # fmt: skip
    if engine == "IR":
        ov.save_model(ov.Core().read_model(file), file.with_suffix(".xml"), compress_to_fp16=False)
        file, engine = file.with_suffix(".xml"), "openvino"
    picture = np.full((128, 192, 3), (51, 102, 230), np.uint8)  # blue, green, red
    expected = [(60, 30, 120, 50, 230 / 255, labels.index("red"))]
    np.testing.assert_allclose(perceived(file, engine, picture), expected, atol=1e-2)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_each_picture_of_a_batch_gets_its_own_boxes(tmp_path: Path, engine: str) -> None:
    model = by_colour(TensorProto.FLOAT16, ["n", "h", "w", 3])
    file = written(tmp_path, model, "anchor_free", ("red", "green", "blue"))
    config = ModelConfig.model_validate({"name": str(file), "runtime": engine, "precision": "fp32"})
    perceiver = build_perceiver(config, cameras=3)
    assert perceiver.can_batch(3)
    colours = ((250, 0, 0), (0, 250, 0), (0, 0, 250))  # blue, green, red
    pictures = [np.full((96, 64, 3), colour, np.uint8) for colour in colours]
    seen = [result.detections for result in perceiver.perceive_all(pictures)]
    assert [item.name for items in seen for item in items] == ["blue", "green", "red"]
    assert all(items[0].box == seen[0][0].box for items in seen)


def test_grey_levels_are_not_scaled_for_a_graph_that_takes_them_whole(tmp_path: Path) -> None:
    file = written(tmp_path, by_colour(TensorProto.UINT8, [1, 3, 64, 64]), "anchor_free", "abc")
    with pytest.raises(
        ModelError, match=r"takes uint8, .* its card scales them; write input.scale"
    ):
        load_model(str(file))


@pytest.mark.parametrize(
    ("form", "decoder", "labels", "reason"),
    [
        ("anchor_free", "anchor_free", "a", r"\[n, 5, cells\] for 1 label; name the 2 labels"),
        ("anchor_free", "yolov5", "ab", r'\[n, cells, 7\] .*; write decoder = "anchor_free"$'),
        ("anchor_free", "yolox", "abc", r'write decoder = "anchor_free" and name its 2 labels$'),
        ("yolov5 in float16", "yolov5", "abcd", r"for 4 labels; name the 2 labels"),
        ("yolov5 in float16", "yolox", "ab", r'YOLOX gives .*; write decoder = "yolov5"$'),
        ("end_to_end", "anchor_free", "ab", r'not of cells; write decoder = "end_to_end"$'),
        ("end_to_end", "yolov5", "a", r'not of cells; write decoder = "end_to_end"$'),
        ("anchor_free, cells first", "end_to_end", "ab", r'write decoder = "anchor_free"$'),
        ("end_to_end", "detr_sigmoid", "ab", r'reads logits .*; write decoder = "end_to_end"$'),
        ("DETR", "detr_sigmoid", "ab", r'for 2 labels; .*write decoder = "detr_softmax"$'),
        ("D-FINE", "detr_sigmoid", "abc", r"for 3 labels; name the 2 labels that it was trained"),
        ("ssd", "boxes", "ab", r'has 5 outputs; write decoder = "ssd"$'),
        ("D-FINE", "ssd", "ab", r'reads detection_boxes, .*; write decoder = "detr_sigmoid"$'),
        ("ssd", "end_to_end", "ab", r'5 outputs, and decoder "end_to_end" reads one; write deco'),
    ],
)  # fmt: skip
def test_a_card_that_does_not_fit_names_what_fits(
    tmp_path: Path, form: str, decoder: str, labels: str, reason: str
) -> None:
    file = written(tmp_path, constant_graph(FILES[form][1]), decoder, tuple(labels))
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(str(file))
    assert "\n" not in str(caught.value)


GENERIC: dict[str, tuple[dict[str, NDArray[np.generic]], list[str]]] = {
    "ssd": (
        {
            "Identity:0": ONE_EACH[..., 4], "Identity_1:0": np.array([2], np.float32),
            "Identity_2:0": ONE_EACH[..., 5] + 1, "Identity_3:0": ONE_EACH[..., [1, 0, 3, 2]] / 64,
        },
        ["Identity_3:0", "Identity:0", "Identity_2:0", "Identity_1:0"],
    ),
    "boxes": (
        {
            "out0": ONE_EACH[0, :2, :4].copy(), "out1": ONE_EACH[0, :2, 5].copy(),
            "out2": ONE_EACH[0, :2, 4].copy(), "out3": np.zeros(7, np.float32),
        },
        ["out0", "out2", "out1"],
    ),
    "detr_sigmoid": (
        {"out0": np.zeros((1, 9, 4), np.float32), "out1": LOGITS, "out2": FRACTIONS},
        ["out1", "out2"],
    ),
    "anchor_free": (
        {"proto": np.zeros((1, 32, 16, 16), np.float32), "Identity": HEADS}, ["Identity"],
    ),
}  # fmt: skip
"""Outputs without telling names, and the names in the order of the decoder."""


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("decoder", GENERIC)
def test_a_card_names_outputs_in_the_order_of_the_decoder(
    tmp_path: Path, decoder: str, runtime: str
) -> None:
    outputs, names = GENERIC[decoder]
    file = written(tmp_path, constant_graph(outputs), decoder)
    with pytest.raises(ModelError):
        load_model(str(file))
    card = file.with_suffix(".toml")
    plain = card.read_text()
    card.write_text(f"outputs = {names}\n{plain}".replace("'", '"'))
    np.testing.assert_allclose(perceived(file, runtime), SEEN, atol=1e-3)
    for wrong, reason in (
        (["nothing", *names[1:]], "outputs: 'nothing' is not the name of one output; those of own"),
        ([*names, names[0]], f'outputs has {len(names) + 1} names; decoder "{decoder}" reads'),
    ):
        card.write_text(f"outputs = {wrong}\n{plain}".replace("'", '"'))
        with pytest.raises(ModelError, match=reason):
            load_model(str(file))


def test_scores_and_classes_in_the_other_order_are_no_detections(tmp_path: Path) -> None:
    outputs: dict[str, NDArray[np.generic]] = {
        "out0": ONE_EACH[0, :2, :4].copy(), "out1": np.array([3, 0], np.float32),
        "out2": ONE_EACH[0, :2, 4].copy(),
    }  # fmt: skip
    file = written(tmp_path, constant_graph(outputs), "boxes", labels="abcd")
    with pytest.raises(ModelError, match=r"scores from 3 to 3, .* or outputs in its card"):
        perceived(file, "openvino")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_mask_of_padding_is_given_where_a_graph_takes_it(tmp_path: Path, engine: str) -> None:
    """As DETR is exported: here the share of pixels without padding scales the boxes."""
    outputs = {"logits": SOFTMAX, "fractions": FRACTIONS}
    mask = ("pixel_mask", TensorProto.INT64, ["n", "h", "w"])
    model = constant_graph(outputs, second=mask, size=("h", "w"))
    model.graph.node.extend([
        helper.make_node("Cast", ["pixel_mask"], ["visible"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["visible"], ["share"], axes=[1, 2]),
        helper.make_node("Mul", ["fractions", "share"], ["pred_boxes"]),
    ])  # fmt: skip
    model.graph.output[1].CopyFrom(
        helper.make_tensor_value_info("pred_boxes", TensorProto.FLOAT, ["n", 9, 4])
    )
    file = written(tmp_path, model, "detr_softmax")
    np.testing.assert_allclose(perceived(file, engine), SEEN, atol=1e-3)


def test_an_input_that_the_node_cannot_give_is_named(tmp_path: Path) -> None:
    second = ("scale_factor", TensorProto.FLOAT, [1, 2])
    file = written(tmp_path, constant_graph(FILES["end_to_end"][1], second=second), "end_to_end")
    with pytest.raises(ModelError, match=r"has 2 inputs \(scale_factor float32, images float32\)"):
        load_model(str(file))


# Without a card.

SAYS = {"names": "{0: 'cat', 1: 'dog'}", "stride": "32", "task": "detect", "imgsz": "[64, 64]"}
LETTERBOXED = [(60, (15 - 11) * 128 / 42, 120, (25 - 11) * 128 / 42, 0.9, 1), SEEN[1]]
"""SEEN in a letterbox: 64 x 42 px below 11 px of padding."""


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("form", ["anchor_free", "end_to_end", "yolov5"])
def test_a_file_that_says_enough_runs_without_a_card(
    tmp_path: Path, form: str, runtime: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = written(tmp_path, constant_graph(FILES[form][1], metadata=SAYS))
    np.testing.assert_allclose(perceived(file, runtime), LETTERBOXED, atol=1e-3)
    said = [line for line in caplog.messages if "has no model card" in line]
    assert len(said) == 1
    assert f"decoder {form} by its outputs" in said[0]
    assert "2 labels by its metadata" in said[0]
    assert "pad_value 114" in said[0]


@pytest.mark.parametrize("form", ["anchor_free", "yolov5 in float16"])
def test_a_free_size_is_the_exporters(tmp_path: Path, form: str) -> None:
    ((name, value),) = FILES[form][1].items()
    free = {name: ["n", "a", "b"]}
    model = constant_graph({name: value}, metadata=SAYS, shapes=free, size=("h", "w"))
    assert load_model(str(written(tmp_path, model))).preprocess.crop_px == (64, 64)
    del model.metadata_props[3]
    with pytest.raises(
        ModelError, match="is missing, and the size of its input is free; write"
    ) as e:
        load_model(str(written(tmp_path, model)))
    assert 'labels = ["cat", "dog"]' in str(e.value)
    assert "size = [640, 640] (or that of the training)" in str(e.value)


def test_a_free_size_hides_no_decoder(tmp_path: Path) -> None:
    """As YOLO is exported without the exporter's metadata: the cells follow the input's size."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, "h", "w"])
    nodes = [
        node
        for stride in (8, 16, 32)
        for node in (
            helper.make_node(
                "Conv", ["images", f"w{stride}"], [f"c{stride}"], strides=[stride] * 2,
            ),
            helper.make_node("Reshape", [f"c{stride}", "shape"], [f"r{stride}"]),
        )
    ]  # fmt: skip
    nodes.append(helper.make_node("Concat", ["r8", "r16", "r32"], ["output0"], axis=2))
    constants = [
        numpy_helper.from_array(np.zeros((6, 3, stride, stride), np.float32), f"w{stride}")
        for stride in (8, 16, 32)
    ]
    constants.append(numpy_helper.from_array(np.array([1, 6, -1]), "shape"))
    output = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, "n"])
    file = written(tmp_path, made(helper.make_graph(nodes, "g", [images], [output], constants)))
    with pytest.raises(ModelError, match='decoder = "anchor_free"') as e:
        load_model(str(file))
    assert 'labels = "labels.txt"' in str(e.value)
    written(tmp_path, made(helper.make_graph(nodes, "g", [images], [output], constants)),
            "anchor_free", labels="abcde")  # fmt: skip
    with pytest.raises(ModelError, match="name the 2 labels that the model was trained with"):
        perceived(file, "openvino")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "the file has no names of its classes"),
        (
            {"names": "['cat', 'dog', 'cow']"},
            r"recognises its outputs \[1, 6, 84\] with 3 class names",
        ),
        ({"names": "{0: 'cat', 0x" + "f" * 9999 + ": 'dog'}"}, "no names of its classes"),
        ({"names": "{'0': 'cat', '" + "9" * 9999 + "': 'dog'}"}, "no names of its classes"),
        ({**SAYS, "task": "a\nb"}, r'says task "a\\nb", and without'),
        ({"names": "{0: 'cat', 2: 'dog'}"}, "no names of its classes"),
        ({"names": "{0: 'cat', 1: 5}"}, "no names of its classes"),
        ({"names": "__import__('os').system('touch pwned')"}, "no names of its classes"),
        ({"names": "[" * 100_000}, "no names of its classes"),
        ({"names": "[" + "'a'," * 300_000 + "]"}, "no names of its classes"),
        ({"names": "['cat', 'd\\x1bog']"}, "names in its metadata: .* is no name"),
        ({**SAYS, "task": "classify"}, 'says task "classify", and without a card only "detect" ru'),
        (
            {**SAYS, "task": "pose"},
            'its exporter says task "pose", and no decoder reads that',
        ),
    ],
)
def test_a_file_that_says_too_little_asks_for_a_card(
    tmp_path: Path, metadata: dict[str, str], reason: str
) -> None:
    file = written(tmp_path, constant_graph(FILES["anchor_free"][1], metadata=metadata))
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(str(file))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not Path("pwned").exists()


def test_a_graph_of_grey_levels_may_normalise_them_itself(tmp_path: Path, in_process: Run) -> None:
    model = by_colour(TensorProto.UINT8, [1, "h", "w", 3])
    for key, value in {**SAYS, "names": "['a', 'b', 'c']"}.items():
        model.metadata_props.add(key=key, value=value)
    file = written(tmp_path, model)
    with pytest.raises(ModelError, match="its input is uint8, so it may normalise"):
        load_model(str(file))
    assert in_process("models", "card", file).returncode == 0
    assert "scale = 1.0  # guess" in file.with_suffix(".toml").read_text()
    assert load_model(str(file)).decoder == "anchor_free"


def test_a_damaged_file_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Metadata that are no text, a name that is none, and no output at all; stdout stays empty."""
    whole = constant_graph(FILES["anchor_free"][1], metadata=SAYS).SerializeToString()
    for old, new in ((b"detect", b"det\xb9ct"), (b"output0", b"outp\xb9t0")):
        (tmp_path / "own.onnx").write_bytes(whole.replace(old, new))
        with pytest.raises(ModelError, match=r"own\.onnx") as caught:
            load_model(str(tmp_path / "own.onnx"))
        assert "\n" not in str(caught.value)
    empty = onnx.load_model_from_string(whole)
    del empty.graph.output[:]
    with pytest.raises(ModelError, match=r"own\.onnx"):
        load_model(str(written(tmp_path, empty)))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "names",
    ["{0: 'cat', 1: 'dog'}", "['cat', 'dog']", '{"0": "cat", "1": "dog"}', "{1: 'dog', 0: 'cat'}"],
)
def test_names_are_read_as_exporters_write_them(tmp_path: Path, names: str) -> None:
    file = written(tmp_path, constant_graph(FILES["anchor_free"][1], metadata={"names": names}))
    assert load_model(str(file)).label_names == ("cat", "dog")


def test_a_card_that_a_link_has_lost_is_not_guessed(tmp_path: Path, in_process: Run) -> None:
    file = written(tmp_path, constant_graph(FILES["anchor_free"][1], metadata=SAYS))
    file.with_suffix(".toml").symlink_to(tmp_path / "gone.toml")
    with pytest.raises(ModelError, match=r"its model card .*own\.toml is missing; write one"):
        load_model(str(file))
    assert "is there already" in in_process("models", "card", file).stderr


def test_a_form_that_two_decoders_read_asks_for_a_card(tmp_path: Path) -> None:
    model = constant_graph({"output": rows(7, 84)}, metadata={"names": "['cat', 'dog']"})
    with pytest.raises(ModelError, match='models of decoder "yolox" differ in their input'):
        load_model(str(written(tmp_path, model)))
    both = constant_graph({"logits": LOGITS, "boxes": FRACTIONS})
    with pytest.raises(ModelError, match="fit the decoders detr_sigmoid and detr_softmax"):
        load_model(str(written(tmp_path, both)))


def test_the_command_begins_the_card_of_a_classifier(tmp_path: Path, in_process: Run) -> None:
    model = constant_graph({"logits": np.zeros((1, 7), np.float32)}, size=("h", "w"))
    file = written(tmp_path, model)
    assert in_process("models", "card", file).returncode == 0
    card = file.with_suffix(".toml").read_text()
    assert 'task = "classify"  # guess; the output must be logits, before the softmax' in card
    assert "7 names of the classes" in card
    assert "size = [224, 224]  # height, width; guess: the file leaves it free" in card
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    assert load_model(str(file)).task == "classify"


def test_the_command_writes_the_card_with_its_guesses(tmp_path: Path, in_process: Run) -> None:
    file = written(tmp_path, constant_graph(FILES["anchor_free"][1], metadata=SAYS))
    without = load_model(str(file))
    done = in_process("models", "card", file)
    assert (done.returncode, done.stdout) == (0, f"{file.with_suffix('.toml')} is written\n")
    card = file.with_suffix(".toml").read_text()
    assert 'decoder = "anchor_free"  # by its outputs [1, 6, 84]' in card
    assert 'resize = "letterbox"  # guess' in card
    loaded = load_model(str(file))
    assert (loaded.preprocess, loaded.label_names) == (without.preprocess, without.label_names)
    done = in_process("models", "card", file)
    assert done.returncode == 1
    assert "own.toml is there already" in done.stderr


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("anchor_free", 'labels = "labels.txt"  # write this file: 2 names of the classes'),
        ("ssd", 'labels = "labels.txt"  # write this file: the names of the classes'),
        ("ssd", "first_class = 1  # guess"),
        ("D-FINE", 'decoder = "detr_sigmoid"  # guess: or "detr_softmax"'),
    ],
)  # fmt: skip
def test_a_card_that_the_file_cannot_fill_loads_once_it_is(
    tmp_path: Path, in_process: Run, form: str, line: str
) -> None:
    file = written(tmp_path, constant_graph(FILES[form][1]))
    done = in_process("models", "card", file)
    assert done.returncode == 0, done.stderr
    names = f"write {tmp_path / 'labels.txt'}, the {'2 ' * (form != 'ssd')}names of the classes"
    assert f"own.toml is written; before it works, {names}, one a line" in done.stdout
    assert ("; check it: its outputs" in done.stdout) == (form == "D-FINE")
    assert line in file.with_suffix(".toml").read_text()
    with pytest.raises(ModelError, match=r"labels\.txt'?.* cannot be read"):
        load_model(str(file))
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert load_model(str(file)).decoder == FILES[form][0]


def test_doctor_finds_boxes_of_another_form(in_process: Run, tmp_path: Path) -> None:
    outputs = {
        "boxes": ONE_EACH[0, :2, :4] / 64, "scores": np.array([0.9, 0.4], np.float32),
        "labels": np.array([1, 0]),
    }  # fmt: skip
    file = written(tmp_path, constant_graph(outputs), "boxes")
    done = in_process("doctor", "--json", "--set", f"model.name={file}")
    findings = {item["what"]: item for item in map(json.loads, done.stdout.splitlines())}
    run = in_process("run", "--model", file, "--endpoint", f"ipc://{tmp_path}/labels")
    assert (done.returncode, run.returncode) == (1, 3)
    assert findings["model"]["verdict"] == "wrong"
    line = "; ".join(findings["model"][key] for key in ("found", "fix") if findings["model"][key])
    assert run.stderr.endswith(f"error: {line}\n")
