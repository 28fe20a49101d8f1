"""Preprocessing against torchvision's own transform of a PIL image."""

import random
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from node.errors import FrameError
from node.perception.perceiver import Perceiver
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.preprocess.normalise import Normalise
from node.perception.preprocess.prefetch import Prefetcher
from node.perception.preprocess.reference import reference_transform
from node.perception.preprocess.resize import Preprocessor

PHOTOS = Path(skimage.__file__).parent / "data"
MAX_MEAN_DIFFERENCE = 0.1
KNOWN_SIZES = [
    (720, 1280), (1080, 1920), (1920, 1080), (480, 640), (640, 480), (240, 320), (600, 800),
    (224, 224), (256, 256), (300, 300), (250, 249), (249, 250), (255, 640), (1, 1), (1, 50),
    (50, 1), (3, 900), (900, 3), (1088, 502), (947, 257), (257, 947),
]  # fmt: skip
SPECS = {
    "lite0": PreprocessSpec(256, (224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3),
    "resnet": PreprocessSpec(256, (224, 224), "bilinear", (0.485, 0.456, 0.406), (0.2, 0.2, 0.3)),
    "no crop": PreprocessSpec(224, (224, 224), "bicubic", (0.5,) * 3, (0.5,) * 3),
    "small crop": PreprocessSpec(256, (100, 180), "bilinear", (0.5,) * 3, (0.5,) * 3),
    "narrow rim": PreprocessSpec(384, (380, 380), "bicubic", (0.5,) * 3, (0.5,) * 3),
    "padded": PreprocessSpec(200, (225, 224), "bilinear", (0.5,) * 3, (0.5,) * 3),
}


def _random_sizes(count):
    rng = random.Random(5)
    return [(rng.randint(20, 1200), rng.randint(20, 1200)) for _ in range(count)] + [
        (rng.randint(190, 300), rng.randint(190, 300)) for _ in range(count)
    ]


def _picture(name, height, width):
    """[height, width, 3] uint8 RGB with real detail; `noise` has all detail there can be."""
    if name == "noise":
        return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with Image.open(PHOTOS / name) as photo:
        resized = photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized)


def _bgr(rgb):
    return np.ascontiguousarray(rgb[..., ::-1])


def _reference_pixels(spec, rgb):
    """What the reference transform makes, back in grey levels: [crop_h, crop_w, 3] RGB."""
    normalised = reference_transform(spec)(Image.fromarray(rgb)).permute(1, 2, 0).numpy()
    return np.round((normalised * spec.std + np.array(spec.mean)) * 255)


def _assert_close(spec, rgb):
    pixels = Preprocessor(spec)(_bgr(rgb))
    assert pixels.shape == (1, *spec.crop_px, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    difference = np.abs(pixels[0][..., ::-1].astype(float) - _reference_pixels(spec, rgb))
    assert difference.mean() < MAX_MEAN_DIFFERENCE, f"{rgb.shape}: {difference.mean()}"


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("size", KNOWN_SIZES, ids=str)
def test_known_sizes(spec, size):
    _assert_close(spec, _picture("motorcycle_left.png", *size))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_random_sizes(spec):
    names = ["astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png", "noise"]
    for turn, size in enumerate(_random_sizes(15)):
        _assert_close(spec, _picture(names[turn % len(names)], *size))


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920)], ids=str)
def test_usual_camera_sizes_are_all_but_exact(size):
    rgb = _picture("noise", *size)
    for spec in (SPECS["lite0"], SPECS["resnet"]):
        got = Preprocessor(spec)(_bgr(rgb))[0][..., ::-1].astype(float)
        assert np.abs(got - _reference_pixels(spec, rgb)).mean() < 0.01


def test_4k_picture():
    _assert_close(SPECS["lite0"], _picture("coffee.png", 2160, 3840))


def test_every_stride_gives_the_same():
    rgb = _picture("astronaut.png", 480, 640)
    preprocess = Preprocessor(SPECS["lite0"])
    expected = preprocess(_bgr(rgb)).copy()
    read_only = _bgr(rgb)
    read_only.flags.writeable = False
    wide = np.zeros((480, 700, 3), dtype=np.uint8)
    wide[:, 30:670] = _bgr(rgb)
    upside_down = np.ascontiguousarray(_bgr(rgb)[::-1])
    for image in (rgb[..., ::-1], read_only, wide[:, 30:670], upside_down[::-1]):
        assert np.array_equal(preprocess(image), expected)


def test_sizes_may_change_from_frame_to_frame():
    preprocess = Preprocessor(SPECS["lite0"])
    for height, width in [*_random_sizes(8), *_random_sizes(8)]:
        image = _bgr(_picture("chelsea.png", height, width))
        assert np.array_equal(preprocess(image), Preprocessor(SPECS["lite0"])(image))


def test_the_frame_stays_as_it_was_and_the_result_is_reused():
    preprocess = Preprocessor(SPECS["resnet"])
    image = _bgr(_picture("coffee.png", 720, 1280))
    before = image.copy()
    first = preprocess(image)
    assert (image == before).all()
    assert preprocess(image) is first


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
    ],
    ids=["grey", "four channels", "float", "empty"],
)
def test_what_is_no_bgr_picture_is_refused(image):
    with pytest.raises(ValueError, match="give \\[height, width, 3\\] uint8 BGR"):
        Preprocessor(SPECS["lite0"])(image)


@pytest.mark.parametrize("spec", [SPECS["lite0"], SPECS["resnet"]], ids=["lite0", "resnet"])
def test_normalise_does_the_rest_of_the_reference(spec):
    rgb = _picture("astronaut.png", 720, 1280)
    network_input = Normalise(spec)(torch.from_numpy(Preprocessor(spec)(_bgr(rgb))))
    expected = reference_transform(spec)(Image.fromarray(rgb))[None]
    assert network_input.shape == expected.shape
    assert network_input.dtype == torch.float32
    assert network_input.is_contiguous(memory_format=torch.channels_last)
    assert (network_input - expected).abs().mean() < 0.1 / 255 / min(spec.std)


def test_normalise_of_given_pixels_is_exact():
    spec = SPECS["resnet"]
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    rgb = pixels.numpy()[..., ::-1] / 255
    expected = ((rgb - np.array(spec.mean)) / spec.std).transpose(0, 3, 1, 2)
    assert np.abs(Normalise(spec)(pixels).numpy() - expected).max() < 1e-5


def test_a_frame_so_long_that_it_would_fill_the_memory_is_refused() -> None:
    spec = PreprocessSpec(520, (520, 520), "bilinear", (0, 0, 0), (1, 1, 1), fit="short")
    with pytest.raises(FrameError, match=r"frame of 10000x1 px: one side is over 64 times"):
        Preprocessor(spec)(np.zeros((1, 10_000, 3), np.uint8))
    assert Preprocessor(spec)(np.zeros((100, 1000, 3), np.uint8)).shape == (1, 520, 5200, 3)


def test_the_upload_refuses_the_same_frame_without_an_end_of_the_capture() -> None:
    spec = PreprocessSpec(520, (520, 520), "bilinear", (0, 0, 0), (1, 1, 1), fit="short")
    perceiver = Perceiver.__new__(Perceiver)
    perceiver._prefetcher = Prefetcher(spec, "cpu")
    assert perceiver.prefetch("front", np.zeros((1, 10_000, 3), np.uint8)) is None
