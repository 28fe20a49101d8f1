"""Perceiver: images in, labels out. A model, its preprocessing and the runtime that runs it."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from node.config.schema import CropsConfig, DetectConfig, ModelConfig, NodeConfig, SegmentConfig
from node.errors import FrameError, ModelError
from node.image.frame import Image
from node.perception.models.model import Model
from node.perception.models.registry import load_model
from node.perception.preprocess.geometry import Preprocessor
from node.perception.preprocess.gpu import GpuPreprocessor
from node.perception.preprocess.prefetch import PrefetchedInput, Prefetcher
from node.perception.runtimes.base import Runtime
from node.perception.runtimes.fallback import CpuFallback
from node.perception.runtimes.select import build_runtime
from node.perception.tasks.base import Prediction, Task
from node.perception.tasks.classify import Classify
from node.perception.tasks.detect import Detect
from node.perception.tasks.second_stage import SecondStage
from node.perception.tasks.segment import Segment
from perception_client.messages.kinds import Detection, Label, ModelInfo

log = logging.getLogger(__name__)

_ALL_THREADS = torch.get_num_threads()
"""What torch takes by itself: one thread for each core."""
MAX_BATCH = 8
"""Most cameras in one batch: with more, the first would wait long for the last."""
_WORTH_BATCHING = 0.9
"""Share of the time one by one that a batch may take: it makes the first frame wait for all."""


class _Preprocess(Protocol):
    def __call__(self, image: Image) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """What was seen in one image, and how long each step took in ns, for the whole batch that the
    image was in; the second model's work on crops is part of the postprocessing. degraded: why
    this is below what was configured."""

    seen: Prediction
    preprocess_ns: int
    infer_ns: int
    postprocess_ns: int
    degraded: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[Label, ...]:
        """Best first; empty for a detector."""
        return self.seen.labels

    @property
    def detections(self) -> tuple[Detection, ...]:
        """Best first; empty for a classifier."""
        return self.seen.detections


class Perceiver:
    """Labels images on one thread. at_most: how many at once are worth it, here.

    recovering: it is busy with bringing up the CPU in the place of a GPU that failed.
    """

    def __init__(
        self,
        model: Model,
        runtime: Runtime,
        *,
        top_k: int,
        detect: DetectConfig | None = None,
        segment: SegmentConfig | None = None,
        crops: SecondStage | None = None,
    ) -> None:
        """crops: what looks at each detection's crop. Raises ModelError for settings that do not
        fit the model."""
        self._model = model
        self._runtime = runtime
        self._crops = crops
        self._task = task_of(model, top_k, detect or DetectConfig(), segment or SegmentConfig())
        self.recovering = False
        self._preprocess: _Preprocess = _preprocess_for(model, runtime)
        self._ahead = _ahead_for(model, runtime)
        self.names = model.label_names
        self.at_most = 1
        self._info_of = runtime.info
        self._info = self._model_info()

    @property
    def info(self) -> ModelInfo:
        """The model and what runs it now."""
        if self._runtime.info is not self._info_of:
            self._info_of = self._runtime.info
            self._info = self._model_info()
        return self._info

    @property
    def crop_info(self) -> ModelInfo | None:
        """What looks at the crops, None where nothing does."""
        return self._crops.info if self._crops else None

    @property
    def crop_names(self) -> tuple[str, ...]:
        """Its classes, in order; none where nothing does."""
        return self._crops.names if self._crops else ()

    def task_for(self, config: NodeConfig) -> Task:
        """What would read the model's outputs by another configuration. Raises ModelError."""
        return task_of(self._model, config.model.top_k, config.detect, config.segment)

    def use(self, task: Task) -> None:
        """Reads the outputs so from the next frame on."""
        self._task = task

    def perceive(self, image: Image) -> InferenceResult:
        """Labels [height, width, 3] uint8 BGR. Raises ModelError."""
        (seen,) = self.perceive_all([image])
        return seen

    def prefetch(self, camera: str, image: Image) -> PrefetchedInput | None:
        """Begins with an image of a camera while another is being looked at; for `perceive_all`.
        Any thread may call this, one at a time for each camera. None where that gains nothing, the
        GPU fails or the image does not serve: whose turn it is will find that too, and say so."""
        ahead = self._ahead
        if ahead is None:
            return None
        try:
            return ahead.make(camera, image)
        except (RuntimeError, ValueError):
            return None

    def perceive_all(
        self, images: Sequence[Image], ready: Sequence[object | None] = ()
    ) -> list[InferenceResult]:
        """Labels several images, of any sizes, in one inference. When a GPU fails, the CPU labels
        them; once it works again, it is used again. ready: for each what `prefetch` made of it, if
        anything. Raises ModelError."""
        if isinstance(self._runtime, CpuFallback) and self._runtime.recover():
            self._use_device_of_runtime()
        try:
            return self._perceive(images, ready)
        except FrameError:
            raise
        except (ModelError, RuntimeError) as error:
            if not isinstance(self._runtime, CpuFallback) or self._runtime.degraded:
                raise
            self.recovering = True
            try:
                self._runtime.take_over(error)
            finally:
                self.recovering = False
        # The failure may affect the whole GPU, so the preprocessing leaves the GPU as well.
        self._use_device_of_runtime()
        return self._perceive(images, ())

    def _use_device_of_runtime(self) -> None:
        """Preprocesses on the device that the runtime has changed to."""
        self._preprocess = _preprocess_for(self._model, self._runtime)
        self._ahead = _ahead_for(self._model, self._runtime)

    def _perceive(
        self, images: Sequence[Image], ready: Sequence[object | None]
    ) -> list[InferenceResult]:
        started = time.monotonic_ns()
        made = [x for x in ready if isinstance(x, PrefetchedInput) and x.maker is self._ahead]
        before_ns = 0  # what was done of it ahead
        if len(made) == len(images):
            pixels = torch.cat([one.uploaded.for_network() for one in made])
            before_ns = sum(one.took_ns for one in made)
        else:
            pixels = self._prepared(images)
        preprocessed = time.monotonic_ns()
        preprocess_ns = before_ns + preprocessed - started
        outputs = self._runtime.infer(pixels)
        inferred = time.monotonic_ns()
        degraded = self._runtime.degraded
        perceived = []
        ordered = tuple(outputs[place] for place in self._model.output_order)
        for place, image in enumerate(images):
            seen = self._task.read(ordered, place, image.shape[:2])
            if self._crops is not None:
                seen = replace(seen, detections=self._crops.label(image, seen.detections))
            done = time.monotonic_ns()
            perceived.append(
                InferenceResult(
                    seen, preprocess_ns, inferred - preprocessed, done - inferred,
                    (*degraded, *self._crops.degraded) if self._crops else degraded,
                )
            )  # fmt: skip
        return perceived

    def warm_up(self, cameras: int) -> None:
        """Runs every size of batch that may come, and finds out whether batches are worth it."""
        one_s = self._time(1)
        if self._crops is not None:
            self._crops.warm_up()
        most = min(cameras, MAX_BATCH)
        if most > 1 and self._is_worth_it(most, one_s):
            self.at_most = most
            for size in range(2, most):
                self._time(size)

    def _is_worth_it(self, most: int, one_s: float) -> bool:
        if self._model.decoder == "boxes" or self._model.preprocess.fit == "short":
            return False  # as many boxes as a picture has, or another size for each camera
        try:
            return self._time(most) < _WORTH_BATCHING * most * one_s
        except ModelError as error:
            log.info("model %s: made for one frame at a time; cameras take turns", self._model.name)
            log.debug("a batch was refused: %s", error)
            return False

    def _time(self, size: int) -> float:
        """Median seconds of a batch of black frames."""
        height, width = self._model.preprocess.crop_px
        black = [torch.zeros(height, width, 3, dtype=torch.uint8).numpy()] * size
        self.perceive_all(black)  # the first pass allocates, and engines compile for the size
        return statistics.median(_seconds(lambda: self.perceive_all(black)) for _ in range(3))

    def _prepared(self, images: Sequence[Image]) -> torch.Tensor:
        if len(images) == 1:
            return self._preprocess(images[0])
        return torch.cat([self._preprocess(image).clone() for image in images])

    def _model_info(self) -> ModelInfo:
        running = self._runtime.info
        return ModelInfo(
            name=self._model.name,
            task=self._model.task,
            runtime=running.runtime,
            precision=running.precision,
            device=running.device,
            digest=self._model.digest,
        )


def task_of(model: Model, top_k: int, detect: DetectConfig, segment: SegmentConfig) -> Task:
    """What reads the model's outputs. Raises ModelError for settings that do not fit it."""
    if model.task == "detect":
        return Detect(model.label_names, model.decoder, model.preprocess, detect)
    if model.task == "segment":
        return Segment(model.label_names, model.preprocess, segment)
    return Classify(model.label_names, top_k)


def build_perceiver(
    config: ModelConfig,
    cameras: int = 1,
    *,
    detect: DetectConfig | None = None,
    crops: CropsConfig | None = None,
    segment: SegmentConfig | None = None,
) -> Perceiver:
    """Loads the configured model, and the one for crops, and warms them up for so many cameras.
    Raises ModelError."""
    model = load_model(config.name, config.weights)
    runtime = build_runtime(model, config)
    second = _build_crops(model, config, crops) if crops and crops.model else None
    set_torch_threads(runtime, config.threads)
    perceiver = Perceiver(
        model, runtime, top_k=config.top_k, detect=detect, segment=segment, crops=second
    )
    perceiver.warm_up(cameras)
    return perceiver


def _build_crops(model: Model, config: ModelConfig, crops: CropsConfig) -> SecondStage:
    """The second model, on the same device and threads, in its own best runtime."""
    assert crops.model is not None
    if model.task != "detect":
        raise ModelError(
            f'crops.model = "{crops.model}": model {model.name!r} finds no objects to look at; '
            "take a detector as model.name, or leave crops.model out"
        )
    second = load_model(crops.model, crops.weights)
    if second.task != "classify":
        raise ModelError(
            f'crops.model = "{crops.model}": task "{second.task}"; a crop wants a classifier'
        )
    own = config.model_copy(
        update={"name": crops.model, "weights": crops.weights, "precision": "auto"}
    )
    classifier = Perceiver(second, build_runtime(second, own), top_k=crops.top_k)
    return SecondStage(classifier, crops, model.label_names)


def set_torch_threads(runtime: Runtime, threads: int | None) -> None:
    """Gives torch its share of the CPU threads (None: one a core).

    Beside another runtime only the preprocessing is torch's, which one thread does fastest: a
    second pool of threads would fight the runtime's for the same cores.
    """
    own = threads or _ALL_THREADS if runtime.info.runtime == "torch" else 1
    torch.set_num_threads(own)


def _preprocess_for(model: Model, runtime: Runtime) -> _Preprocess:
    if runtime.info.device == "cpu":
        return Preprocessor(model.preprocess)
    return GpuPreprocessor(model.preprocess, runtime.info.device)


def _ahead_for(model: Model, runtime: Runtime) -> Prefetcher | None:
    on_cpu = runtime.info.device == "cpu"
    return None if on_cpu else Prefetcher(model.preprocess, runtime.info.device)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
