"""What a GPU computes, compared with the CPU. `scripts/gpu/check` runs these tests on a machine
that has little more than torch, so they import nothing of the other tests."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from node.config.schema import DetectConfig, ModelConfig
from node.image.frame import Image
from node.perception.models.model import Model
from node.perception.models.registry import load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.preprocess.gpu import GpuPreprocessor
from node.perception.runtimes.torch_runtime import TorchRuntime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
DETECTOR = os.environ.get("PN_DETECTOR", "")
"""A detector's ONNX file with its card beside it."""
RNG = np.random.default_rng(0)


def frames_of(count: int, size: tuple[int, int] = (720, 1280)) -> list[Image]:
    """Smooth pictures, all different."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    pictures = []
    for index in range(count):
        waves = [
            127 + 120 * np.sin(rows / (20 + 3 * index + 7 * c) + columns / (31 + 5 * index))
            for c in range(3)
        ]
        pictures.append(np.stack(waves, 2).astype(np.uint8))
    return pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def seeded(folder: Path, name: str, make: Callable[..., torch.nn.Module]) -> Path:
    torch.manual_seed(0)
    file = folder / f"{name}.pth"
    torch.save(make().state_dict(), file)
    return file


@pytest.fixture(scope="module")
def resnet(folder: Path) -> Model:
    return load_model("resnet18", seeded(folder, "resnet18", torchvision.models.resnet18))


SPECS = [
    PreprocessSpec(256, (224, 224), "bicubic", (0,) * 3, (1,) * 3),
    PreprocessSpec(0, (416, 416), "bilinear", (0,) * 3, (1,) * 3, "letterbox", pad_value=114),
    PreprocessSpec(0, (416, 416), "bilinear", (0,) * 3, (1,) * 3, "letterbox", antialias=False),
    PreprocessSpec(520, (520, 520), "bilinear", (0,) * 3, (1,) * 3, "short"),
    PreprocessSpec(0, (1, 1), "bilinear", (0,) * 3, (1,) * 3, "none"),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.fit} {spec.interpolation}")
def test_pixels_are_those_of_the_same_computation_on_the_cpu(spec: PreprocessSpec) -> None:
    """Each frame, also of those that a recorded graph computes: never the one before."""
    on_gpu, on_cpu = GpuPreprocessor(spec, "cuda:0"), GpuPreprocessor(spec, "cpu")
    for frame in [*frames_of(6), *frames_of(2, (480, 640)), *frames_of(4)]:
        noisy = frame ^ RNG.integers(0, 8, frame.shape, np.uint8)
        difference = (on_gpu(noisy).cpu().float() - on_cpu(noisy).float()).abs()
        assert difference.mean() < 0.02
        assert difference.max() <= 2


def test_frames_of_several_cameras_do_not_mix(resnet: Model) -> None:
    """Each camera uploads on a thread of its own, up to two frames ahead of their inference."""
    runtime = TorchRuntime(resnet, "cuda:0", "fp32")
    perceiver = Perceiver(resnet, runtime, top_k=3)
    frames = frames_of(24)
    expected = [perceiver.perceive(frame).labels for frame in frames]
    ready: dict[int, object] = {}

    def upload(camera: int) -> None:
        for index in range(camera, 24, 4):
            ready[index] = perceiver.prefetch(f"camera{camera}", frames[index])

    threads = [threading.Thread(target=upload, args=(camera,)) for camera in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first in range(0, 24, 4):
        indices = range(first, first + 4)
        results = perceiver.perceive_all([frames[i] for i in indices], [ready[i] for i in indices])
        for index, result in zip(indices, results, strict=True):
            assert [label.id for label in result.labels] == [
                label.id for label in expected[index]
            ], index


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_logits_are_those_of_the_cpu(resnet: Model, precision: str) -> None:
    pixels = RNG.integers(0, 256, (1, 224, 224, 3), np.uint8)
    (expected,) = TorchRuntime(resnet).infer(pixels)
    expected = expected.copy()
    (actual,) = TorchRuntime(resnet, "cuda:0", precision).infer(pixels)
    tolerance = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 5e-2}[precision]
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def test_the_compiled_network_gives_the_same(
    resnet: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    eager = TorchRuntime(resnet, "cuda:0", "fp16")
    pictures = RNG.integers(0, 256, (4, 1, 224, 224, 3), np.uint8)
    before = [eager.infer(pixels)[0].copy() for pixels in pictures]
    with caplog.at_level(logging.INFO):
        runtime = TorchRuntime(resnet, "cuda:0", "fp16", compiles=True)
    assert runtime.is_compiled, caplog.text
    for pixels, expected in zip(pictures, before, strict=True):
        actual = runtime.infer(pixels)[0]
        assert np.abs(actual - expected).max() <= 0.02 * np.abs(expected).max()


def test_a_segmentation_gives_the_areas_of_the_cpu(folder: Path) -> None:
    weights = seeded(
        folder,
        "lraspp",
        lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None
        ),
    )
    model = load_model("lraspp_mobilenet_v3_large", weights)
    pixels = RNG.integers(0, 256, (1, 520, 693, 3), np.uint8)
    (logits,) = TorchRuntime(model).infer(pixels)
    (classes,) = TorchRuntime(model, "cuda:0", "fp32").infer(pixels)
    assert classes.dtype == np.uint8
    assert (classes == logits.argmax(1)).mean() > 0.99


@pytest.mark.skipif(not Path(DETECTOR).is_file(), reason="PN_DETECTOR names no ONNX file")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_onnx_detector_finds_on_the_gpu_what_it_finds_on_the_cpu(precision: str) -> None:
    config = ModelConfig.model_validate(
        {"name": DETECTOR, "device": "cuda:0", "precision": precision}
    )
    detect = DetectConfig(score=0.3)
    on_gpu = build_perceiver(config, detect=detect)
    assert (on_gpu.info.device, on_gpu.info.runtime) == ("cuda:0", "torch")
    on_cpu = build_perceiver(
        ModelConfig.model_validate({"name": DETECTOR, "device": "cpu", "runtime": "onnxruntime"}),
        detect=detect,
    )
    found = 0
    for picture in _photographs():
        expected = on_cpu.perceive(picture).detections
        actual = on_gpu.perceive(picture).detections
        for detection in expected:
            if detection.score < 0.35:
                continue  # near the threshold one may lack it
            found += 1
            box = detection.box
            assert any(
                other.name == detection.name
                and max(abs(other.box.cx - box.cx), abs(other.box.cy - box.cy),
                        abs(other.box.w - box.w), abs(other.box.h - box.h)) <= 1
                for other in actual
            ), (detection, actual)  # fmt: skip
    assert found


def _photographs() -> list[NDArray[np.uint8]]:
    skimage = pytest.importorskip("skimage")
    pictures = (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
    return [np.ascontiguousarray(picture[:, :, ::-1]) for picture in pictures]
