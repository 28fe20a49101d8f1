"""Prefetcher: preprocesses frames on arrival, during the inference of the previous frame.

With inference on a GPU, the upload of a frame costs the CPU little and overlaps with the inference
of another. With inference on the CPU both would compete for the same cores, so prefetching is
disabled there.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from node.image.frame import Image
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.preprocess.gpu import GpuPreprocessor, Uploaded


@dataclass(frozen=True, slots=True)
class PrefetchedInput:
    """The network's input for one frame.

    Attributes:
        uploaded: the preprocessed frame.
        maker: the prefetcher; the input is valid only for the same one.
        took_ns: time that the start took.
    """

    uploaded: Uploaded
    maker: "Prefetcher"
    took_ns: int


def joined(inputs: Sequence[PrefetchedInput]) -> torch.Tensor:
    """Returns the inputs as one batch, on the device, for the current stream."""
    pixels = [item.uploaded.for_network() for item in inputs]
    return pixels[0] if len(pixels) == 1 else torch.cat(pixels)


class Prefetcher:
    """Uploads the frames of all cameras to one device. Thread-safe for different cameras: each
    camera has its own stream and pinned memory.

    Args:
        spec: the model's input geometry.
        device: a torch device, such as `cuda:0`.
    """

    def __init__(self, spec: PreprocessSpec, device: str) -> None:
        self._spec = spec
        self._device = device
        self._lock = threading.Lock()
        self._uploaders: dict[str, GpuPreprocessor] = {}

    def make(self, camera: str, image: Image) -> PrefetchedInput:
        """Starts the preprocessing of [height, width, 3] uint8 BGR. Raises RuntimeError if the GPU
        fails, ValueError for another shape or dtype."""
        with self._lock:
            if camera not in self._uploaders:
                self._uploaders[camera] = GpuPreprocessor(self._spec, self._device)
            uploader = self._uploaders[camera]
        started = time.monotonic_ns()
        uploaded = uploader.begin(image)
        return PrefetchedInput(uploaded, self, time.monotonic_ns() - started)
