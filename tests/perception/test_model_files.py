"""Model files of the user's own give the labels of the model that they were made from, and cards
with mistakes are explained in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import skimage
import torch
from conftest import Run
from PIL import Image as PilImage

from node.capture.sources.image_files import read_image
from node.config.schema import ModelConfig
from node.errors import ModelError
from node.perception.models.registry import load_model
from node.perception.perceiver import build_perceiver
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.preprocess.gpu import GpuPreprocessor
from node.perception.preprocess.normalise import Normalise
from node.perception.preprocess.reference import reference_transform
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.select import build_runtime

PICTURES = Path(skimage.__file__).parent / "data"
CARD = """
name = "mine"
task = "classify"
labels = "labels.txt"

[input]
size = [224, 224]
resize_short = 256
interpolation = "bicubic"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model in each format, with one card and its labels."""
    folder = tmp_path_factory.mktemp("models")
    model = load_model("efficientnet_lite0")
    picture = torch.zeros(1, 3, 224, 224)
    torch.onnx.export(
        model.network, (picture,), str(folder / "mine.onnx"), input_names=["x"],
        output_names=["y"], dynamic_axes={"x": {0: "b"}, "y": {0: "b"}}, dynamo=False,
    )  # fmt: skip
    ov.save_model(
        ov.Core().read_model(folder / "mine.onnx"), folder / "mine.xml", compress_to_fp16=False
    )
    torch.export.save(torch.export.export(model.network, (picture,)), folder / "mine.pt2")
    (folder / "mine.toml").write_text(CARD)
    (folder / "labels.txt").write_text("\n".join(model.label_names))
    return folder


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("mine.onnx", "onnxruntime"),
        ("mine.onnx", "openvino"),
        ("mine.xml", "openvino"),
        ("mine.pt2", "torch"),
    ],
)
def test_a_model_file_gives_the_logits_of_its_model(files: Path, name: str, runtime: str) -> None:
    original = load_model("efficientnet_lite0")
    pixels = Preprocessor(original.preprocess)(read_image(PICTURES / "coffee.png"))
    expected = build_runtime(original, ModelConfig(runtime="torch")).infer(pixels)[0]
    own = load_model(str(files / name))
    assert own.preprocess == original.preprocess
    got = build_runtime(own, ModelConfig.model_validate({"runtime": runtime})).infer(pixels)[0]
    np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["mine.onnx", "mine.xml", "mine.pt2"])
def test_auto_runs_every_kind_of_model_file(files: Path, name: str) -> None:
    perceiver = build_perceiver(ModelConfig(name=str(files / name)))
    assert perceiver.info.name == "mine"
    assert len(perceiver.info.digest) == 64
    seen = perceiver.perceive(read_image(PICTURES / "coffee.png"))
    assert seen.labels[0].name == "espresso"


def test_the_command_labels_with_a_model_file(files: Path, in_process: Run) -> None:
    done = in_process("label", PICTURES / "coffee.png", "--model", files / "mine.onnx")
    assert done.returncode == 0, done.stderr
    assert "espresso" in done.stdout


def rewritten(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        card = folder / "mine.toml"
        text = card.read_text()
        assert old in text
        card.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda folder: (folder / "mine.toml").unlink(),
            "its model card .* is missing, and only detectors run without one; wri",
        ),
        (
            lambda folder: (folder / "labels.txt").unlink(),
            "'labels.txt' cannot be read beside it; name a text",
        ),
        (rewritten('"classify"', '"detect"'), "decoder is missing; name the one that fits"),
        (
            rewritten('"classify"', '"segment"'),
            "the task of its card reads .n, 1000, height, width.",
        ),
        (rewritten('"bicubic"', '"cubic"'), "input.interpolation = 'cubic': should be 'bilinear'"),
        (rewritten("std", "sdt"), "input.sdt: unknown key; did you mean std"),
        (rewritten("size = [224, 224]\n", ""), r"input.size is missing; write size = \[224, 224\]"),
        (rewritten("[224, 224]", "[224]"), "input.size has too few or too many values"),
        (rewritten('"labels.txt"', "3"), "labels are neither a file nor a list of names; write"),
        (rewritten("size =", "sise ="), "input.sise: unknown key; did you mean size"),
        (rewritten('task = "classify"\n', ""), 'task is missing; write task = "classify" .or'),
        (rewritten("task =", 'decoder = "softmx"\ntask ='), 'did you mean "softmax"'),
        (rewritten("[224, 224]", "[224, 220]"), r"its card says \[n, 3, 224, 220\]; correct input"),
        (rewritten("std = [0.5, 0.5, 0.5]", "std = [0.5, 0, 0.5]"), "input.std.1 = 0: .*greater"),
        (
            rewritten('"labels.txt"', '["a", "b"]'),
            "its card has 2 labels, .*: name the 1000 labels",
        ),
        (rewritten("task =", "task"), "is not valid TOML"),
        (lambda folder: (folder / "mine.onnx").write_bytes(b"x"), "mine.onnx cannot be read"),
        (lambda folder: (folder / "mine.onnx").unlink(), "there is no such file"),
    ],
)
def test_a_mistake_is_one_line(
    files: Path, tmp_path: Path, change: Callable[[Path], None], reason: str
) -> None:
    for name in ("mine.toml", "labels.txt"):
        (tmp_path / name).write_text((files / name).read_text())
    (tmp_path / "mine.onnx").symlink_to(files / "mine.onnx")
    if reason.startswith("mine.onnx"):
        (tmp_path / "mine.onnx").unlink()
    change(tmp_path)
    with pytest.raises(ModelError, match=reason) as raised:
        load_model(str(tmp_path / "mine.onnx"))
    assert "\n" not in str(raised.value)


def test_a_runtime_that_cannot_run_a_file_says_which_can(files: Path) -> None:
    ir = load_model(str(files / "mine.xml"))
    with pytest.raises(ModelError, match=r'write model\.runtime = "openvino"'):
        build_runtime(ir, ModelConfig(runtime="onnxruntime"))
    with pytest.raises(
        ModelError, match=r'torch cannot run .*mine\.xml; write model\.runtime = "auto"'
    ):
        build_runtime(ir, ModelConfig(runtime="torch"))
    with pytest.raises(ModelError, match="a model file has its own weights"):
        load_model(str(files / "mine.onnx"), files / "labels.txt")


BASE = PreprocessSpec(256, (224, 192), "bilinear", (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (100, 60), (224, 192), (640, 480)])
@pytest.mark.parametrize(
    "spec",
    [
        replace(BASE, fit="stretch"),
        replace(BASE, fit="stretch", interpolation="bicubic", color="bgr", scale=1.0),
        replace(BASE, fit="letterbox", pad_value=114, pad_anchor="top-left"),
        replace(BASE, fit="letterbox", pad_value=114, color="bgr"),
    ],
    ids=["stretch", "stretch bgr", "letterbox top-left", "letterbox center bgr"],
)
def test_every_fit_is_its_reference(spec: PreprocessSpec, size: tuple[int, int]) -> None:
    photo = PilImage.open(PICTURES / "coffee.png").convert("RGB").resize((size[1], size[0]))
    image = np.ascontiguousarray(np.asarray(photo)[:, :, ::-1])
    expected = reference_transform(spec)(photo)
    grey_levels = torch.tensor(spec.std).view(3, 1, 1) / spec.scale
    for preprocess in (Preprocessor(spec), GpuPreprocessor(spec, "cpu")):
        got = Normalise(spec)(torch.as_tensor(preprocess(image)))[0]
        assert got.shape == expected.shape
        assert ((got - expected).abs() * grey_levels).mean() < 0.3
