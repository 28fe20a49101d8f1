"""The task `segment`: from a score for each class and pixel to areas and masks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from node.config.schema import SegmentConfig
from node.errors import FrameError, ModelError
from node.perception.preprocess.geometry import PreprocessSpec, network_size, placed
from node.perception.tasks.base import Outputs, Prediction
from perception_client.messages.kinds import Area, Box, Mask


class Segment:
    """Reads logits [n, classes, h, w], where h and w may be a part of the input's.

    Raises ModelError for settings that name classes which the model has not.
    """

    def __init__(self, names: tuple[str, ...], spec: PreprocessSpec, config: SegmentConfig) -> None:
        unknown = sorted(set(config.classes or ()) - set(names))
        if unknown:
            raise ModelError(
                f"segment.classes: {unknown[0]!r} is no class of this model; its classes: "
                f"{', '.join(names)}"
            )
        self._names = names
        self._spec = spec
        self._config = config

    def read(self, outputs: Outputs, place: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`: the classes by area, the largest first."""
        ids = self._class_of_each(outputs[0][place])
        ids, box = self._of_picture(ids, size)
        counts = np.bincount(ids.ravel(), minlength=len(self._names))
        order = np.argsort(-counts, kind="stable")
        least = max(1, self._config.min_fraction * ids.size)
        found = [int(i) for i in order if counts[i] >= least and self._wanted(self._names[i])]
        areas = tuple(
            Area(id=i, name=self._names[i], fraction=float(counts[i] / ids.size)) for i in found
        )
        return Prediction(
            areas=areas, masks=self._masks(ids, found, box) if self._config.masks else ()
        )

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """The share of pixels of the same class, and of scores the largest difference of any
        class's share of the picture."""
        got, wanted = (self._class_of_each(x[0][0]) for x in (outputs, reference))
        shares = [
            np.bincount(x.ravel(), minlength=len(self._names)) / x.size for x in (got, wanted)
        ]
        return float((got == wanted).mean()), float(np.abs(shares[0] - shares[1]).max())

    def _wanted(self, name: str) -> bool:
        return self._config.classes is None or name in self._config.classes

    def _class_of_each(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """[h, w] the best class of each pixel."""
        if logits.ndim != 3 or logits.shape[0] != len(self._names):
            raise FrameError(
                f"model output: shape {logits.shape} for {len(self._names)} label names; "
                "a segmentation gives [classes, height, width]"
            )
        best, ids = torch.from_numpy(logits).max(0)
        if not bool(torch.isfinite(best).all()):
            raise FrameError(
                "model output: not finite (nan or infinity); "
                "the weights are damaged or overflow at this precision, try another of either"
            )
        found: NDArray[np.int64] = ids.numpy()
        return found

    def _of_picture(
        self, ids: NDArray[np.int64], size: tuple[int, int]
    ) -> tuple[NDArray[np.int64], Box]:
        """Without padding, and where in the frame it lies, in px."""
        input_px = network_size(self._spec, *size)
        zoom_y, zoom_x, top, left = placed(self._spec, *size)
        rows, y1, y2 = _seen(ids.shape[0], input_px[0], size[0], zoom_y, top)
        columns, x1, x2 = _seen(ids.shape[1], input_px[1], size[1], zoom_x, left)
        return ids[rows, columns], Box(cx=(x1 + x2) / 2, cy=(y1 + y2) / 2, w=x2 - x1, h=y2 - y1)

    def _masks(self, ids: NDArray[np.int64], found: list[int], box: Box) -> tuple[Mask, ...]:
        grid = _shrunk(ids, self._config.mask_px)
        height, width = grid.shape
        columns = grid.T.ravel()
        return tuple(
            Mask(i, self._names[i], width, height, box, run_lengths(columns == i)) for i in found
        )


def _seen(
    cells: int, input_px: int, frame_px: int, zoom: float, before: float
) -> tuple[slice, float, float]:
    """On one axis: which cells of the answer show the picture, and from where to where in the
    frame they go."""
    start, end = max(0.0, before), min(float(input_px), before + frame_px * zoom)
    per_px = cells / input_px
    first = min(cells - 1, round(start * per_px))
    last = max(first + 1, round(end * per_px))
    return slice(first, last), (start - before) / zoom, (end - before) / zoom


def _shrunk(ids: NDArray[np.int64], longest: int) -> NDArray[np.int64]:
    """The same map with at most `longest` cells on its longer side."""
    if max(ids.shape) <= longest:
        return ids
    zoom = longest / max(ids.shape)
    size = [max(1, round(length * zoom)) for length in ids.shape]
    picture = torch.from_numpy(ids).to(torch.float32)[None, None]
    small: NDArray[np.int64] = (
        functional.interpolate(picture, size, mode="nearest-exact")[0, 0].to(torch.int64).numpy()
    )
    return small


def run_lengths(inside: NDArray[np.bool_]) -> tuple[int, ...]:
    """Lengths of the runs of [n] by turns outside and inside, the first outside and perhaps 0."""
    changes = np.flatnonzero(np.diff(inside)) + 1
    ends = [0, *changes.tolist(), inside.size]
    lengths = np.diff(ends).tolist()
    return tuple([0, *lengths] if inside.size and inside[0] else lengths)
