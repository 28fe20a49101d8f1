"""Prefetcher: frames made ready for the network when they arrive, while it looks at the one before.

Where a GPU runs the network, the upload of a frame costs the CPU next to nothing and overlaps with
the inference of another. Where the CPU does, both would want the same cores, so nothing is made
ahead there.
"""

import threading
import time
from dataclasses import dataclass

from node.image.frame import Image
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.preprocess.gpu import GpuPreprocessor, Uploaded


@dataclass(frozen=True, slots=True)
class PrefetchedInput:
    """What the network gets of a frame. maker: only there is it of use; took_ns: to make it."""

    uploaded: Uploaded
    maker: "Prefetcher"
    took_ns: int


class Prefetcher:
    """Uploads the frames of all cameras to one device.

    Any thread may ask, each for its own camera: a camera has a stream and pinned memory of its own.
    """

    def __init__(self, spec: PreprocessSpec, device: str) -> None:
        self._spec = spec
        self._device = device
        self._lock = threading.Lock()
        self._uploaders: dict[str, GpuPreprocessor] = {}

    def make(self, camera: str, image: Image) -> PrefetchedInput:
        """image: [height, width, 3] uint8 BGR. Raises RuntimeError where the GPU fails."""
        with self._lock:
            if camera not in self._uploaders:
                self._uploaders[camera] = GpuPreprocessor(self._spec, self._device)
            uploader = self._uploaders[camera]
        started = time.monotonic_ns()
        uploaded = uploader.begin(image)
        return PrefetchedInput(uploaded, self, time.monotonic_ns() - started)
