"""SecondStage: applies a classifier to the crop of each detection."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from node.config.schema import CropsConfig
from node.errors import SettingsError
from node.image.frame import Image
from node.perception.tasks.named_classes import check_named
from perception_client.messages.kinds import Detection, Label, ModelInfo

MAX_BATCH = 8
"""Most crops in one inference."""


def check_tasks(model: str, task: str, second_model: str, second_task: str | None) -> None:
    """Raises SettingsError unless the model is a detector and the second one a classifier.

    Args:
        model: name of the model, for the error.
        task: its task.
        second_model: name of the model of the crops, `crops.model`.
        second_task: its task; None where that is not known yet.
    """
    if task != "detect":
        raise SettingsError(
            f'crops.model = "{second_model}": model {model!r} finds no objects to look at',
            fix="take a detector as model.name, or leave crops.model out",
        )
    if second_task not in (None, "classify"):
        raise SettingsError(
            f'crops.model = "{second_model}": task "{second_task}"', fix="crops need a classifier"
        )


class _Labelled(Protocol):
    @property
    def labels(self) -> tuple[Label, ...]: ...

    @property
    def degraded(self) -> tuple[str, ...]: ...


class _Classifier(Protocol):
    names: tuple[str, ...]

    @property
    def info(self) -> ModelInfo: ...

    def perceive_all(self, images: Sequence[Image]) -> Sequence[_Labelled]: ...

    def can_batch(self, size: int) -> bool: ...


class SecondStage:
    """Labels the crops of a frame's detections in batches. Not thread-safe.

    Batches have 1, 2, 4 or 8 crops, padded by repeating the last, since engines compile for each
    batch size. A classifier that is made for one image gets one crop at a time.

    Args:
        classifier: labels the crops.
        config: which detections to label.
        classes: names of the detector's classes.

    Raises:
        SettingsError: the configuration names unknown classes.
    """

    def __init__(
        self, classifier: _Classifier, config: CropsConfig, classes: tuple[str, ...]
    ) -> None:
        check_named("crops.classes", config.classes or (), classes)
        self._classifier = classifier
        self._config = config
        self.names = classifier.names
        self.degraded: tuple[str, ...] = ()
        self._most = MAX_BATCH

    @property
    def info(self) -> ModelInfo:
        """The classifier and the runtime in use."""
        return self._classifier.info

    def warm_up(self) -> None:
        """Finds the largest batch, and runs every batch size. Raises ModelError."""
        largest = _padded(min(MAX_BATCH, self._config.max_crops))
        if largest > 1 and not self._classifier.can_batch(largest):
            largest = 1
        self._most = largest
        size = 1
        while size <= largest:
            self._classifier.perceive_all([np.zeros((64, 64, 3), np.uint8)] * size)
            size *= 2

    def label(self, image: Image, detections: tuple[Detection, ...]) -> tuple[Detection, ...]:
        """Returns all detections; the best of the configured classes get `labels`.

        Args:
            image: [height, width, 3] uint8 BGR, in which they were detected.
            detections: best first.

        Raises:
            ModelError: the classifier failed.
        """
        classes = self._config.classes
        indices = [
            index
            for index, detection in enumerate(detections)
            if classes is None or detection.name in classes
        ][: self._config.max_crops]
        if not indices:
            return detections
        crops = [self._crop(image, detections[index]) for index in indices]
        labelled = list(detections)
        for index, labels in zip(indices, self._labels(crops), strict=True):
            labelled[index] = replace(detections[index], labels=labels)
        return tuple(labelled)

    def _labels(self, crops: list[Image]) -> Iterator[tuple[Label, ...]]:
        for start in range(0, len(crops), self._most):
            batch = crops[start : start + self._most]
            filled = batch + batch[-1:] * (_padded(len(batch)) - len(batch))
            results = self._classifier.perceive_all(filled)[: len(batch)]
            self.degraded = results[0].degraded
            yield from (result.labels for result in results)

    def _crop(self, image: Image, detection: Detection) -> Image:
        """Returns a square around the box, clipped to the frame: classifiers read the central
        square of an image."""
        box = detection.box
        half = max(box.w, box.h) * (1 + self._config.margin) / 2
        height, width = image.shape[:2]
        left, right = _span(box.cx, half, width)
        top, bottom = _span(box.cy, half, height)
        return image[top:bottom, left:right]


def _span(centre: float, half: float, size: int) -> tuple[int, int]:
    """Returns the range of pixels, at least one."""
    start = min(max(0, round(centre - half)), size - 1)
    return start, max(start + 1, min(size, round(centre + half)))


def _padded(count: int) -> int:
    """Returns the next power of two."""
    return 1 << (count - 1).bit_length()
