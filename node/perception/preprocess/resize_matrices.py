"""ResizeMatrices: a resize, crop and padding as two matrix products, for the GPU.

A filter that resizes each axis by itself is a matrix for each axis. The crop keeps some of the
matrix's columns, and the frame's pixels that none of these reads need no upload.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from node.image.frame import Image
from node.perception.preprocess.geometry import (
    PreprocessSpec,
    network_size,
    padding_before,
    resized_size,
)

_ALIGNED = 8
"""Multiple of a range's length: matrix units multiply float16 faster in rows of 16 bytes."""
_BLOCK = 256
"""Pixels whose weights are computed at once: bounds the memory for pictures of any size."""


@dataclass(frozen=True, slots=True)
class ResizeMatrices:
    """How frames of one size become the network's input.

    Attributes:
        rows: of the frame, those that the network's input shows.
        columns: as `rows`.
        vertical: [crop_h, rows] float32.
        horizontal: [columns, crop_w] float32.
        border: [crop_h, 1, crop_w] float32, the padding's grey level outside the picture and 0
            within; None without padding.
    """

    rows: slice
    columns: slice
    vertical: torch.Tensor
    horizontal: torch.Tensor
    border: torch.Tensor | None

    def region(self, image: Image) -> Image:
        """Returns the part of a [height, width, 3] frame that the network's input shows."""
        return image[self.rows, self.columns]


def resize_matrices(
    spec: PreprocessSpec, height: int, width: int, device: torch.device
) -> ResizeMatrices:
    """Returns the matrices for frames of one size.

    Args:
        spec: with `antialias`, and no fit `none`.
        height: of the frames, in px.
        width: as `height`.
        device: of the matrices.

    Raises:
        FrameError: as `resized_size` does.
    """
    resized = resized_size(spec, height, width)
    crop = network_size(spec, height, width)
    rows, vertical = _axis(spec, device, height, resized[0], crop[0])
    columns, horizontal = _axis(spec, device, width, resized[1], crop[1])
    inside = (vertical != 0).any(1).view(-1, 1, 1) & (horizontal != 0).any(1).view(1, 1, -1)
    border = None if bool(inside.all()) else torch.where(inside, 0.0, float(spec.pad_value))
    return ResizeMatrices(rows, columns, vertical, horizontal.T.contiguous(), border)


def _axis(
    spec: PreprocessSpec, device: torch.device, frame_px: int, resized_px: int, crop_px: int
) -> tuple[slice, torch.Tensor]:
    """Returns the range of the frame that one axis reads, and the weights [crop_px, range]."""
    weights = _weights(spec, device, frame_px, resized_px)
    if resized_px >= crop_px:
        start = int(round((resized_px - crop_px) / 2.0))  # noqa: RUF046 (torchvision's center_crop)
        cropped = weights[start : start + crop_px]
    else:
        before = padding_before(crop_px - resized_px, spec.pad_anchor)
        cropped = functional.pad(weights, (0, 0, before, crop_px - resized_px - before))
    read = (cropped != 0).any(0).nonzero().ravel()
    first, end = int(read[0]), int(read[-1]) + 1
    end = min(frame_px, first + math.ceil((end - first) / _ALIGNED) * _ALIGNED)
    first = max(0, end - math.ceil((end - first) / _ALIGNED) * _ALIGNED)
    return slice(first, end), cropped[:, first:end].contiguous()


def _weights(
    spec: PreprocessSpec, device: torch.device, frame_px: int, resized_px: int
) -> torch.Tensor:
    """Returns the weights [resized_px, frame_px] float32 of torch's own filter: those of a pixel
    are the resized row of a picture in which this pixel alone is 1."""
    blocks = []
    for first in range(0, frame_px, _BLOCK):
        count = min(_BLOCK, frame_px - first)
        pixels = torch.zeros(1, count, 1, frame_px, device=device)
        pixels[0, torch.arange(count), 0, torch.arange(first, first + count)] = 1
        resized = functional.interpolate(
            pixels, (1, resized_px), mode=spec.interpolation, antialias=True
        )
        blocks.append(resized[0, :, 0])
    return torch.cat(blocks).T
