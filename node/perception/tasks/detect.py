"""The task `detect`: turns a detector's outputs into boxes in pixels of the captured frame."""

import math
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from node.config.schema import DetectConfig
from node.errors import FrameError
from node.perception.preprocess.geometry import PreprocessSpec, placed
from node.perception.tasks.base import Outputs, Prediction
from node.perception.tasks.decoders.base import Candidates, Floats
from node.perception.tasks.decoders.registry import DECODERS
from node.perception.tasks.named_classes import check_named
from perception_client.messages.kinds import Box, Detection

MOST_CANDIDATES = 3000
"""Most boxes passed to non-maximum suppression, the best ones: bounds the time to milliseconds if a
faulty network returns thousands."""
AGREEMENT_SCORE = 0.35
"""Score from which a reference box counts for the agreement."""
_AGREEMENT_IOU = 0.9
"""Intersection over union from which two boxes agree."""
_FAR = 0.5
_FAR_PX = 256.0
"""How far outside of the network's input a box may lie, as a share of its size and beside that in
px: cells at the edge give boxes outside."""
_NEVER = math.inf


class Detect:
    """Decodes boxes, applies thresholds and non-maximum suppression, and maps the boxes to the
    frame.

    Args:
        names: of the model's classes, in order.
        decoder: a key of DECODERS.
        spec: how frames are resized for the network.
        config: filters of the boxes.
        first_class: number that the network gives the first label; None: that of the decoder.

    Raises:
        SettingsError: the settings name unknown classes.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        decoder: str,
        spec: PreprocessSpec,
        config: DetectConfig,
        first_class: int | None = None,
    ) -> None:
        self._names = names
        self._decode = DECODERS[decoder].decode
        usual = DECODERS[decoder].first_class
        self._shift = usual - (usual if first_class is None else first_class)
        self._spec = spec
        self._config = config
        self._thresholds = score_thresholds(names, config)
        # A box in the padding is clipped to zero size; a detector with fit `none` clips its boxes
        # itself.
        self._smallest_px = 0.0 if spec.keeps_frame else 1e-3
        self._lowest = float(self._thresholds.min())

    def read(self, outputs: Outputs, index: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`: detections, best first."""
        with np.errstate(over="ignore"):  # of wild numbers, which `_check` refuses
            candidates = self._decode(
                outputs, index, self._lowest, len(self._names), self._spec.crop_px
            )
        if self._shift:
            candidates = replace(candidates, ids=candidates.ids + self._shift)
        _check(candidates, len(self._names))
        if not self._spec.keeps_frame:
            _check_inside(candidates.boxes, self._spec.crop_px)
        boxes = self._in_frame(candidates.boxes, size)
        accepted = candidates.scores >= self._thresholds[candidates.ids]
        sides = boxes[:, 2:] - boxes[:, :2]
        accepted &= (sides >= max(self._config.min_box_px, self._smallest_px)).all(1)
        indices = np.flatnonzero(accepted)
        order = np.argsort(-candidates.scores[indices], kind="stable")
        indices = indices[order[:MOST_CANDIDATES]]
        if not candidates.suppressed:
            indices = indices[_nms(boxes, candidates, indices, self._config.iou)]
        return Prediction(detections=self._detections(candidates, boxes, indices))

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """As `Task.agreement`: the fraction of the reference's objects of score 0.35 or more that
        were found with the same class and an IoU of 0.9 or more."""
        size = self._spec.crop_px
        actual, expected = (
            self.read(candidate, 0, size).detections for candidate in (outputs, reference)
        )
        confident = [detection for detection in expected if detection.score >= AGREEMENT_SCORE]
        partners = [_best_match(detection, actual) for detection in confident]
        pairs = [
            (reference_box, own_box)
            for reference_box, own_box in zip(confident, partners, strict=True)
            if own_box is not None
        ]
        share = len(pairs) / len(confident) if confident else 1.0
        return share, max(
            (abs(reference_box.score - own_box.score) for reference_box, own_box in pairs),
            default=0.0,
        )

    def _in_frame(self, boxes: Floats, size: tuple[int, int]) -> Floats:
        """Maps boxes from the network's input to the frame and clips them to it."""
        if self._spec.keeps_frame:
            return boxes
        zoom_y, zoom_x, top, left = placed(self._spec, *size)
        offset = np.array([left, top, left, top], np.float32)
        zoom = np.array([zoom_x, zoom_y, zoom_x, zoom_y], np.float32)
        limits = np.array([size[1], size[0], size[1], size[0]], np.float32)
        clipped: Floats = np.clip((boxes - offset) / zoom, 0, limits)
        return clipped

    def _detections(
        self, candidates: Candidates, boxes: Floats, indices: NDArray[np.int64]
    ) -> tuple[Detection, ...]:
        """indices: of the remaining candidates, best first."""
        indices = indices[: self._config.max_detections]
        corners = boxes[indices].astype(np.float64)
        sizes = corners[:, 2:] - corners[:, :2]
        shapes = np.concatenate([corners[:, :2] + sizes / 2, sizes], 1).tolist()
        ids = candidates.ids[indices].tolist()
        scores = np.minimum(candidates.scores[indices], 1.0).tolist()
        return tuple(
            Detection(class_id, self._names[class_id], score, Box(*shape))
            for class_id, score, shape in zip(ids, scores, shapes, strict=True)
        )


def score_thresholds(names: tuple[str, ...], config: DetectConfig) -> NDArray[np.float32]:
    """Returns the score threshold of each class, infinity for excluded classes. Raises
    SettingsError where the settings name unknown classes."""
    check_named("detect.classes", config.classes or (), names)
    check_named("detect.class_scores", config.class_scores, names, undo="{}")
    thresholds = np.full(len(names), config.score, np.float32)
    for name, score in config.class_scores.items():
        thresholds[
            [class_id for class_id, class_name in enumerate(names) if class_name == name]
        ] = score
    if config.classes is not None:
        thresholds[
            [class_id for class_id, name in enumerate(names) if name not in config.classes]
        ] = _NEVER
    return thresholds


def _check(candidates: Candidates, classes: int) -> None:
    """Raises FrameError for invalid boxes or class ids."""
    ids, boxes = candidates.ids, candidates.boxes
    if len(ids) and (ids.min() < 0 or ids.max() >= classes):
        wrong = int(ids.min() if ids.min() < 0 else ids.max())
        raise FrameError(
            f"model output: class {wrong} of {classes} labels",
            fix="name all labels that the model was trained with; if it counts them from another "
            "number, write first_class = 0 or 1 into its card",
        )
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise FrameError(
            "model output: boxes end before they begin", fix="the decoder needs (x1, y1, x2, y2)"
        )


def _check_inside(boxes: Floats, input_px: tuple[int, int]) -> None:
    """Raises FrameError for boxes far outside of the network's input. Cut off at the edge of the
    frame, such objects would count as not seen."""
    if not len(boxes):
        return
    height, width = input_px
    limits = np.array([width, height], np.float32)
    margin = _FAR * limits + _FAR_PX
    away = (boxes[:, :2] > limits + margin) | (boxes[:, 2:] < -margin)
    if away.any():
        raise FrameError(
            f"model output: boxes outside of the network's input of {width} x {height} px",
            fix="the decoder needs boxes in the network's input: correct decoder or input.size, or "
            "export the model so",
        )


def _nms(
    boxes: Floats, candidates: Candidates, indices: NDArray[np.int64], iou: float
) -> NDArray[np.int64]:
    if not len(indices):
        return indices
    corners = boxes[indices].astype(np.float64)
    sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    kept = cv2.dnn.NMSBoxesBatched(
        sizes.tolist(), candidates.scores[indices].tolist(), candidates.ids[indices].tolist(),
        score_threshold=0.0, nms_threshold=iou,
    )  # fmt: skip
    return np.asarray(kept, np.int64)


def _best_match(detection: Detection, others: tuple[Detection, ...]) -> Detection | None:
    same_class = [other for other in others if other.id == detection.id]
    best = max(same_class, key=lambda other: detection.box.iou(other.box), default=None)
    return best if best and detection.box.iou(best.box) >= _AGREEMENT_IOU else None
