"""Preprocessor: the resize and the crop on the CPU.

The resize is Pillow's convolution, in whole grey levels between its two passes, by the SIMD code of
fast_image_resize (package cykooz-resizer): the mean difference from Pillow is under 0.01 grey
level. Rejected: both passes in one call of it, 0.2 times faster, which passes along the height
first and differs by 0.13; torch, whose import takes half a gigabyte.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from cykooz_resizer import (
    CropBox,
    FilterType,
    ImageData,
    PixelType,
    ResizeAlg,
    ResizeOptions,
    Resizer,
)
from numpy.typing import NDArray

from node.image.frame import Image
from node.perception.preprocess.geometry import (
    Interpolation,
    PreprocessSpec,
    check_image,
    network_size,
    padding_before,
    resized_size,
)

_SUPPORT_PX: dict[Interpolation, int] = {"bilinear": 1, "bicubic": 2}
"""Half the width of each filter at scale 1, as in Pillow's Resample.c."""
_FILTER: dict[Interpolation, FilterType] = {
    "bilinear": FilterType.bilinear,
    "bicubic": FilterType.catmull_rom,  # Pillow's bicubic, a = -0.5
}
_PLAIN: dict[Interpolation, int] = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
_KEPT_PLANS = 8
"""Frame sizes whose geometry and buffers are cached: a camera has one, a folder of images many."""


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

    def __call__(self, image: Image) -> NDArray[np.uint8]:
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
            return np.ascontiguousarray(image)[None]
        return self._plan(image.shape[0], image.shape[1]).run(image)

    def batch(self, images: Sequence[Image]) -> NDArray[np.uint8]:
        """Returns the network's view of several frames, [n, crop_h, crop_w, 3] uint8 BGR."""
        if len(images) == 1:
            return self(images[0])
        return np.concatenate([self(image).copy() for image in images])

    def _plan(self, height: int, width: int) -> "_Plan":
        size = (height, width)
        if size in self._plans:
            self._plans.move_to_end(size)
            return self._plans[size]
        if len(self._plans) >= _KEPT_PLANS:
            self._plans.popitem(last=False)
        plan = self._plans[size] = _Plan(self.spec, height, width)
        return plan


class _Plan:
    """Geometry and buffers for frames of one size."""

    def __init__(self, spec: PreprocessSpec, height: int, width: int) -> None:
        resized = resized_size(spec, height, width)
        result_px = network_size(spec, height, width)
        support_px = _SUPPORT_PX[spec.interpolation]
        rows = _Axis.plan(height, resized[0], result_px[0], support_px)
        columns = _Axis.plan(width, resized[1], result_px[1], support_px)
        self._result = np.full((1, *result_px, 3), spec.pad_value, np.uint8)
        unpadded = self._result[0, rows.unpadded(spec), columns.unpadded(spec)]
        self._resize: _Antialiased | _Plain
        if spec.antialias:
            vertical_first = _vertical_first((height, width), resized)
            self._resize = _Antialiased(spec.interpolation, rows, columns, vertical_first, unpadded)
        else:
            self._resize = _Plain(spec.interpolation, resized, rows, columns, unpadded)

    def run(self, image: Image) -> NDArray[np.uint8]:
        """[height, width, 3] uint8 to the result of `Preprocessor.__call__`."""
        self._resize.run(image)
        return self._result


class _Antialiased:
    """The resize as Pillow's: one convolution along each axis, of the part of the frame that the
    crop depends on."""

    def __init__(
        self,
        interpolation: Interpolation,
        rows: "_Axis",
        columns: "_Axis",
        vertical_first: bool,
        target: NDArray[np.uint8],
    ) -> None:
        """vertical_first: the order of the two passes. target: [height, width, 3] uint8, where the
        result is written."""
        self._read = rows.read, columns.read
        self._size = width, height = _length(columns.read), _length(rows.read)
        self._target = target
        between = (width, rows.kept) if vertical_first else (columns.kept, height)
        self._between = _buffer(*between)
        self._resized = _buffer(columns.kept, rows.kept)
        first = (width, rows) if vertical_first else (columns, height)
        second = (columns, rows.kept) if vertical_first else (columns.kept, rows)
        alg = ResizeAlg.convolution(_FILTER[interpolation])
        self._passes = tuple(
            ResizeOptions(resize_alg=alg, crop_box=_box(*axes)) for axes in (first, second)
        )
        self._resizer = Resizer()

    def run(self, image: Image) -> None:
        """Resizes a frame into the target."""
        source = ImageData(*self._size, PixelType.U8x3, image[self._read].tobytes())
        first, second = self._passes
        self._resizer.resize(source, self._between, first)
        self._resizer.resize(self._between, self._resized, second)
        pixels = np.frombuffer(self._resized.get_buffer(), np.uint8)
        self._target[:] = pixels.reshape(self._target.shape)


class _Plain:
    """The resize as OpenCV's, without a filter against aliasing."""

    def __init__(
        self,
        interpolation: Interpolation,
        resized: tuple[int, int],
        rows: "_Axis",
        columns: "_Axis",
        target: NDArray[np.uint8],
    ) -> None:
        """resized: (height, width) in px after the resize. target: as for `_Antialiased`."""
        self._size = resized[1], resized[0]
        self._flag = _PLAIN[interpolation]
        self._crop = rows.crop, columns.crop
        self._target = target

    def run(self, image: Image) -> None:
        """Resizes a frame into the target."""
        resized = cv2.resize(image, self._size, interpolation=self._flag)
        self._target[:] = resized[self._crop]


def _buffer(width: int, height: int) -> ImageData:
    return ImageData(width, height, PixelType.U8x3)


def _length(part: slice) -> int:
    return int(part.stop) - int(part.start)


def _box(horizontal: "_Axis | int", vertical: "_Axis | int") -> CropBox:
    """Returns the box that a pass reads. An int: the length of the axis that it keeps."""
    left, width = horizontal.box if isinstance(horizontal, _Axis) else (0.0, horizontal)
    top, height = vertical.box if isinstance(vertical, _Axis) else (0.0, vertical)
    return CropBox(left, top, width, height)


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
        read: the frame's pixels that the crop depends on.
        box: (start, length) of the crop within `read`.
        crop: the crop within the resized picture.
        kept: length of the crop.
        free: pixels of the result that the crop does not fill.
    """

    read: slice
    box: tuple[float, float]
    crop: slice
    kept: int
    free: int

    def unpadded(self, spec: PreprocessSpec) -> slice:
        """Returns the range of the crop within the result."""
        padding = padding_before(self.free, spec.pad_anchor)
        return slice(padding, padding + self.kept)

    @classmethod
    def plan(cls, size: int, resized: int, result: int, support_px: int) -> "_Axis":
        """Returns the plan of an axis.

        Args:
            size: length of the frame.
            resized: length of the resized picture.
            result: length of the result.
            support_px: half the width of the filter.
        """
        kept = min(result, resized)
        first = int(round((resized - kept) / 2.0))  # noqa: RUF046 (torchvision's center_crop)
        scale = size / resized
        reach = math.ceil(support_px * max(scale, 1.0)) + 1
        start, end = first * scale, (first + kept) * scale
        read = slice(max(0, math.floor(start) - reach), min(size, math.ceil(end) + reach))
        # Rounded, the box could end a bit behind the frame.
        length = min(kept * scale, read.stop - start)
        return cls(
            read=read,
            box=(start - read.start, length),
            crop=slice(first, first + kept),
            kept=kept,
            free=result - kept,
        )
