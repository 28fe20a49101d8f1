"""Compares the postprocessing of a detector with 300 candidate boxes with a plain Python loop."""

import numpy as np

from node.config.schema import DetectConfig
from node.diagnostics.benchmark import Row, compared
from node.image.frame import Image
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.tasks.decoders.grid import cells_of
from node.perception.tasks.detect import Detect

INPUT_PX = (416, 416)
CLASSES = 80
CANDIDATES = 300
SCORE, IOU = 0.25, 0.45
FRAME_PX = (720, 1280)
_SPEC = PreprocessSpec(
    resize_short_px=416,
    crop_px=INPUT_PX,
    interpolation="bilinear",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    fit="letterbox",
    pad_anchor="top-left",
)

Found = list[tuple[int, float, tuple[float, float, float, float]]]


def outputs() -> np.ndarray:
    """Seeded outputs [1, cells, 85] in YOLOX's format: 60 objects, each detected by 5 neighbouring
    cells, as in a real network's output."""
    random = np.random.default_rng(0)
    raw = np.zeros((1, cells_of(INPUT_PX), 5 + CLASSES), np.float32)
    raw[..., 4:] = random.uniform(0, 0.1, raw[..., 4:].shape)
    rows, columns = 28, INPUT_PX[1] // 8  # below lies padding
    for group in random.choice(rows * columns // 5, CANDIDATES // 5, replace=False):
        class_id, size = random.integers(0, CLASSES), random.uniform(1.0, 2.5, 2)
        for cell in range(5):
            output = raw[0, group * 5 + cell]
            output[:2] = np.array([2.5 - cell, 0.5]) + random.normal(
                0, 0.2, 2
            )  # all point at one centre
            output[2:4] = size + random.normal(0, 0.05, 2)
            output[4] = random.uniform(0.8, 1.0)
            output[5 + class_id] = random.uniform(0.5, 1.0)
    return raw


def plain(raw: np.ndarray) -> Found:
    """Decodes cell by cell and suppresses box by box, in plain Python."""
    zoom = min(INPUT_PX[0] / FRAME_PX[0], INPUT_PX[1] / FRAME_PX[1])
    candidates: Found = []
    index = 0
    for stride in (8, 16, 32):
        for y in range(INPUT_PX[0] // stride):
            for x in range(INPUT_PX[1] // stride):
                cell = raw[index]
                index += 1
                class_id = int(np.argmax(cell[5:]))
                score = float(cell[4] * cell[5 + class_id])
                if score < SCORE:
                    continue
                cx, cy = (cell[0] + x) * stride / zoom, (cell[1] + y) * stride / zoom
                w, h = np.exp(cell[2]) * stride / zoom, np.exp(cell[3]) * stride / zoom
                box = (
                    max(0.0, float(cx - w / 2)), max(0.0, float(cy - h / 2)),
                    min(float(FRAME_PX[1]), float(cx + w / 2)),
                    min(float(FRAME_PX[0]), float(cy + h / 2)),
                )  # fmt: skip
                candidates.append((class_id, score, box))
    kept: Found = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate[1]):
        if all(candidate[0] != other[0] or _iou(candidate[2], other[2]) <= IOU for other in kept):
            kept.append(candidate)
    return kept


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    shared = w * h
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def row(rounds: int) -> Row:
    """Compares both on the same outputs; fails where their boxes differ."""
    raw = outputs()
    names = tuple(f"class {index}" for index in range(CLASSES))
    config = DetectConfig(score=SCORE, iou=IOU, max_detections=1000)
    detect = Detect(names, "yolox", _SPEC, config)
    ours = detect.read((raw,), 0, FRAME_PX).detections
    theirs = plain(raw[0])
    if [detection.id for detection in ours] != [candidate[0] for candidate in theirs]:
        raise AssertionError("the plain loop finds other objects")
    nothing: Image = np.zeros((1, 1, 3), np.uint8)
    return compared(
        f"postprocessing, {CANDIDATES} candidates: plain loop / ours",
        lambda frame: plain(raw[0]),
        lambda frame: detect.read((raw,), 0, FRAME_PX),
        [nothing],
        rounds,
        f"{len(ours)} boxes stay",
    )
