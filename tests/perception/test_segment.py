"""Segmentation: areas and masks, against torchvision's own network and transforms."""

import functools
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import torchvision
from conftest import Run
from PIL import Image as PilImage

from node.capture.sources.image_files import read_image
from node.config.schema import ModelConfig, SegmentConfig
from node.errors import FrameError, ModelError
from node.perception.perceiver import build_perceiver
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.tasks.region import RegionOfInterest
from node.perception.tasks.segment import Segment
from perception_client.messages.codec import decode, encode
from perception_client.messages.kinds import Box, LabelsMessage, Mask, Status

PICTURES = Path(skimage.__file__).parent / "data"
NAME = "lraspp_mobilenet_v3_large"
SQUARE = PreprocessSpec(
    resize_short_px=4,
    crop_px=(4, 4),
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="stretch",
)


def transformed(picture: Path) -> torch.Tensor:
    transforms = torchvision.models.get_model_weights(NAME).DEFAULT.transforms()
    return transforms(PilImage.open(picture).convert("RGB"))


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = torchvision.models.get_model(NAME, weights=None, weights_backbone=None)
    # With the statistics of a real picture no signal fades on its way through random layers.
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.inference_mode():
        network.train()(torch.stack([transformed(PICTURES / "chelsea.png")] * 2))
        answer = network.eval()(transformed(PICTURES / "chelsea.png")[None])["out"]
        network.classifier.high_classifier.bias -= answer.mean((0, 2, 3))
    file = tmp_path_factory.mktemp("weights") / "lraspp.pth"
    torch.save(network.state_dict(), file)
    return file


@functools.cache
def reference(file: Path, picture: Path) -> np.ndarray:
    """[h, w] class of each pixel as torchvision's own documentation computes it."""
    network = torchvision.models.get_model(NAME, weights=None, weights_backbone=None)
    network.load_state_dict(torch.load(file, weights_only=True))
    with torch.inference_mode():
        return network.eval()(transformed(picture)[None])["out"][0].argmax(0).numpy()


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_areas_are_those_of_torchvisions_own_network(seeded: Path, runtime: str) -> None:
    config = ModelConfig.model_validate(
        {"name": NAME, "weights": seeded, "runtime": runtime, "precision": "fp32"}
    )
    perceiver = build_perceiver(config, segment=SegmentConfig(min_fraction=0.0))
    picture = PICTURES / "chelsea.png"
    ids = reference(seeded, picture)
    expected = np.bincount(ids.ravel(), minlength=21) / ids.size
    assert (expected > 0.02).sum() > 2
    got = np.zeros(21)
    for area in perceiver.perceive(read_image(picture)).seen.areas:
        got[area.id] = area.fraction
    assert np.abs(got - expected).max() < 0.002
    assert got.sum() == pytest.approx(1.0)


def test_a_mask_is_the_class_of_each_pixel(seeded: Path) -> None:
    config = ModelConfig(name=NAME, weights=seeded, runtime="torch")
    segment = SegmentConfig(min_fraction=0.0, masks=True, mask_px=512)
    picture = PICTURES / "chelsea.png"  # 451 x 300, so its input is 781 x 520
    ids = reference(seeded, picture)
    seen = build_perceiver(config, segment=segment).perceive(read_image(picture)).seen
    agree = total = 0
    for mask in seen.masks:
        assert (mask.width, mask.height, mask.box) == (512, 341, Box(225.5, 150.0, 451.0, 300.0))
        for x, y in np.random.default_rng(0).uniform((0, 0), (451, 300), (300, 2)):
            inside = ids[int(y / 300 * ids.shape[0]), int(x / 451 * ids.shape[1])] == mask.id
            agree += mask.contains(x, y) == inside
            total += 1
    assert agree / total > 0.98
    cells = sum(np.frombuffer(mask.cells(), np.uint8).astype(int) for mask in seen.masks)
    assert (cells == 1).all()  # each pixel has one class


def test_label_tells_the_areas_and_a_message_carries_them(seeded: Path, in_process: Run) -> None:
    settings = ("--set", f"model.weights={seeded}", "--set", "model.runtime=torch")
    result = in_process("label", PICTURES / "chelsea.png", "--model", NAME, *settings)
    assert result.returncode == 0, result.stderr
    assert "%" in result.stdout
    result = in_process(
        "label", PICTURES / "chelsea.png", "--model", NAME, *settings, "--set",
        "segment.masks=true", "--set", "segment.mask_px=16", "--jsonl", "-",
    )  # fmt: skip
    assert '"counts": [' in result.stdout
    bad = in_process("label", PICTURES / "chelsea.png", "--model", NAME, *settings, "--set",
                     'segment.classes=["unicorn"]')  # fmt: skip
    assert bad.returncode == 2
    assert "segment.classes: 'unicorn' is no class of this model" in bad.stderr


def logits(ids: list[list[int]], classes: int) -> np.ndarray:
    return (np.arange(classes)[:, None, None] == np.array(ids)).astype(np.float32)[None]


def test_small_classes_and_unwanted_ones_are_left_out() -> None:
    answer = logits([[0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]], 3)
    config = SegmentConfig(min_fraction=0.1, masks=True)
    seen = Segment(("none", "cat", "dog"), SQUARE, config).read((answer,), 0, (8, 8))
    assert [(area.name, area.fraction) for area in seen.areas] == [
        ("none", 9 / 16),
        ("dog", 6 / 16),
    ]
    assert seen.masks[1] == Mask(2, "dog", 4, 4, Box(4, 4, 8, 8), (9, 3, 1, 3))
    config = SegmentConfig(classes=("dog",))
    seen = Segment(("none", "cat", "dog"), SQUARE, config).read((answer,), 0, (8, 8))
    assert [area.name for area in seen.areas] == ["dog"]
    message = LabelsMessage(
        node="n", camera="c", session="s", seq=0, status=Status.OK, published_ns=0, areas=seen.areas
    )
    assert decode(encode(message)) == message
    assert message.area("dog") == 6 / 16
    assert message.area("cat") == 0
    assert message.shows("dog", 0.3)
    assert not message.shows("cat")


def test_a_letterboxed_picture_is_told_without_its_padding() -> None:
    spec = PreprocessSpec(
        resize_short_px=4, crop_px=(4, 4), interpolation="bilinear", mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0), fit="letterbox", pad_anchor="top-left",
    )  # fmt: skip
    answer = logits([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], 2)
    segment = Segment(("none", "cat"), spec, SegmentConfig(masks=True))
    seen = segment.read((answer,), 0, (10, 20))
    assert [(area.name, area.fraction) for area in seen.areas] == [("cat", 1.0)]
    assert seen.masks[0] == Mask(1, "cat", 4, 2, Box(10, 5, 20, 10), (0, 8))
    region = RegionOfInterest(((0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1)), crop=True)
    region.cut(np.zeros((20, 40, 3), np.uint8))
    (moved,) = region.placed(seen).masks
    assert (moved.box.cx, moved.box.cy) == (30, 15)
    assert moved.contains(39, 19)
    assert not moved.contains(19, 19)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (np.full((1, 2, 4, 4), np.nan, np.float32), "not finite"),
        (np.zeros((1, 3, 4, 4), np.float32), "for 2 label names"),
        (np.zeros((1, 2), np.float32), "for 2 label names"),
    ],
)
def test_an_answer_that_cannot_be_believed_is_an_error(answer: np.ndarray, problem: str) -> None:
    segment = Segment(("none", "cat"), SQUARE, SegmentConfig())
    with pytest.raises(FrameError, match=problem):
        segment.read((answer,), 0, (8, 8))


def test_a_model_file_of_the_users_own(tmp_path: Path) -> None:
    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.mean(1, keepdim=True)
            return torch.cat([0.5 - bright, bright - 0.5], 1)

    file = tmp_path / "halves.onnx"
    torch.onnx.export(
        Halves(), (torch.zeros(1, 3, 8, 8),), str(file), dynamo=False,
        dynamic_axes={"x": {0: "n"}}, input_names=["x"], output_names=["y"],
    )  # fmt: skip
    card = 'name = "halves"\ntask = "segment"\nlabels = ["dark", "bright"]\n'
    card += '[input]\nsize = [8, 8]\nresize = "stretch"\n'
    file.with_suffix(".toml").write_text(card)
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 6:] = 255
    seen = build_perceiver(ModelConfig(name=str(file))).perceive(image).seen
    assert [(area.name, area.fraction) for area in seen.areas] == [("dark", 0.75), ("bright", 0.25)]
    file.with_suffix(".toml").write_text(card.replace('"dark", ', ""))
    with pytest.raises(ModelError, match=r"its card has 1 labels, which makes \[n, 1, height"):
        build_perceiver(ModelConfig(name=str(file)))
