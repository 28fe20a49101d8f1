"""The second model: what it makes of each detection's crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import skimage
from conftest import SHARED, Run

from node.capture.sources.image_files import read_image
from node.config.schema import CropsConfig, ModelConfig
from node.errors import ModelError
from node.image.frame import Image
from node.perception.perceiver import build_perceiver
from node.perception.tasks.second_stage import SecondStage
from perception_client.messages.kinds import Box, Detection, Label, ModelInfo

PICTURES = Path(skimage.__file__).parent / "data"
YOLOX = SHARED / "models" / "yolox_nano.onnx"
needs_yolox = pytest.mark.skipif(not YOLOX.exists(), reason=f"{YOLOX} is not here")


@needs_yolox
def test_each_detection_gets_what_the_second_model_makes_of_its_crop() -> None:
    crops = CropsConfig(model="efficientnet_lite0", top_k=2)
    perceiver = build_perceiver(ModelConfig(name=str(YOLOX)), crops=crops)
    for picture, thing, label in (
        ("coffee.png", "cup", "espresso"),
        ("chelsea.png", "cat", "tiger cat"),
        ("motorcycle_left.png", "motorbike", "moped"),
    ):
        seen = perceiver.perceive(read_image(PICTURES / picture))
        best = next(detection for detection in seen.detections if detection.name == thing)
        assert best.labels[0].name == label
        assert len(best.labels) == 2
        assert all(len(detection.labels) == 2 for detection in seen.detections[:8])
    assert perceiver.crop_info is not None
    assert perceiver.crop_info.name == "efficientnet_lite0"
    assert len(perceiver.crop_names) == 1000


@needs_yolox
def test_settings_that_do_not_fit_are_one_line_at_the_start(in_process: Run) -> None:
    picture = PICTURES / "coffee.png"
    result = in_process("label", picture, "--set", "crops.model=efficientnet_lite0")
    assert result.returncode == 2
    assert "finds no objects to look at; take a detector as model.name" in result.stderr
    result = in_process("label", picture, "--model", YOLOX, "--set", f"crops.model={YOLOX}")
    assert result.returncode == 2
    assert 'task "detect"; crops need a classifier' in result.stderr
    with pytest.raises(ModelError, match=r"crops\.classes: 'unicorn' is no class of"):
        SecondStage(Recorder(), CropsConfig(classes=("unicorn",)), ("cat",))


@dataclass(frozen=True)
class Answer:
    labels: tuple[Label, ...]
    degraded: tuple[str, ...] = ()


class Recorder:
    """Labels a crop with its size, and keeps the sizes of batches."""

    names = ("size",)
    info = ModelInfo("recorder", "classify", "none", "fp32", "cpu", "")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def can_batch(self, size: int) -> bool:
        return True

    def perceive_all(self, images: Sequence[Image]) -> list[Answer]:
        self.batches.append(len(images))
        return [Answer((Label(0, f"{image.shape[1]}x{image.shape[0]}", 1.0),)) for image in images]


def thing(cx: float, cy: float, w: float, h: float, name: str = "cat") -> Detection:
    return Detection(id=0, name=name, score=0.9, box=Box(cx, cy, w, h))


def test_crops_are_squares_around_the_boxes_cut_at_the_edges() -> None:
    crops = SecondStage(Recorder(), CropsConfig(margin=0.5), ("cat",))
    image = np.zeros((100, 200, 3), np.uint8)
    boxes = (thing(100, 50, 20, 40), thing(0, 50, 40, 20), thing(199.9, 99.9, 0.01, 0.01))
    labelled = crops.label(image, boxes)
    assert [detection.labels[0].name for detection in labelled] == ["60x60", "30x60", "1x1"]


def test_only_the_best_of_the_wanted_classes_are_looked_at_in_batches_of_few_sizes() -> None:
    recorder = Recorder()
    config = CropsConfig(max_crops=11, classes=("cat",))
    crops = SecondStage(recorder, config, ("cat", "dog"))
    image = np.zeros((100, 200, 3), np.uint8)
    boxes = [thing(50, 50, 10, 10), thing(50, 50, 10, 10, "dog")] * 12
    labelled = crops.label(image, tuple(boxes))
    assert [bool(detection.labels) for detection in labelled] == [True, False] * 11 + [False, False]
    assert recorder.batches == [8, 4]
    assert crops.label(image, ()) == ()
