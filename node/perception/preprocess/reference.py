"""The reference of the preprocessing: torchvision's own transform of a PIL image. Only for tests,
benchmarks and tuning, since importing torchvision takes a second."""

from collections.abc import Callable
from typing import cast

import torch
from PIL import Image as PILImage
from torch import nn
from torchvision import transforms

from node.perception.preprocess.geometry import Fit, PreprocessSpec, padding_before, resized_size

_PIL_MODE = {
    "bilinear": transforms.InterpolationMode.BILINEAR,
    "bicubic": transforms.InterpolationMode.BICUBIC,
}


def reference_transform(spec: PreprocessSpec) -> Callable[[PILImage.Image], torch.Tensor]:
    """Returns torchvision's transform of a PIL RGB image to [3, crop_h, crop_w] float32 in the
    network's channel order."""
    compose: Callable[[PILImage.Image], torch.Tensor] = transforms.Compose(
        [
            *_FITTED[spec.fit](spec),
            transforms.ToTensor(),
            *_extra_steps(spec),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    return compose


def _extra_steps(spec: PreprocessSpec) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Returns the steps that torchvision's own models do not need."""
    steps: list[Callable[[torch.Tensor], torch.Tensor]] = []
    if spec.color == "bgr":
        steps.append(lambda tensor: tensor.flip(0))
    if spec.scale != 1 / 255:
        steps.append(lambda tensor: tensor * (255 * spec.scale))
    return steps


Step = Callable[[PILImage.Image], PILImage.Image]


def _resized(
    spec: PreprocessSpec, picture: PILImage.Image, size: tuple[int, int]
) -> PILImage.Image:
    if spec.antialias:
        mode = _PIL_MODE[spec.interpolation]
        resized: PILImage.Image = transforms.functional.resize(picture, list(size), mode)
        return resized
    pixels = transforms.functional.pil_to_tensor(picture).unsqueeze(0)
    plain = nn.functional.interpolate(pixels, size, mode=spec.interpolation)
    return cast(PILImage.Image, transforms.functional.to_pil_image(plain[0]))


def _crop_steps(spec: PreprocessSpec) -> list[Step]:
    def resize(picture: PILImage.Image) -> PILImage.Image:
        return _resized(spec, picture, resized_size(spec, picture.height, picture.width))

    return [resize, transforms.CenterCrop(spec.crop_px)]


def _stretch_steps(spec: PreprocessSpec) -> list[Step]:
    return [lambda picture: _resized(spec, picture, spec.crop_px)]


def _letterbox_steps(spec: PreprocessSpec) -> list[Step]:
    def resize(picture: PILImage.Image) -> PILImage.Image:
        size = resized_size(spec, picture.height, picture.width)
        return _resized(spec, picture, size)

    def pad(picture: PILImage.Image) -> PILImage.Image:
        free_h, free_w = spec.crop_px[0] - picture.height, spec.crop_px[1] - picture.width
        top, left = padding_before(free_h, spec.pad_anchor), padding_before(free_w, spec.pad_anchor)
        border = [left, top, free_w - left, free_h - top]
        padded: PILImage.Image = transforms.functional.pad(picture, border, spec.pad_value)
        return padded

    return [resize, pad]


_FITTED: dict[Fit, Callable[[PreprocessSpec], list[Step]]] = {
    "crop": _crop_steps,
    "stretch": _stretch_steps,
    "letterbox": _letterbox_steps,
    "short": lambda spec: _crop_steps(spec)[:1],
    "none": lambda spec: [],
}
