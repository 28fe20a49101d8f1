"""Preprocessing: a model's input geometry as data, and its fast implementation on the CPU.

The definition is torchvision's Resize, CenterCrop, ToTensor, Normalize on a PIL image, as
`reference_transform` runs it. `Preprocessor` produces the resized and cropped uint8 pixels on the
CPU; `Normalise` does the rest within the network that a runtime runs.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from node.image.frame import Image

Interpolation = Literal["bilinear", "bicubic"]
"""Filter of the resize."""
Fit = Literal["crop", "stretch", "letterbox", "short", "none"]
"""How a frame fills the network's input; `PreprocessSpec` describes each."""

_SUPPORT_PX: dict[Interpolation, int] = {"bilinear": 1, "bicubic": 2}
"""Half the width of each filter at scale 1, as in Pillow's Resample.c."""
_RESIZE: dict[Interpolation, Callable[..., torch.Tensor]] = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
}
_RESIZE_PLAIN: dict[Interpolation, Callable[..., torch.Tensor]] = {
    "bilinear": torch.ops.aten.upsample_bilinear2d.out,
    "bicubic": torch.ops.aten.upsample_bicubic2d.out,
}
_MAX_SHIFT = 0.0005
"""Largest shift of the picture, in pixels of the coarser grid, accepted for a cheaper crop: changes
pure noise, whose neighbours differ by 85 grey levels, by a twentieth of a grey level."""
_KEPT_PLANS = 8
"""Frame sizes whose geometry and buffers are cached: a camera has one, a folder of images many."""


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
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(factor, offset), each [3] float64: the network gets pixel * factor + offset."""
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (self.mean, self.std))
        return self.scale / std, -mean / std


class Normalise(nn.Module):
    """Turns the pixels of `Preprocessor` into the network's input; part of every graph."""

    scale: torch.Tensor
    offset: torch.Tensor
    reverse: torch.Tensor

    def __init__(self, spec: PreprocessSpec) -> None:
        super().__init__()
        scale, offset = spec.factors
        self._rgb = spec.color == "rgb"
        self.register_buffer("reverse", torch.tensor([2, 1, 0]), persistent=False)
        self.register_buffer("scale", scale.float().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", offset.float().view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, h, w, 3] uint8 BGR to [n, 3, h, w] in the network's channel order and this module's
        dtype, channels last."""
        planes = pixels.permute(0, 3, 1, 2)
        # index_select instead of flip(): flip() is exported as a slice with a negative step, which
        # OpenVINO runs byte by byte (0.14 ms of 1.7 for 224x224).
        ordered = planes.index_select(1, self.reverse) if self._rgb else planes
        levels = ordered.to(self.scale.dtype, memory_format=torch.channels_last)
        return levels * self.scale + self.offset


class Preprocessor:
    """Resizes and crops frames for one model, on the CPU. Not thread-safe.

    Geometry and buffers are cached for each frame size. The result is such a buffer: the next call
    overwrites it, so use or copy it before.

    Args:
        spec: the model's input geometry.
    """

    def __init__(self, spec: PreprocessSpec) -> None:
        self.spec = spec
        self._plans: OrderedDict[tuple[int, int], _Plan] = OrderedDict()

    def __call__(self, image: Image) -> torch.Tensor:
        """Returns the network's view of a frame: [1, crop_h, crop_w, 3] uint8 BGR, contiguous,
        valid until the next call. The mean difference from the reference transform is under 0.1
        grey level.

        Args:
            image: [height, width, 3] uint8 BGR, at least 1x1, with any strides.

        Raises:
            ValueError: another shape or dtype.
        """
        check_image(image)
        if self.spec.keeps_frame:
            return torch.from_numpy(_contiguous(image)).unsqueeze(0)
        plan = self._plan(image.shape[0], image.shape[1])
        return plan.run(_contiguous(image))

    def _plan(self, height: int, width: int) -> "_Plan":
        size = (height, width)
        if size in self._plans:
            self._plans.move_to_end(size)
            return self._plans[size]
        if len(self._plans) >= _KEPT_PLANS:
            self._plans.popitem(last=False)
        plan = self._plans[size] = _Plan(self.spec, height, width)
        return plan


def check_image(image: Image) -> None:
    """Raises ValueError for anything but [height, width, 3] uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"image: shape {image.shape}, dtype {image.dtype}; "
            "give [height, width, 3] uint8 BGR, at least 1x1"
        )


def _contiguous(image: Image) -> Image:
    # torch.from_numpy warns of read-only arrays, although nothing writes to these.
    return np.ascontiguousarray(image) if image.flags.writeable else image.copy()


class _Plan:
    """Geometry and buffers for frames of one size.

    The crop of a resized picture depends only on part of the frame. The memory from the first
    needed pixel on is read as a picture of the frame's full width, whose rows continue at the
    beginning of the frame's next row. This needs no copy. The resize gets the true scale and stops
    at the end of the crop, so the wrapped pixels are never read.

    The two passes of the resize are called separately: the kernel skips the pass along an axis
    whose size stays the same, and as one call it would allocate the intermediate picture for each
    frame.
    """

    def __init__(self, spec: PreprocessSpec, height: int, width: int) -> None:
        resized_h, resized_w = resized_size(spec, height, width)
        support_px = _SUPPORT_PX[spec.interpolation]
        result_h, result_w = network_size(spec, height, width)
        rows = _Axis.plan(height, resized_h, result_h, support_px)
        # A row with an offset continues in the next row, which the frame's last row lacks.
        vertical_first = _vertical_first((height, width), (resized_h, resized_w))
        offset_allowed = rows.start + rows.length < height and not vertical_first
        columns = _Axis.plan(width, resized_w, result_w, support_px, offset_allowed)

        if vertical_first:
            unused, between = 0, _picture(rows.resized, width)
        else:
            unused, between = rows.unused, _picture(rows.length, columns.resized)
        row_bytes = width * 3
        self._shape = (1, 3, rows.length - unused, width)
        self._strides = (rows.length * row_bytes, 1, row_bytes, 3)
        self._offset = (rows.start + unused) * row_bytes + columns.start * 3
        self._zooms = (1 / rows.scale, 1 / columns.scale)
        self._resize = (_RESIZE if spec.antialias else _RESIZE_PLAIN)[spec.interpolation]

        self._between = between
        self._first_pass = between[:, :, unused:]
        self._resized = _picture(rows.resized, columns.resized)
        self._cropped = self._resized.permute(0, 2, 3, 1)[:, rows.crop, columns.crop]
        shape = (1, result_h, result_w, 3)
        self._result = torch.full(shape, spec.pad_value, dtype=torch.uint8)
        self._unpadded = self._result[:, rows.unpadded(spec), columns.unpadded(spec)]

    def run(self, image: Image) -> torch.Tensor:
        """[height, width, 3] uint8, contiguous, to the result of `Preprocessor.__call__`."""
        pixels = torch.from_numpy(image)
        source = torch.as_strided(pixels, self._shape, self._strides, self._offset)
        self._resize_into(self._first_pass, source)
        self._resize_into(self._resized, self._between)
        self._unpadded.copy_(self._cropped)
        return self._result

    def _resize_into(self, target: torch.Tensor, source: torch.Tensor) -> None:
        height, width = target.shape[2:]
        self._resize(source, [height, width], False, *self._zooms, out=target)


def _picture(height: int, width: int) -> torch.Tensor:
    """Returns [1, 3, height, width] uint8 in channels-last memory."""
    return torch.empty((1, height, width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)


def _vertical_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow (from 13 on, ImagingResampleInner) resizes along the height first. It rounds
    to whole grey levels between the passes, so the order affects the result. Sizes are (height,
    width) in px."""
    lost_h, lost_w = size[0] - resized[0], size[1] - resized[1]
    return lost_h > max(0, 2 * lost_w)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the resize and crop, in pixels.

    Attributes:
        start: first frame pixel that is read.
        length: number of frame pixels that are read.
        unused: how many of the first of these the crop does not depend on.
        scale: frame pixels per resized pixel.
        resized: number of resized pixels to compute from `start` on.
        crop: which of these the crop keeps.
        free: pixels of the result that the crop does not fill.
    """

    start: int
    length: int
    unused: int
    scale: float
    resized: int
    crop: slice
    free: int

    def unpadded(self, spec: PreprocessSpec) -> slice:
        """Returns the range of the crop within the result."""
        padding = padding_before(self.free, spec.pad_anchor)
        return slice(padding, padding + self.crop.stop - self.crop.start)

    @classmethod
    def plan(
        cls, size: int, resized: int, crop: int, support_px: int, offset_allowed: bool = True
    ) -> "_Axis":
        """Returns the plan of an axis.

        Args:
            size: length of the frame.
            resized: length of the resized picture.
            crop: length of the result.
            support_px: half the width of the filter.
            offset_allowed: whether the read may start after the frame's first pixel.
        """
        kept = min(crop, resized)
        first = int(round((resized - kept) / 2.0))  # noqa: RUF046 (torchvision's center_crop)
        scale = size / resized
        reach = math.ceil(support_px * max(scale, 1) / scale) + 2
        end_free = resized - (first + kept) >= reach
        margin = _margin(first, size, resized, reach) if offset_allowed and end_free else first
        start = round((first - margin) * size / resized)
        end = math.ceil((first + kept + reach) * scale)
        length = min(size, end) - start
        unused = max(0, math.floor((first - reach) * scale) - start)
        computed = margin + kept
        # The kernel skips a pass between equal sizes, whatever the scale.
        if scale != 1 and computed in (length, size):
            computed += 1
            if computed in (length, size):
                computed += 1
        return cls(
            start=start,
            length=length,
            unused=unused,
            scale=scale,
            resized=computed,
            crop=slice(margin, margin + kept),
            free=crop - kept,
        )


def _margin(first: int, size: int, resized: int, reach: int) -> int:
    """Returns how many resized pixels before `first` to compute too, so that the read starts at a
    whole frame pixel: the smallest number that shifts the picture by at most `_MAX_SHIFT` and
    leaves the crop's first pixel the `reach` of its filter. If there is none, all of them, which is
    exact."""
    margins = np.arange(reach, first)
    starts = (first - margins) * size
    shifts = np.abs((starts + resized // 2) % resized - resized // 2) / resized
    good = margins[shifts <= _MAX_SHIFT * max(1.0, size / resized)]
    return int(good[0]) if good.size else first


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
    `letterbox` as YOLOX's preproc."""
    if spec.fit == "stretch":
        return spec.crop_px
    if spec.keeps_frame:
        return height, width
    if spec.fit == "letterbox":
        zoom = min(spec.crop_px[0] / height, spec.crop_px[1] / width)
        return max(1, int(height * zoom)), max(1, int(width * zoom))
    short_px = spec.resize_short_px
    if height <= width:
        return short_px, int(short_px * width / height)
    return int(short_px * height / width), short_px
