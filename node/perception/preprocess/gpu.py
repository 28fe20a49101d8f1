"""GpuPreprocessor: computes the result of `Preprocessor` on the GPU."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from node.image.frame import Image
from node.perception.cuda_graph import CudaGraph
from node.perception.preprocess.geometry import (
    PreprocessSpec,
    check_image,
    padding_before,
    resized_size,
)
from node.perception.preprocess.resize_matrices import resize_matrices

_MOST_SIZES = 8
"""Frame sizes whose resize is kept: cameras have few, a folder of photographs has many."""
_RECORDED_AFTER = 2
"""Frames of one size after which its resize becomes a CUDA graph."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A preprocessed frame that a separate CUDA stream computes.

    Attributes:
        pixels: [1, crop_h, crop_w, 3] uint8 BGR on the device.
        done: completion of the computation, None without streams.
    """

    pixels: torch.Tensor
    done: "torch.cuda.Event | None"

    def for_network(self) -> torch.Tensor:
        """Returns `pixels` for the current stream, which waits for them; the CPU does not wait."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.pixels.device)
            stream.wait_event(self.done)
            self.pixels.record_stream(stream)
        return self.pixels


class GpuPreprocessor:
    """Uploads what the network's input shows of a frame, as uint8, and resizes it on the device.
    Not thread-safe.

    The pixels go through pinned memory. On the device `cpu` the same computation runs without
    streams, which tests use on computers without a GPU.

    Args:
        spec: the model's input geometry.
        device: a torch device, such as `cuda:0`.
    """

    def __init__(self, spec: PreprocessSpec, device: str) -> None:
        self.spec = spec
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._sizes: OrderedDict[tuple[int, ...], _Resize] = OrderedDict()

    def __call__(self, image: Image) -> torch.Tensor:
        """Preprocesses [height, width, 3] uint8 BGR to [1, crop_h, crop_w, 3] uint8 BGR on the
        device, for the current stream; valid until the next call. Raises ValueError as
        `Preprocessor` does."""
        check_image(image)
        with torch.inference_mode():
            return self._resize_of(image.shape)(image, self._stream)

    def batch(self, images: Sequence[Image]) -> torch.Tensor:
        """Preprocesses several frames to [n, crop_h, crop_w, 3] uint8 BGR on the device; valid
        until the next call."""
        if len(images) == 1:
            return self(images[0])
        return torch.cat([self(image).clone() for image in images])

    def begin(self, image: Image) -> Uploaded:
        """Starts the preprocessing on a separate stream, so that it overlaps with the inference of
        another frame, and returns without waiting for it. Arguments and errors as `__call__`."""
        if self._stream is None:
            return Uploaded(self(image), None)
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            pixels = self(image).clone()
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Uploaded(pixels, done)

    def _resize_of(self, shape: tuple[int, ...]) -> "_Resize":
        if shape in self._sizes:
            self._sizes.move_to_end(shape)
            return self._sizes[shape]
        by_matrices = self.spec.antialias and not self.spec.keeps_frame
        make = _MatrixResize if by_matrices else _Resize
        resize = self._sizes[shape] = make(self.spec, shape[:2], self._device)
        if len(self._sizes) > _MOST_SIZES:
            _, oldest = self._sizes.popitem(last=False)
            oldest.wait()
        return resize


class _Resize:
    """Resizes frames of one size, by torch's interpolation."""

    def __init__(self, spec: PreprocessSpec, size: tuple[int, ...], device: torch.device) -> None:
        self._spec = spec
        self._size = size
        self._device = device
        self._staging: _Staging | None = None
        self._launches = 0
        self._graph: CudaGraph[torch.Tensor] | None = None

    def __call__(self, image: Image, recorder: "torch.cuda.Stream | None") -> torch.Tensor:
        """Returns the network's input for a frame, which the current stream computes; valid until
        the next call. recorder: a stream that can record it as a graph; None on the CPU."""
        region = self._region(image)
        if recorder is None:
            return self._resized(torch.from_numpy(np.ascontiguousarray(region)))
        if self._staging is None:
            self._staging = _Staging(region.shape, self._device)
        self._staging.write(region)
        pixels = self._computed(self._staging, recorder)
        self._staging.uploaded()
        return pixels

    def wait(self) -> None:
        """Waits until the last frame is computed."""
        if self._staging is not None:
            self._staging.wait()

    def _computed(self, staging: "_Staging", recorder: "torch.cuda.Stream") -> torch.Tensor:
        self._launches += 1
        if self._launches <= _RECORDED_AFTER or self._spec.keeps_frame:
            return self._resized(staging.upload())
        if self._graph is None:
            current = torch.cuda.current_stream(self._device)
            recorder.wait_stream(current)
            self._graph = CudaGraph(lambda: self._resized(staging.upload()), recorder)
            current.wait_stream(recorder)
        self._graph.replay()
        return self._graph.result

    def _region(self, image: Image) -> Image:
        return image

    def _resized(self, frame: torch.Tensor) -> torch.Tensor:
        """[height, width, 3] to [1, crop_h, crop_w, 3], uint8 BGR on the device."""
        if self._spec.keeps_frame:
            return frame.unsqueeze(0)
        planes = frame.permute(2, 0, 1).unsqueeze(0).float()
        resized = functional.interpolate(
            planes,
            resized_size(self._spec, *self._size),
            mode=self._spec.interpolation,
            antialias=self._spec.antialias,
        )
        return self._cropped(resized.round_().clamp_(0, 255)).permute(0, 2, 3, 1).to(torch.uint8)

    def _cropped(self, picture: torch.Tensor) -> torch.Tensor:
        """Pads a picture that is too small, then crops its centre, as torchvision's center_crop
        does."""
        height, width = picture.shape[2:]
        crop_h, crop_w = (height, width) if self._spec.free_size else self._spec.crop_px
        pad_h, pad_w = max(0, crop_h - height), max(0, crop_w - width)
        if pad_h or pad_w:
            anchor = self._spec.pad_anchor
            left, top = padding_before(pad_w, anchor), padding_before(pad_h, anchor)
            border = (left, pad_w - left, top, pad_h - top)
            picture = functional.pad(picture, border, value=self._spec.pad_value)
            height, width = picture.shape[2:]
        top = int(round((height - crop_h) / 2.0))  # noqa: RUF046 (torchvision's center_crop)
        left = int(round((width - crop_w) / 2.0))  # noqa: RUF046
        return picture[:, :, top : top + crop_h, left : left + crop_w]


class _MatrixResize(_Resize):
    """Resizes frames of one size by two matrix products, from the part of the frame that the
    network's input shows. Rounds after each, as Pillow does."""

    def __init__(self, spec: PreprocessSpec, size: tuple[int, ...], device: torch.device) -> None:
        super().__init__(spec, size, device)
        self._matrices = resize_matrices(spec, size[0], size[1], device)
        self._horizontal = _Weights(self._matrices.horizontal)
        self._vertical = _Weights(self._matrices.vertical.T.contiguous())

    def _region(self, image: Image) -> Image:
        return self._matrices.region(image)

    def _resized(self, frame: torch.Tensor) -> torch.Tensor:
        height, width = frame.shape[:2]
        rows = frame.permute(0, 2, 1).reshape(height * 3, width)
        narrow = _levels(self._horizontal.product(rows))
        columns = narrow.view(height, -1).T
        picture = _levels(self._vertical.product(columns))
        planes = picture.T.reshape(picture.shape[1], 3, -1)
        if self._matrices.border is not None:
            planes = planes + self._matrices.border
        return planes.permute(0, 2, 1).to(torch.uint8).contiguous().unsqueeze(0)


def _levels(values: torch.Tensor) -> torch.Tensor:
    """Rounds to grey levels as Pillow does: halves up."""
    return values.add_(0.5).floor_().clamp_(0, 255)


class _Weights:
    """A matrix of weights, and its product with grey levels.

    Levels from 0 to 255 are exact in float16; the weights on a GPU are the sum of two float16
    numbers, which its matrix units multiply many times as fast as float32, with sums in float32.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        """matrix: [k, n] float32, on the device."""
        self._count = matrix.shape[1]
        self._matrix = matrix
        if matrix.device.type == "cuda":
            high = matrix.half()
            self._matrix = torch.cat((high, (matrix - high.float()).half()), dim=1)

    def product(self, levels: torch.Tensor) -> torch.Tensor:
        """[m, k] whole numbers from 0 to 255 times the matrix, [m, n] float32."""
        if levels.device.type != "cuda":
            return levels.float() @ self._matrix
        parts = torch.mm(levels.half(), self._matrix, out_dtype=torch.float32)
        return parts[:, : self._count] + parts[:, self._count :]


class _Staging:
    """Pinned memory for one region of a frame, and its copy on the device."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._pinned = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._array = self._pinned.numpy()
        self._on_device = torch.empty(shape, dtype=torch.uint8, device=device)
        self._uploaded = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def write(self, region: Image) -> None:
        """Copies a region to the pinned memory, once the one before has left it."""
        self.wait()
        np.copyto(self._array, region)

    def upload(self) -> torch.Tensor:
        """Returns the region on the device; the next upload overwrites it."""
        return self._on_device.copy_(self._pinned, non_blocking=True)

    def uploaded(self) -> None:
        """Notes that the current stream has the upload, and all that uses it."""
        self._uploaded.record()

    def wait(self) -> None:
        """Waits until the last upload, and all that uses it, is done."""
        self._uploaded.synchronize()
