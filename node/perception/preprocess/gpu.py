"""GpuPreprocessor: computes the result of `Preprocessor` on the GPU, from the whole frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from node.image.frame import Image
from node.perception.preprocess.geometry import (
    PreprocessSpec,
    check_image,
    padding_before,
    resized_size,
)


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
    """Uploads frames as uint8, and resizes and crops them on the device. Not thread-safe.

    Frames go through pinned memory on a separate stream, so an upload overlaps with the inference
    of another frame. On the device `cpu` the same computation runs without streams, which tests use
    on computers without a GPU.

    Args:
        spec: the model's input geometry.
        device: a torch device, such as `cuda:0`.
    """

    def __init__(self, spec: PreprocessSpec, device: str) -> None:
        self.spec = spec
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._pinned = torch.empty(0, dtype=torch.uint8)
        self._uploaded = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def __call__(self, image: Image) -> torch.Tensor:
        """Preprocesses [height, width, 3] uint8 BGR to [1, crop_h, crop_w, 3] uint8 BGR on the
        device. Raises ValueError as `Preprocessor` does."""
        return self.begin(image).for_network()

    def batch(self, images: Sequence[Image]) -> torch.Tensor:
        """Preprocesses several frames to [n, crop_h, crop_w, 3] uint8 BGR on the device."""
        return torch.cat([self(image) for image in images])

    def begin(self, image: Image) -> Uploaded:
        """Starts the preprocessing and returns without waiting for it. Arguments and errors as
        `__call__`."""
        check_image(image)
        with torch.inference_mode():
            if self._stream is None:
                frame = torch.from_numpy(np.ascontiguousarray(image))
                return Uploaded(self._resized(frame), None)
            self._pin(image)
            with torch.cuda.stream(self._stream):
                frame = self._pinned.to(self._device, non_blocking=True)
                assert self._uploaded is not None
                self._uploaded.record()
                pixels = self._resized(frame)
                done = torch.cuda.Event()  # type: ignore[no-untyped-call]
                done.record()
            return Uploaded(pixels, done)

    def _pin(self, image: Image) -> None:
        if self._pinned.shape != image.shape:
            self._pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
        elif self._uploaded is not None:
            # The previous frame left the buffer long ago.
            self._uploaded.synchronize()
        np.copyto(self._pinned.numpy(), image)

    def _resized(self, frame: torch.Tensor) -> torch.Tensor:
        if self.spec.keeps_frame:
            return frame.unsqueeze(0)
        height, width = resized_size(self.spec, frame.shape[0], frame.shape[1])
        planes = frame.permute(2, 0, 1).unsqueeze(0).float()
        resized = functional.interpolate(
            planes, (height, width), mode=self.spec.interpolation, antialias=self.spec.antialias
        )
        return self._cropped(resized.round_().clamp_(0, 255)).permute(0, 2, 3, 1).to(torch.uint8)

    def _cropped(self, picture: torch.Tensor) -> torch.Tensor:
        """Pads a picture that is too small, then crops its centre, as torchvision's center_crop
        does."""
        height, width = picture.shape[2:]
        crop_h, crop_w = (height, width) if self.spec.free_size else self.spec.crop_px
        pad_h, pad_w = max(0, crop_h - height), max(0, crop_w - width)
        if pad_h or pad_w:
            anchor = self.spec.pad_anchor
            left, top = padding_before(pad_w, anchor), padding_before(pad_h, anchor)
            border = (left, pad_w - left, top, pad_h - top)
            picture = functional.pad(picture, border, value=self.spec.pad_value)
            height, width = picture.shape[2:]
        top = int(round((height - crop_h) / 2.0))  # noqa: RUF046 (torchvision's center_crop)
        left = int(round((width - crop_w) / 2.0))  # noqa: RUF046
        return picture[:, :, top : top + crop_h, left : left + crop_w]
