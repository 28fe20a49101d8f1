"""Perceiver: turns images into labels with one model, its preprocessing and a runtime."""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from node.config.schema import CropsConfig, DetectConfig, ModelConfig, NodeConfig, SegmentConfig
from node.errors import FrameError, ModelError
from node.image.frame import Image
from node.perception.models.model import Model
from node.perception.models.registry import load_model
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.base import Pixels, Runtime
from node.perception.runtimes.fallback import CpuFallback
from node.perception.runtimes.same_outputs import same_output
from node.perception.runtimes.select import build_runtime
from node.perception.tasks.base import Outputs, Prediction, Task
from node.perception.tasks.classify import Classify
from node.perception.tasks.detect import Detect
from node.perception.tasks.second_stage import SecondStage, check_tasks
from node.perception.tasks.segment import Segment
from perception_client.messages.kinds import Detection, Label, ModelInfo

if TYPE_CHECKING:
    from node.perception.preprocess.prefetch import PrefetchedInput, Prefetcher

log = logging.getLogger(__name__)

MAX_BATCH = 8
"""Most cameras in one batch: in a larger one the first frame would wait too long for the last."""
_WORTH_BATCHING = 0.9
"""Largest time of a batch, as a fraction of the time of its frames one by one: in a batch the first
frame waits for all."""


class _Preprocess(Protocol):
    def batch(self, images: Sequence[Image]) -> Pixels: ...


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """The prediction for one image, and the time of each step in ns. The times are those of the
    whole batch; the second model on crops counts as postprocessing.

    Attributes:
        seen: the prediction.
        preprocess_ns: time of the preprocessing.
        infer_ns: time of the network.
        postprocess_ns: time from the network's outputs to the prediction.
        degraded: why inference runs below its configuration, in words.
    """

    seen: Prediction
    preprocess_ns: int
    infer_ns: int
    postprocess_ns: int
    degraded: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[Label, ...]:
        """Labels, best first; empty for a detector."""
        return self.seen.labels

    @property
    def detections(self) -> tuple[Detection, ...]:
        """Detections, best first; empty for a classifier."""
        return self.seen.detections


class Perceiver:
    """Labels images. Not thread-safe, except for `prefetch`: one thread owns it.

    Attributes:
        names: names of the model's classes.
        at_most: largest batch that is faster than its images one by one; 1 before `warm_up`.
        recovering: the CPU runtime is being built after a failure of the GPU.
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
        """Makes the preprocessing and the task of the model.

        Args:
            model: the loaded model.
            runtime: runs the model's network.
            top_k: labels of each image.
            detect: filters of the boxes; None: the defaults.
            segment: filters of the areas; None: the defaults.
            crops: second stage applied to each detection; None for none.

        Raises:
            ModelError: the settings do not fit the model.
        """
        self._model = model
        self._runtime = runtime
        self._second_stage = crops
        self._task = task_of(model, top_k, detect or DetectConfig(), segment or SegmentConfig())
        self.recovering = False
        self._preprocess: _Preprocess = _preprocess_for(model, runtime)
        self._prefetcher = _prefetcher_for(model, runtime)
        self.names = model.label_names
        self.at_most = 1
        self._described_runtime = runtime.info
        self._info = self._model_info()

    @property
    def info(self) -> ModelInfo:
        """The model and the runtime in use."""
        if self._runtime.info is not self._described_runtime:
            self._described_runtime = self._runtime.info
            self._info = self._model_info()
        return self._info

    @property
    def crop_info(self) -> ModelInfo | None:
        """The model and runtime of the second stage, None without one."""
        return self._second_stage.info if self._second_stage else None

    @property
    def crop_names(self) -> tuple[str, ...]:
        """Names of the second stage's classes, in order; empty without one."""
        return self._second_stage.names if self._second_stage else ()

    def task_for(self, config: NodeConfig) -> Task:
        """Returns the task for another configuration of the same model. Raises ModelError."""
        return task_of(self._model, config.model.top_k, config.detect, config.segment)

    def use(self, task: Task) -> None:
        """Sets the task for the next frames."""
        self._task = task

    def perceive(self, image: Image) -> InferenceResult:
        """Labels [height, width, 3] uint8 BGR. Raises ModelError."""
        (result,) = self.perceive_all([image])
        return result

    def prefetch(self, camera: str, image: Image) -> "PrefetchedInput | None":
        """Starts preprocessing an image of a camera during the inference of another, for
        `perceive_all`. Thread-safe for different cameras. Returns None without a GPU, and on any
        failure, which `perceive_all` then reports."""
        prefetcher = self._prefetcher
        if prefetcher is None:
            return None
        try:
            return prefetcher.make(camera, image)
        except (FrameError, RuntimeError, ValueError):
            return None

    def perceive_all(
        self, images: Sequence[Image], prefetched: Sequence[object | None] = ()
    ) -> list[InferenceResult]:
        """Labels several images in one inference.

        If a GPU fails, the CPU labels them; once the GPU works again, it is used again.

        Args:
            images: each [height, width, 3] uint8 BGR, of any size.
            prefetched: for each image the result of `prefetch`, or None.

        Raises:
            ModelError: the runtime failed, and no fallback is left.
        """
        if isinstance(self._runtime, CpuFallback) and self._runtime.recover():
            self._use_device_of_runtime()
        try:
            return self._perceive(images, prefetched)
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
        try:
            return self._perceive(images, ())
        except ModelError as failed:
            if len(images) == 1 or isinstance(failed, FrameError):
                raise
        # The GPU took batches, and the exported graph on the CPU is for single images.
        self.at_most = 1
        return [self._perceive([image], ())[0] for image in images]

    def _use_device_of_runtime(self) -> None:
        """Preprocesses on the device that the runtime has changed to."""
        self._preprocess = _preprocess_for(self._model, self._runtime)
        self._prefetcher = _prefetcher_for(self._model, self._runtime)

    def _perceive(
        self, images: Sequence[Image], prefetched: Sequence[object | None]
    ) -> list[InferenceResult]:
        started = time.monotonic_ns()
        pixels, prefetch_ns = self._prefetched(prefetched, len(images))
        if pixels is None:
            pixels = self._preprocess.batch(images)
        preprocessed = time.monotonic_ns()
        preprocess_ns = prefetch_ns + preprocessed - started
        outputs = self._runtime.infer(pixels)
        inferred = time.monotonic_ns()
        degraded = self._runtime.degraded
        results = []
        ordered = tuple(outputs[index] for index in self._model.output_order)
        for index, image in enumerate(images):
            seen = self._task.read(ordered, index, image.shape[:2])
            if self._second_stage is not None:
                seen = replace(seen, detections=self._second_stage.label(image, seen.detections))
            finished = time.monotonic_ns()
            results.append(
                InferenceResult(
                    seen, preprocess_ns, inferred - preprocessed, finished - inferred,
                    (*degraded, *self._second_stage.degraded) if self._second_stage else degraded,
                )
            )  # fmt: skip
        return results

    def _prefetched(
        self, prefetched: Sequence[object | None], count: int
    ) -> "tuple[Pixels | None, int]":
        """Returns a batch of prefetched inputs and the time that they took, in ns; None where an
        input is missing, or is of another device or model."""
        if self._prefetcher is None:
            return None, 0
        from node.perception.preprocess.prefetch import PrefetchedInput, joined

        inputs = [
            item
            for item in prefetched
            if isinstance(item, PrefetchedInput) and item.maker is self._prefetcher
        ]
        if len(inputs) < count:
            return None, 0
        return joined(inputs), sum(item.took_ns for item in inputs)

    def warm_up(self, cameras: int) -> None:
        """Runs every batch size up to the number of cameras, and sets `at_most`. Raises
        ModelError."""
        single_s = self._time(1)
        if self._second_stage is not None:
            self._second_stage.warm_up()
        max_batch = min(cameras, MAX_BATCH)
        if max_batch > 1 and self._is_batching_faster(max_batch, single_s):
            self.at_most = max_batch
            for size in range(2, max_batch):
                self._time(size)

    def _is_batching_faster(self, batch_size: int, single_s: float) -> bool:
        if self._model.decoder == "boxes" or self._model.preprocess.free_size:
            return False
            # The number of boxes differs between images, or the input size between cameras.
        if not self.can_batch(batch_size):
            log.info("model %s: made for one frame at a time; cameras take turns", self._model.name)
            return False
        return self._time(batch_size) < _WORTH_BATCHING * batch_size * single_s

    def can_batch(self, size: int) -> bool:
        """Whether a batch gives each image what it gives the image alone: a network made for one
        image refuses a batch, or mixes its images."""
        height, width = self._model.preprocess.crop_px
        noise = np.random.default_rng(0)
        images: list[Image] = [
            noise.integers(0, 256 * (index + 1) // size, (height, width, 3), np.uint8)
            for index in range(size)
        ]
        try:
            alone = [self._outputs([image]) for image in images]
            together = self._outputs(images)
        except (ModelError, RuntimeError) as error:
            log.debug("a batch was refused: %s", error)
            return False
        return all(
            output.shape[0] == size
            and all(same_output(output[index], alone[index][position][0]) for index in range(size))
            for position, output in enumerate(together)
        )

    def _outputs(self, images: Sequence[Image]) -> Outputs:
        """Returns the network's outputs for images, which the next inference leaves as they are."""
        return tuple(
            output.copy() for output in self._runtime.infer(self._preprocess.batch(images))
        )

    def _time(self, size: int) -> float:
        """Returns the median time of a batch of black frames, in seconds."""
        height, width = self._model.preprocess.crop_px
        black = [np.zeros((height, width, 3), np.uint8)] * size
        # The first pass allocates memory, and engines compile for the batch size.
        self.perceive_all(black)
        return statistics.median(_seconds(lambda: self.perceive_all(black)) for _ in range(3))

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
    """Returns the task that reads a model's outputs. Raises ModelError for settings that do not fit
    the model."""
    if model.classical is not None:
        return model.classical.task(detect)
    if model.task == "detect":
        return Detect(model.label_names, model.decoder, model.preprocess, detect, model.first_class)
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
    """Loads the configured model, and the one for crops, and warms them up.

    Args:
        config: the model.
        cameras: number of cameras, which limits the batch size.
        detect: filters of the boxes; None: the defaults.
        crops: the second stage; None for none.
        segment: filters of the areas; None: the defaults.

    Raises:
        ModelError: a model cannot be loaded or run.
    """
    model = load_model(config.name, config.weights)
    runtime = build_runtime(model, config)
    second_stage = _build_second_stage(model, config, crops) if crops and crops.model else None
    perceiver = Perceiver(
        model, runtime, top_k=config.top_k, detect=detect, segment=segment, crops=second_stage
    )
    try:
        perceiver.warm_up(cameras)
    except FrameError as error:  # of the black frames, which no camera has sent
        raise ModelError(f"model {config.name!r}: {error.problem}", fix=error.fix) from error
    return perceiver


def _build_second_stage(model: Model, config: ModelConfig, crops: CropsConfig) -> SecondStage:
    """Returns the second stage, on the same device and threads, in its own default runtime."""
    assert crops.model is not None
    check_tasks(model.name, model.task, crops.model, None)
    second_model = load_model(crops.model, crops.weights)
    check_tasks(model.name, model.task, crops.model, second_model.task)
    second_config = config.model_copy(
        update={"name": crops.model, "weights": crops.weights, "precision": "auto"}
    )
    classifier = Perceiver(
        second_model, build_runtime(second_model, second_config), top_k=crops.top_k
    )
    return SecondStage(classifier, crops, model.label_names)


def _preprocess_for(model: Model, runtime: Runtime) -> _Preprocess:
    if runtime.info.device == "cpu":
        return Preprocessor(model.preprocess)
    from node.perception.preprocess.gpu import GpuPreprocessor

    return GpuPreprocessor(model.preprocess, runtime.info.device)


def _prefetcher_for(model: Model, runtime: Runtime) -> "Prefetcher | None":
    if runtime.info.device == "cpu":
        return None
    from node.perception.preprocess.prefetch import Prefetcher

    return Prefetcher(model.preprocess, runtime.info.device)


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
