"""The task `detect`: from a detector's outputs to boxes in pixels of the captured frame."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from node.config.schema import DetectConfig
from node.errors import FrameError, ModelError
from node.perception.preprocess.geometry import PreprocessSpec, placed
from node.perception.tasks.base import Outputs, Prediction
from node.perception.tasks.decode import DECODERS, Candidates, Floats
from perception_client.messages.kinds import Box, Detection

MOST_CANDIDATES = 3000
"""Boxes that go into the non-maximum suppression at most, the best ones: a network gone wild costs
milliseconds, not minutes."""
_AGREEMENT_SCORE = 0.35
_AGREEMENT_IOU = 0.9
_NEVER = math.inf


class Detect:
    """Decodes, thresholds, suppresses and maps back. Raises ModelError for settings that name
    classes which the model has not."""

    def __init__(
        self, names: tuple[str, ...], decoder: str, spec: PreprocessSpec, config: DetectConfig
    ) -> None:
        self._names = names
        self._decode = DECODERS[decoder]
        self._spec = spec
        self._config = config
        self._thresholds = _thresholds(names, config)
        # What lay in the padding is cut to nothing; a detector of whole frames cuts by itself.
        self._smallest_px = 0.0 if spec.fit == "none" else 1e-3
        self._lowest = float(self._thresholds.min())

    def read(self, outputs: Outputs, place: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`: detections, best first."""
        candidates = self._decode(
            outputs, place, self._lowest, len(self._names), self._spec.crop_px
        )
        _check(candidates, len(self._names))
        boxes = self._in_frame(candidates.boxes, size)
        wanted = candidates.scores >= self._thresholds[candidates.ids]
        sides = boxes[:, 2:] - boxes[:, :2]
        wanted &= (sides >= max(self._config.min_box_px, self._smallest_px)).all(1)
        places = np.flatnonzero(wanted)
        order = np.argsort(-candidates.scores[places], kind="stable")
        places = places[order[:MOST_CANDIDATES]]
        if not candidates.suppressed:
            places = places[_nms(boxes, candidates, places, self._config.iou)]
        return Prediction(detections=self._detections(candidates, boxes, places))

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """Share of the reference's objects of score 0.35 or more that are found, with the same
        class and an IoU of 0.9 or more."""
        size = self._spec.crop_px
        got, wanted = (self.read(x, 0, size).detections for x in (outputs, reference))
        sure = [detection for detection in wanted if detection.score >= _AGREEMENT_SCORE]
        partners = [_partner(detection, got) for detection in sure]
        pairs = [(a, b) for a, b in zip(sure, partners, strict=True) if b is not None]
        share = len(pairs) / len(sure) if sure else 1.0
        return share, max((abs(a.score - b.score) for a, b in pairs), default=0.0)

    def _in_frame(self, boxes: Floats, size: tuple[int, int]) -> Floats:
        """From the network's input to the frame, cut at its edges."""
        if self._spec.fit == "none":
            return boxes
        zoom_y, zoom_x, top, left = placed(self._spec, *size)
        offset = np.array([left, top, left, top], np.float32)
        zoom = np.array([zoom_x, zoom_y, zoom_x, zoom_y], np.float32)
        limits = np.array([size[1], size[0], size[1], size[0]], np.float32)
        found: Floats = np.clip((boxes - offset) / zoom, 0, limits)
        return found

    def _detections(
        self, candidates: Candidates, boxes: Floats, places: NDArray[np.int64]
    ) -> tuple[Detection, ...]:
        """places: of the candidates that stay, best first."""
        places = places[: self._config.max_detections]
        corners = boxes[places].astype(np.float64)
        sizes = corners[:, 2:] - corners[:, :2]
        shapes = np.concatenate([corners[:, :2] + sizes / 2, sizes], 1).tolist()
        ids = candidates.ids[places].tolist()
        scores = np.minimum(candidates.scores[places], 1.0).tolist()
        return tuple(
            Detection(class_id, self._names[class_id], score, Box(*shape))
            for class_id, score, shape in zip(ids, scores, shapes, strict=True)
        )


def _thresholds(names: tuple[str, ...], config: DetectConfig) -> NDArray[np.float32]:
    """The lowest score of each class, infinity for those that are not wanted."""
    for key, named in (("classes", config.classes or ()), ("class_scores", config.class_scores)):
        unknown = sorted(set(named) - set(names))
        if unknown:
            raise ModelError(
                f"detect.{key}: {unknown[0]!r} is no class of this model; its classes: "
                f"{', '.join(names[:8])}, ... ({len(names)} in all)"
            )
    found = np.full(len(names), config.score, np.float32)
    for name, score in config.class_scores.items():
        found[[i for i, own in enumerate(names) if own == name]] = score
    if config.classes is not None:
        found[[i for i, name in enumerate(names) if name not in config.classes]] = _NEVER
    return found


def _check(candidates: Candidates, classes: int) -> None:
    """Raises FrameError for boxes that cannot be right, before any of them is used."""
    ids, boxes = candidates.ids, candidates.boxes
    if len(ids) and (ids.min() < 0 or ids.max() >= classes):
        raise FrameError(
            f"model output: class {int(ids.max())} of {classes} labels; "
            "name all labels that the model was trained with"
        )
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise FrameError(
            "model output: boxes end before they begin; the decoder wants (x1, y1, x2, y2)"
        )


def _nms(
    boxes: Floats, candidates: Candidates, places: NDArray[np.int64], iou: float
) -> NDArray[np.int64]:
    from torchvision import ops  # takes a second, and a classifier needs none of it

    kept: NDArray[np.int64] = ops.batched_nms(
        torch.from_numpy(boxes[places]),
        torch.from_numpy(candidates.scores[places]),
        torch.from_numpy(candidates.ids[places]),
        iou,
    ).numpy()
    return kept


def _partner(detection: Detection, others: tuple[Detection, ...]) -> Detection | None:
    alike = [x for x in others if x.id == detection.id]
    best = max(alike, key=lambda x: detection.box.iou(x.box), default=None)
    return best if best and detection.box.iou(best.box) >= _AGREEMENT_IOU else None
