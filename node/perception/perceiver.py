"""Perceiver: image in, labels out. A model, its preprocessing and the runtime that runs it."""

import time
from dataclasses import dataclass

import torch

from node.config import ModelConfig
from node.frame import Image
from node.perception.catalogue import load_model
from node.perception.classify import top_labels
from node.perception.model import Model
from node.perception.preprocess import Preprocessor
from node.perception.runtime import Runtime
from node.perception.runtimes import build_runtime
from node.wire.messages import Label, ModelInfo

_ALL_THREADS = torch.get_num_threads()
"""What torch takes by itself: one thread for each core."""


@dataclass(frozen=True, slots=True)
class Perceived:
    """What was seen in one image, best first, and how long each step took in ns."""

    labels: tuple[Label, ...]
    preprocess_ns: int
    infer_ns: int
    postprocess_ns: int


class Perceiver:
    """Labels images, one at a time, on one thread."""

    def __init__(self, model: Model, runtime: Runtime, *, top_k: int) -> None:
        self._preprocess = Preprocessor(model.preprocess)
        self._runtime = runtime
        self._top_k = top_k
        self.names = model.label_names
        self.info = ModelInfo(
            name=model.name,
            task=model.task,
            runtime=runtime.info.runtime,
            precision=runtime.info.precision,
            device=runtime.info.device,
            digest=model.digest,
        )

    def perceive(self, image: Image) -> Perceived:
        """Labels [height, width, 3] uint8 BGR. Raises ModelError."""
        started = time.monotonic_ns()
        pixels = self._preprocess(image)
        preprocessed = time.monotonic_ns()
        logits = self._runtime.infer(pixels)
        inferred = time.monotonic_ns()
        labels = top_labels(logits[0], self.names, self._top_k)
        done = time.monotonic_ns()
        return Perceived(labels, preprocessed - started, inferred - preprocessed, done - inferred)


def build_perceiver(config: ModelConfig) -> Perceiver:
    """Loads the configured model and warms it up. Raises ModelError."""
    model = load_model(config.name, config.weights)
    runtime = build_runtime(model, config)
    # Beside another runtime only the preprocessing is torch's, which one thread does fastest: a
    # second pool of threads would fight the runtime's for the same cores.
    own_threads = config.threads or _ALL_THREADS if runtime.info.runtime == "torch" else 1
    torch.set_num_threads(own_threads)
    perceiver = Perceiver(model, runtime, top_k=config.top_k)
    height, width = model.preprocess.crop_px
    black = torch.zeros(height, width, 3, dtype=torch.uint8).numpy()
    for _ in range(2):  # the first pass allocates, the second runs as all later ones
        perceiver.perceive(black)
    return perceiver
