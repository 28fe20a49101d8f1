"""Geometry: a model's input geometry and normalisation as data.

The definition is torchvision's Resize, CenterCrop, ToTensor, Normalize on a PIL image, as
`reference_transform` runs it. `Preprocessor` produces the resized and cropped uint8 pixels on the
CPU; the normalisation is part of the graph that a runtime runs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node.errors import FrameError
from node.image.frame import Image

Interpolation = Literal["bilinear", "bicubic"]
"""Filter of the resize."""
Fit = Literal["crop", "stretch", "letterbox", "short", "none"]
"""How a frame fills the network's input; `PreprocessSpec` describes each."""
_LONGEST = 64
"""Longest side of a frame, in shorter sides, for `short`: 17 megapixels with 520 px. A picture of
1x10000 px would become 2700 megapixels."""


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """Input geometry and normalisation of a model.

    Attributes:
        resize_short_px: length of the shorter side after the resize, for `crop` and `short`.
        crop_px: (height, width) of the network's input; for `short` and `none`, of the frames that
            warm it up.
        interpolation: filter of the resize.
        mean: by channel, in the order of `color`; the network gets (pixel * scale - mean) / std.
        std: as `mean`.
        fit: `crop` resizes the shorter side to `resize_short_px`, keeps the aspect ratio and crops
            the centre; `stretch` resizes to `crop_px` and ignores the aspect ratio; `letterbox`
            resizes to fit into `crop_px` and pads; `short` resizes the shorter side to
            `resize_short_px` and keeps the whole picture; `none` keeps the frame, for a network
            that resizes by itself (torchvision's detectors).
        color: order of the channels.
        scale: factor of the pixels.
        pad_value: grey level of the padding.
        pad_anchor: position of the picture within the padding.
        antialias: filter as PIL does; False: as OpenCV does.
    """

    resize_short_px: int
    crop_px: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = "crop"
    color: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    pad_value: int = 0
    pad_anchor: Literal["center", "top-left"] = "center"
    antialias: bool = True

    @property
    def keeps_frame(self) -> bool:
        """Whether the network gets the frame in its own size, and resizes by itself."""
        return self.fit == "none"

    @property
    def free_size(self) -> bool:
        """Whether the size of the network's input follows from the frame's."""
        return self.fit in ("short", "none")

    @property
    def factors(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(factor, offset), each [3] float32: the network gets pixel * factor + offset."""
        mean, std = np.array(self.mean), np.array(self.std)
        return (self.scale / std).astype(np.float32), (-mean / std).astype(np.float32)


def check_image(image: Image) -> None:
    """Raises ValueError for anything but [height, width, 3] uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"image: shape {image.shape}, dtype {image.dtype}; "
            "give [height, width, 3] uint8 BGR, at least 1x1"
        )


def padding_before(free: int, anchor: Literal["center", "top-left"]) -> int:
    """Returns the padding before the picture, of `free` pixels in total; rounded as torchvision's
    center_crop does."""
    return free // 2 if anchor == "center" else 0


def placed(spec: PreprocessSpec, height: int, width: int) -> tuple[float, float, float, float]:
    """Returns where a frame of this size in px lies in the network's input, (zoom_y, zoom_x, top,
    left): a frame's x is at left + x * zoom_x."""
    resized = resized_size(spec, height, width)
    top, left = (
        padding_before(crop - length, spec.pad_anchor)
        if crop >= length
        else -int(round((length - crop) / 2.0))  # noqa: RUF046 (torchvision's center_crop)
        for length, crop in zip(resized, network_size(spec, height, width), strict=True)
    )
    return resized[0] / height, resized[1] / width, float(top), float(left)


def network_size(spec: PreprocessSpec, height: int, width: int) -> tuple[int, int]:
    """Returns (height, width) in px of the network's input for a frame of this size."""
    if spec.free_size:
        return resized_size(spec, height, width)
    return spec.crop_px


def resized_size(spec: PreprocessSpec, height: int, width: int) -> tuple[int, int]:
    """Returns (height, width) in px after the resize. `crop` rounds as torchvision's Resize,
    `letterbox` as YOLOX's preproc. Raises FrameError for a frame so long that `short`, which keeps
    all of it, would take gigabytes."""
    if spec.fit == "stretch":
        return spec.crop_px
    if spec.keeps_frame:
        return height, width
    if spec.fit == "letterbox":
        zoom = min(spec.crop_px[0] / height, spec.crop_px[1] / width)
        return max(1, int(height * zoom)), max(1, int(width * zoom))
    short_px = spec.resize_short_px
    if spec.fit == "short" and max(height, width) > _LONGEST * min(height, width):
        raise FrameError(
            f"frame of {width}x{height} px: one side is over {_LONGEST} times the other, and this "
            f"model enlarges the shorter to {short_px} px",
            fix="choose a region of interest, or a model of a fixed input size",
        )
    if height <= width:
        return short_px, int(short_px * width / height)
    return int(short_px * height / width), short_px
