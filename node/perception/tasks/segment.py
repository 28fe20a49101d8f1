"""The task `segment`: turns the scores of each class and pixel into areas and masks."""

from typing import TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from node.config.schema import SegmentConfig
from node.errors import FrameError
from node.perception.preprocess.geometry import PreprocessSpec, network_size, placed
from node.perception.tasks.base import Outputs, Prediction, of_image
from node.perception.tasks.named_classes import check_named
from perception_client.messages.kinds import Area, Box, Mask

ClassMap: TypeAlias = NDArray[np.int64] | NDArray[np.uint8]
"""[h, w], the class id of each pixel."""
NOT_FINITE = 255
"""In a map of classes: a pixel whose best score is NaN or infinity."""
MOST_CLASSES = NOT_FINITE
"""Most classes of a map in uint8."""


class Segment:
    """Reads logits [n, classes, h, w], or classes [n, h, w] uint8, where h and w may be smaller
    than the network's input.

    Args:
        names: of the model's classes, in order.
        spec: how frames are resized for the network.
        config: which classes to return, and whether with masks.

    Raises:
        SettingsError: the settings name unknown classes.
    """

    def __init__(self, names: tuple[str, ...], spec: PreprocessSpec, config: SegmentConfig) -> None:
        check_named("segment.classes", config.classes or (), names)
        self._names = names
        self._spec = spec
        self._config = config

    def read(self, outputs: Outputs, index: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`: areas and masks, largest first."""
        ids = self._class_map(of_image(outputs[0], index))
        ids, box = self._without_padding(ids, size)
        counts = _counts(ids, len(self._names))
        order = np.argsort(-counts, kind="stable")
        min_pixels = max(1, self._config.min_fraction * ids.size)
        class_ids = [
            int(class_id)
            for class_id in order
            if counts[class_id] >= min_pixels and self._wanted(self._names[class_id])
        ]
        areas = tuple(
            Area(
                id=class_id, name=self._names[class_id], fraction=float(counts[class_id] / ids.size)
            )
            for class_id in class_ids
        )
        return Prediction(
            areas=areas, masks=self._masks(ids, class_ids, box) if self._config.masks else ()
        )

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """As `Task.agreement`: the fraction of pixels of the same class, and the largest difference
        of a class's fraction of the picture."""
        actual, expected = (self._class_map(logits[0][0]) for logits in (outputs, reference))
        shares = [
            _counts(class_map, len(self._names)) / class_map.size
            for class_map in (actual, expected)
        ]
        return float((actual == expected).mean()), float(np.abs(shares[0] - shares[1]).max())

    def _wanted(self, name: str) -> bool:
        return self._config.classes is None or name in self._config.classes

    def _class_map(self, logits: NDArray[np.float32]) -> ClassMap:
        """Returns the best class of each pixel, [h, w]."""
        if logits.dtype == np.uint8 and logits.ndim == 2:
            return self._checked(logits)
        if logits.ndim != 3 or logits.shape[0] != len(self._names) or not logits.size:
            raise FrameError(
                f"model output: shape {logits.shape} for {len(self._names)} label names",
                fix="a segmentation gives [classes, height, width]",
            )
        class_map = _best_class(logits)
        if class_map is None:
            raise _not_finite()
        return class_map

    def _checked(self, classes: NDArray[np.float32]) -> ClassMap:
        """Returns a map that a GPU made, whose dtype is uint8."""
        highest = int(classes.max())
        if highest == NOT_FINITE:
            raise _not_finite()
        if highest >= len(self._names):
            raise FrameError(
                f"model output: class {highest} for {len(self._names)} label names",
                fix="take weights and label names of the same model",
            )
        return cast(ClassMap, classes)

    def _without_padding(self, ids: ClassMap, size: tuple[int, int]) -> tuple[ClassMap, Box]:
        """Returns the map without its padding, and the box in the frame that it covers, in px."""
        input_px = network_size(self._spec, *size)
        zoom_y, zoom_x, top, left = placed(self._spec, *size)
        rows, y1, y2 = _visible_span(ids.shape[0], input_px[0], size[0], zoom_y, top)
        columns, x1, x2 = _visible_span(ids.shape[1], input_px[1], size[1], zoom_x, left)
        return ids[rows, columns], Box(cx=(x1 + x2) / 2, cy=(y1 + y2) / 2, w=x2 - x1, h=y2 - y1)

    def _masks(self, ids: ClassMap, class_ids: list[int], box: Box) -> tuple[Mask, ...]:
        grid = _downscaled(ids, self._config.mask_px)
        height, width = grid.shape
        columns = grid.T.ravel()
        return tuple(
            Mask(
                class_id,
                self._names[class_id],
                width,
                height,
                box,
                run_lengths(columns == class_id),
            )
            for class_id in class_ids
        )


def _not_finite() -> FrameError:
    return FrameError(
        "model output: not finite (nan or infinity)",
        fix="the weights are damaged or overflow at this precision, try another of either",
    )


def _counts(ids: ClassMap, classes: int) -> NDArray[np.int64]:
    """Returns the number of pixels of each class."""
    if ids.dtype != np.uint8:
        return np.bincount(ids.ravel(), minlength=classes)
    # Three times as fast as numpy's bincount, which first widens the map to int64.
    counts = cv2.calcHist([np.ascontiguousarray(ids)], [0], None, [256], [0, 256])
    return counts.ravel()[:classes].astype(np.int64)


def _best_class(logits: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Returns the best class of each pixel, the first of equal ones; None where a best score is not
    finite. Class by class, which is faster than numpy's argmax along the first axis."""
    best = logits[0].copy()
    ids = np.zeros(best.shape, np.int64)
    for class_id in range(1, len(logits)):
        scores = logits[class_id]
        np.copyto(ids, class_id, where=scores > best)
        np.maximum(best, scores, out=best)  # also of nan
    return ids if np.isfinite(best).all() else None


def _visible_span(
    cells: int, input_px: int, frame_px: int, zoom: float, offset_px: float
) -> tuple[slice, float, float]:
    """Returns for one axis the cells that show the frame, and the range in the frame that they
    cover, in px."""
    start, end = max(0.0, offset_px), min(float(input_px), offset_px + frame_px * zoom)
    per_px = cells / input_px
    first = min(cells - 1, round(start * per_px))
    last = max(first + 1, round(end * per_px))
    return slice(first, last), (start - offset_px) / zoom, (end - offset_px) / zoom


def _downscaled(ids: ClassMap, longest: int) -> ClassMap:
    """Returns the map with its longer side reduced to at most `longest` cells."""
    if max(ids.shape) <= longest:
        return ids
    zoom = longest / max(ids.shape)
    size = [max(1, round(length * zoom)) for length in ids.shape]
    # The cell whose centre is nearest to that of each result.
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(np.int64)
        for count, length in zip(size, ids.shape, strict=True)
    )
    return ids[np.ix_(rows, columns)]


def run_lengths(inside: NDArray[np.bool_]) -> tuple[int, ...]:
    """Returns the lengths of alternating runs of False and True in [n]; the first run is of False
    and may be 0."""
    changes = np.flatnonzero(np.diff(inside)) + 1
    ends = [0, *changes.tolist(), inside.size]
    lengths = np.diff(ends).tolist()
    return tuple([0, *lengths] if inside.size and inside[0] else lengths)
