"""Detection: boxes in pixels of the captured frame, from real detectors and from hostile ones."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage
import torch
import torchvision
from conftest import SHARED, Run
from onnx import TensorProto, helper

from node.capture.sources.image_files import read_image
from node.config.schema import DetectConfig, ModelConfig
from node.errors import FrameError, ModelError
from node.perception.models.registry import load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.tasks.decoders.registry import DECODERS
from node.perception.tasks.detect import MOST_CANDIDATES, Detect
from perception_client.messages.kinds import Box, Detection

PICTURES = Path(skimage.__file__).parent / "data"
YOLOX = SHARED / "models" / "yolox_nano.onnx"
SCENES = SHARED / "scenes"
needs_yolox = pytest.mark.skipif(not YOLOX.is_file(), reason=f"{YOLOX} is not here")

SPEC = PreprocessSpec(
    416, (416, 416), "bilinear", (0, 0, 0), (1, 1, 1), fit="letterbox", pad_anchor="top-left"
)


@needs_yolox
@pytest.mark.parametrize(
    ("runtime", "precision", "share"),
    [("openvino", "fp32", 0.98), ("onnxruntime", "fp32", 0.98), ("openvino", "bf16", 0.95)],
)
def test_yolox_finds_what_the_reference_finds(runtime: str, precision: str, share: float) -> None:
    config = ModelConfig.model_validate(
        {"name": str(YOLOX), "runtime": runtime, "precision": precision}
    )
    try:
        perceiver = build_perceiver(config, detect=DetectConfig(score=0.25, iou=0.45))
    except ModelError as error:
        pytest.skip(str(error))
    reference = json.loads((SCENES / "reference.json").read_text())
    matched, expected, extra = 0, 0, 0
    for file, objects in reference.items():
        got = perceiver.perceive(read_image(SCENES / file)).detections
        sure = [thing for thing in objects if thing["score"] >= 0.35]
        expected += len(sure)
        matched += sum(any(_same(thing, detection) for detection in got) for thing in sure)
        extra += sum(
            detection.score >= 0.35 and not any(_same(thing, detection) for thing in objects)
            for detection in got
        )
    assert matched / expected >= share, f"{matched} of {expected}"
    assert extra / expected <= (0.02 if precision == "fp32" else 0.05), f"{extra} beside {expected}"


def _same(thing: dict, detection: Detection) -> bool:
    return thing["id"] == detection.id and detection.box.iou(Box(**thing["box"])) >= 0.9


@needs_yolox
def test_label_prints_what_it_found(in_process: Run) -> None:
    done = in_process("label", str(PICTURES / "coffee.png"), "--model", str(YOLOX))
    assert done.returncode == 0, done.stderr
    assert "cup 0." in done.stdout


@needs_yolox
def test_a_message_carries_boxes_in_pixels_of_the_frame(in_process: Run) -> None:
    done = in_process(
        "label", str(PICTURES / "astronaut.png"), "--model", str(YOLOX), "--jsonl", "-",
        "--set", "detect.classes=['person']",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (message,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (message["model"]["task"], message["labels"]) == ("detect", [])
    (person,) = message["detections"]
    assert (person["id"], person["name"], person["track"]) == (0, "person", None)
    assert person["score"] == pytest.approx(0.93, abs=0.02)
    box, image = person["box"], message["image"]
    assert 0 <= box["cx"] - box["w"] / 2 < box["cx"] + box["w"] / 2 <= image["width"]
    assert box["h"] > image["height"] / 2


@needs_yolox
def test_a_class_that_the_model_has_not_is_one_line(in_process: Run) -> None:
    done = in_process(
        "label", str(PICTURES / "coffee.png"), "--model", str(YOLOX),
        "--set", "detect.class_scores.unicorn=0.5",
    )  # fmt: skip
    assert done.returncode == 2
    assert "detect.class_scores: 'unicorn' is no class of this model" in done.stderr


@pytest.mark.parametrize(
    "name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"]
)
def test_torchvisions_detectors_give_what_torchvision_gives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    if name.startswith("fasterrcnn"):  # seeded weights see background only: let them see more
        torch.nn.init.constant_(plain.roi_heads.box_predictor.cls_score.bias[5:20], 3.0)
    file = tmp_path / "weights.pth"
    torch.save(plain.state_dict(), file)
    image = read_image(PICTURES / "coffee.png")
    detect = DetectConfig(score=0.001, max_detections=1000)
    perceiver = build_perceiver(ModelConfig(name=name, weights=file), detect=detect)
    got = perceiver.perceive(image).detections
    rgb = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        (expected,) = plain([rgb])
    assert perceiver.info.task == "detect"
    assert len(got) == len(expected["scores"]) > 10
    for detection, box, score, label in zip(
        got, expected["boxes"].tolist(), expected["scores"].tolist(), expected["labels"].tolist(),
        strict=True,
    ):  # fmt: skip
        x1, y1, x2, y2 = box
        mine = (detection.box.cx, detection.box.cy, detection.box.w, detection.box.h)
        assert mine == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), abs=0.1)
        assert (detection.id, detection.score) == (label, pytest.approx(score, abs=1e-5))


@pytest.fixture
def three_outputs(tmp_path: Path) -> Path:
    """An exported detector with the outputs in torchvision's order, which always sees two boxes."""
    boxes = np.array([[10, 20, 30, 60], [0, 0, 64, 64]], np.float32)
    labels, scores = np.array([1, 0], np.int64), np.array([0.9, 0.4], np.float32)
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, 64, 64])
    nodes = [helper.make_node("ReduceMin", ["picture"], ["least"], keepdims=0)]
    nodes.append(helper.make_node("Mul", ["least", "zero"], ["nothing"]))
    outputs = []
    for name, value in (("boxes", boxes), ("labels", labels), ("scores", scores)):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(helper.make_node("Cast", ["nothing"], [f"{name}_zero"], to=kind))
        nodes.append(helper.make_node("Add", [f"{name}_all", f"{name}_zero"], [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, value.shape))
    constants = [
        onnx.numpy_helper.from_array(value, f"{name}_all")
        for name, value in (("boxes", boxes), ("labels", labels), ("scores", scores))
    ]
    constants.append(onnx.numpy_helper.from_array(np.float32(0), "zero"))
    graph = helper.make_graph(nodes, "three", [picture], outputs, constants)
    file = tmp_path / "three.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    file.with_suffix(".toml").write_text(
        'name = "three"\ntask = "detect"\ndecoder = "boxes"\nlabels = ["cat", "dog"]\n'
        '[input]\nsize = [64, 64]\nresize = "stretch"\n'
    )
    return file


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_boxes_scores_classes_are_told_apart_by_name(three_outputs: Path, runtime: str) -> None:
    perceiver = _built(three_outputs, runtime)
    dog, cat = perceiver.perceive(np.zeros((128, 192, 3), np.uint8)).detections
    assert (dog.name, dog.score) == ("dog", pytest.approx(0.9))
    assert (dog.box.cx, dog.box.cy, dog.box.w, dog.box.h) == pytest.approx((60, 80, 60, 80))
    assert (cat.name, cat.box.w, cat.box.h) == ("cat", 192, 128)


def test_a_label_list_that_is_too_short_ends_at_the_start(three_outputs: Path) -> None:
    card = three_outputs.with_suffix(".toml")
    card.write_text(card.read_text().replace('["cat", "dog"]', '["cat"]'))
    with pytest.raises(ModelError, match="class 1 of 1 labels"):
        _built(three_outputs, "openvino")


def _built(file: Path, runtime: str) -> Perceiver:
    return build_perceiver(
        ModelConfig.model_validate({"name": str(file), "runtime": runtime, "precision": "fp32"})
    )


@needs_yolox
def test_a_card_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    card = YOLOX.with_suffix(".toml").read_text()
    file = tmp_path / "nano.onnx"
    file.symlink_to(YOLOX)
    file.with_suffix(".toml").write_text(card.replace('"coco.names"', '["person"]'))
    with pytest.raises(
        ModelError, match=r"of 80 classes, and its card has 1 label; name the 80 lab"
    ):
        load_model(str(file))


def _outputs(rows: int) -> np.ndarray:
    raw = np.zeros((1, 3549, 7), np.float32)
    raw[0, :rows] = (0.5, 0.5, 2.0, 2.0, 0.9, 0.1, 0.8)
    return raw


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 2, 4, 6])
def test_numbers_that_are_none_cost_the_frame(bad: float, column: int) -> None:
    raw = _outputs(3)
    raw[0, 1, column] = bad
    with pytest.raises(FrameError, match="not finite"):
        _detect().read((raw,), 0, (416, 416))


def test_zero_boxes_are_nothing_seen_and_all_cells_at_once_stay_bounded() -> None:
    assert _detect().read((_outputs(0),), 0, (416, 416)).detections == ()
    assert len(_detect().read((_outputs(3549),), 0, (416, 416)).detections) == 100


def test_a_million_boxes_stay_bounded() -> None:
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 400, (1_000_000, 2)).astype(np.float32)
    boxes = np.concatenate((corners, corners + 10), axis=1)
    outputs = (boxes, np.full(len(boxes), 0.9, np.float32), np.ones(len(boxes), np.float32))
    task = Detect(("a", "b"), "boxes", SPEC, DetectConfig(max_detections=1000))
    assert len(task.read(outputs, 0, (416, 416)).detections) == 1000 < MOST_CANDIDATES


def test_boxes_outside_the_picture_are_cut_at_its_edge_or_left_out() -> None:
    boxes = np.array([[-50, -50, 100, 100], [500, 500, 600, 600]], np.float32)
    outputs = (boxes, np.full(2, 0.9, np.float32), np.zeros(2, np.float32))
    task = Detect(("a",), "boxes", SPEC, DetectConfig())
    (only,) = task.read(outputs, 0, (416, 416)).detections
    assert only.box == Box(cx=50, cy=50, w=100, h=100)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[30, 30, 10, 10]], "end before they begin"),
        ([[0.1, 0.1, 0.5, 0.5]], "between 0 and 1"),
    ],
)
def test_boxes_in_another_form_are_no_boxes(boxes: list[list[float]], message: str) -> None:
    outputs = (np.array(boxes, np.float32), np.ones(1, np.float32), np.zeros(1, np.float32))
    with pytest.raises(FrameError, match=message):
        Detect(("a",), "boxes", SPEC, DetectConfig()).read(outputs, 0, (416, 416))


def test_thresholds_and_sizes_leave_out_what_they_say() -> None:
    def names(**settings: object) -> list[str]:
        config = DetectConfig.model_validate(settings)
        prediction = Detect(("a", "b"), "yolox", SPEC, config).read((_outputs(1),), 0, (416, 416))
        return [detection.name for detection in prediction.detections]

    assert names() == ["b"]
    assert names(class_scores={"b": 0.75}) == []
    assert names(class_scores={"a": 0.9}) == ["b"]
    assert names(classes=["a"]) == []
    assert names(min_box_px=200.0) == []


def _detect() -> Detect:
    return Detect(("a", "b"), "yolox", SPEC, DetectConfig())


def test_decoding_is_that_of_a_plain_loop() -> None:
    raw = np.random.default_rng(1).uniform(0, 1, (1, 3549, 7)).astype(np.float32)
    got = DECODERS["yolox"].decode((raw,), 0, 0.6, 2, (416, 416))
    expected = []
    index = 0
    for stride in (8, 16, 32):
        for row in range(416 // stride):
            for column in range(416 // stride):
                x, y, w, h, objectness, *scores = raw[0, index].astype(float)
                index += 1
                if objectness * max(scores) < 0.6:
                    continue
                cx, cy = (x + column) * stride, (y + row) * stride
                half_w, half_h = np.exp(w) * stride / 2, np.exp(h) * stride / 2
                expected.append((cx - half_w, cy - half_h, cx + half_w, cy + half_h))
    np.testing.assert_allclose(got.boxes, expected, rtol=1e-4, atol=1e-3)
