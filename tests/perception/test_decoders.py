"""Decoders of detectors: each gives what a plain loop gives, or refuses the frame."""

import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from conftest import ROOT
from numpy.typing import NDArray

from node.config.schema import DetectConfig
from node.errors import FrameError
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.tasks.decoders.registry import DECODERS
from node.perception.tasks.detect import Detect

CLASSES, INPUT_PX = 3, (480, 640)
SPEC = PreprocessSpec(480, INPUT_PX, "bilinear", (0, 0, 0), (1, 1, 1), fit="stretch")
Arrays = tuple[NDArray[np.float32], ...]
Object = tuple[float, float, float, float, float, int]
"""x1, y1, x2, y2, score, class."""


def xywh(cx: float, cy: float, w: float, h: float) -> tuple[float, float, float, float]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def pixels(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Boxes of cx, cy, w, h, a part of them outside the picture."""
    return np.concatenate(
        [random.uniform(-200, 680, (count, 2)), random.uniform(2, 300, (count, 2))], 1
    )


def of_anchor_free(random: np.random.Generator, count: int) -> Arrays:
    scores = random.uniform(0, 1, (count, CLASSES)) ** 3
    return (np.concatenate([pixels(random, count), scores], 1).T[None].astype(np.float32),)


def loop_anchor_free(outputs: Arrays, threshold: float) -> Iterator[Object]:
    for cx, cy, w, h, *scores in outputs[0][0].T.tolist():
        best = max(scores)
        if best >= threshold:
            yield *xywh(cx, cy, w, h), best, scores.index(best)


def of_end_to_end(random: np.random.Generator, count: int) -> Arrays:
    boxes, ids = pixels(random, count), random.integers(0, CLASSES, (count, 1))
    corners = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    rows = np.concatenate([*corners, random.uniform(0, 1, (count, 1)), ids], 1)
    return (rows[None].astype(np.float32),)


def loop_end_to_end(outputs: Arrays, threshold: float) -> Iterator[Object]:
    for *box, score, class_id in outputs[0][0].tolist():
        if score >= threshold:
            yield *box, score, int(class_id)


def of_yolov5(random: np.random.Generator, count: int) -> Arrays:
    scores = random.uniform(0, 1, (count, 1 + CLASSES))
    return (np.concatenate([pixels(random, count), scores], 1)[None].astype(np.float32),)


def loop_yolov5(outputs: Arrays, threshold: float) -> Iterator[Object]:
    for cx, cy, w, h, objectness, *scores in outputs[0][0].tolist():
        score = objectness * max(scores)
        if score >= threshold:
            yield *xywh(cx, cy, w, h), score, scores.index(max(scores))


def of_detr(random: np.random.Generator, count: int, spare: int) -> Arrays:
    logits = random.normal(-1, 2, (1, count, CLASSES + spare))
    return logits.astype(np.float32), random.uniform(0, 1, (1, count, 4)).astype(np.float32)


def loop_detr_sigmoid(outputs: Arrays, threshold: float) -> Iterator[Object]:
    logits, boxes = (output[0].tolist() for output in outputs)
    pairs = [
        (logit, query, class_id)
        for query, row in enumerate(logits)
        for class_id, logit in enumerate(row)
        if 1 / (1 + math.exp(-logit)) >= threshold
    ]
    best = sorted(pairs, reverse=True)[: len(logits)]
    for logit, query, class_id in sorted(best, key=lambda pair: pair[1:]):
        yield *in_pixels(xywh(*boxes[query])), 1 / (1 + math.exp(-logit)), class_id


def loop_detr_softmax(outputs: Arrays, threshold: float) -> Iterator[Object]:
    for row, box in zip(*(output[0].tolist() for output in outputs), strict=True):
        powers = [math.exp(logit) for logit in row]
        best = max(powers[:-1])
        if best / sum(powers) >= threshold:
            yield *in_pixels(xywh(*box)), best / sum(powers), powers.index(best)


def in_pixels(box: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1 * INPUT_PX[1], y1 * INPUT_PX[0], x2 * INPUT_PX[1], y2 * INPUT_PX[0]


def of_ssd(random: np.random.Generator, count: int) -> Arrays:
    corners = random.uniform(0, 0.5, (1, count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, 0.6, (1, count, 2))], 2)
    ids = random.integers(1, CLASSES + 1, (1, count))
    parts = boxes, random.uniform(0, 1, (1, count)), ids, np.array([count * 3 // 4])
    return tuple(part.astype(np.float32) for part in parts)


def loop_ssd(outputs: Arrays, threshold: float) -> Iterator[Object]:
    boxes, scores, ids = (output[0].tolist() for output in outputs[:3])
    for index in range(int(outputs[3][0])):
        y1, x1, y2, x2 = boxes[index]
        if scores[index] >= threshold:
            yield *in_pixels((x1, y1, x2, y2)), scores[index], int(ids[index]) - 1


Make = Callable[[np.random.Generator, int], Arrays]
Loop = Callable[[Arrays, float], Iterator[Object]]
FAMILIES: dict[str, tuple[Make, Loop]] = {
    "anchor_free": (of_anchor_free, loop_anchor_free),
    "end_to_end": (of_end_to_end, loop_end_to_end),
    "yolov5": (of_yolov5, loop_yolov5),
    "detr_sigmoid": (lambda random, count: of_detr(random, count, 0), loop_detr_sigmoid),
    "detr_softmax": (lambda random, count: of_detr(random, count, 1), loop_detr_softmax),
    "ssd": (of_ssd, loop_ssd),
}
families = pytest.mark.parametrize("name", FAMILIES)


def decoded(name: str, outputs: Arrays, threshold: float = 0.4) -> list[Object]:
    found = DECODERS[name].decode(outputs, 0, threshold, CLASSES, INPUT_PX)
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.ids.tolist(), strict=True)
    return [(*box, score, class_id) for box, score, class_id in rows]


def assert_as_the_loop(name: str, outputs: Arrays, threshold: float = 0.4) -> int:
    expected = list(FAMILIES[name][1](outputs, threshold))
    np.testing.assert_allclose(decoded(name, outputs, threshold), expected, atol=1e-3, rtol=0)
    return len(expected)


@families
@pytest.mark.parametrize("count", [9, 300, 100_000])
def test_each_decoder_gives_what_a_plain_loop_gives(name: str, count: int) -> None:
    outputs = FAMILIES[name][0](np.random.default_rng(count), count)
    assert assert_as_the_loop(name, outputs, 0.4 if count < 1000 else 0.8) > 0
    if count < 1000:
        assert assert_as_the_loop(name, outputs, 1e-6) > 3
        assert decoded(name, outputs, 1.0) == []


@families
def test_the_detections_of_100_000_boxes_are_bounded(name: str) -> None:
    outputs = FAMILIES[name][0](np.random.default_rng(1), 100_000)
    task = Detect(("a", "b", "c"), name, SPEC, DetectConfig())
    seen = task.read(outputs, 0, (240, 320)).detections
    assert len(seen) == 100
    for detection in seen:
        x1, y1, x2, y2 = xywh(*(getattr(detection.box, key) for key in ("cx", "cy", "w", "h")))
        assert -1e-3 <= x1 < x2 <= 320 + 1e-3
        assert -1e-3 <= y1 < y2 <= 240 + 1e-3


@families
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_costs_the_frame(name: str, bad: float) -> None:
    outputs = FAMILIES[name][0](np.random.default_rng(2), 50)
    for part in range(len(outputs)):
        spoiled = tuple(output.copy() for output in outputs)
        spoiled[part].reshape(-1)[-1] = bad
        with pytest.raises(FrameError, match=r"not finite|detections in 50 rows"):
            decoded(name, spoiled)


@families
def test_no_rows_are_nothing_seen(name: str) -> None:
    outputs = FAMILIES[name][0](np.random.default_rng(3), 50)
    empty = tuple(
        output[..., :0]
        if name == "anchor_free"
        else output[:, :0]
        if output.ndim > 1
        else output * 0
        for output in outputs
    )
    assert decoded(name, empty) == []


@families
def test_zeros_are_nothing_seen_or_no_frame(name: str) -> None:
    outputs = tuple(np.zeros_like(part) for part in FAMILIES[name][0](np.random.default_rng(4), 50))
    task = Detect(("a", "b", "c"), name, SPEC, DetectConfig())
    if name.startswith("detr"):  # a network's logits never are
        with pytest.raises(FrameError, match="logits from 0 to 1"):
            task.read(outputs, 0, (240, 320))
    else:
        assert task.read(outputs, 0, (240, 320)).detections == ()


@pytest.mark.parametrize(
    ("name", "part", "column"),
    [
        ("anchor_free", 0, 5),
        ("end_to_end", 0, 4),
        ("yolov5", 0, 4),
        ("yolov5", 0, 6),
        ("ssd", 1, 0),
    ],
)
def test_scores_before_the_sigmoid_are_no_scores(name: str, part: int, column: int) -> None:
    outputs = FAMILIES[name][0](np.random.default_rng(5), 50)
    rows = outputs[part][0] if name != "anchor_free" else outputs[part][0].T
    rows.reshape(50, -1)[:, column] = 3.5
    if name == "yolov5":
        rows[:, 4] = np.maximum(rows[:, 4], 0.9)
    with pytest.raises(FrameError, match=r"scores from .* to 3\.5, and decoder .* from 0 to 1"):
        decoded(name, outputs)


@families
def test_boxes_of_another_unit_are_no_boxes(name: str) -> None:
    outputs = FAMILIES[name][0](np.random.default_rng(6), 50)
    which = 1 if name.startswith("detr") else 0
    part = outputs[which]
    in_fractions = name in ("detr_sigmoid", "detr_softmax", "ssd")
    boxes = part[:, :4] if name == "anchor_free" else part[..., :4]
    boxes[:] = boxes * 300 if in_fractions else boxes / 3000
    with pytest.raises(FrameError, match=r"boxes (up to|lie between 0 and 1)"):
        decoded(name, outputs)


def test_class_ids_are_whole_numbers_that_have_labels() -> None:
    outputs = of_end_to_end(np.random.default_rng(7), 50)
    outputs[0][..., 4:] = outputs[0][..., [5, 4]]  # some exporter's class before its score
    outputs[0][..., 4] = np.clip(outputs[0][..., 4], 0, 1)
    with pytest.raises(FrameError, match="class ids that are no whole numbers"):
        decoded("end_to_end", outputs)
    for name, part, wrong in (
        ("end_to_end", 0, 3.0),
        ("end_to_end", 0, -1.0),
        ("ssd", 2, 0.0),
        ("ssd", 2, 4.0),
    ):
        outputs = FAMILIES[name][0](np.random.default_rng(7), 50)
        outputs[1 if name == "ssd" else 0][..., 4 * (name != "ssd")] = 0.9
        outputs[part][..., 5 if name == "end_to_end" else 0] = wrong
        with pytest.raises(FrameError, match=r"class -?\d of 3 labels"):
            Detect(("a", "b", "c"), name, SPEC, DetectConfig()).read(outputs, 0, INPUT_PX)


def test_cells_may_stand_first_unless_the_order_is_in_doubt() -> None:
    (outputs,) = of_anchor_free(np.random.default_rng(8), 60)
    assert decoded("anchor_free", (outputs.transpose(0, 2, 1),)) == decoded(
        "anchor_free", (outputs,)
    )
    with pytest.raises(FrameError, match=r"\[7, 7\]: both lengths are the 4 \+ 3 columns"):
        decoded("anchor_free", (outputs[..., :7],))


def test_rows_of_objects_are_no_cells_and_cells_no_rows() -> None:
    """Both have six columns, for one or two classes, and the lengths may be free in the graph."""
    rows = of_end_to_end(np.random.default_rng(9), 300)
    for name, classes in (("anchor_free", 2), ("yolov5", 1)):
        with pytest.raises(FrameError, match='not of cells; write decoder = "end_to_end"'):
            DECODERS[name].decode(rows, 0, 0.4, classes, INPUT_PX)
    for cells in ((np.zeros((1, 6300, 6), np.float32),), (np.zeros((1, 18900, 6), np.float32),)):
        with pytest.raises(FrameError, match="of k objects"):
            DECODERS["end_to_end"].decode(cells, 0, 0.4, 2, INPUT_PX)


def test_yolox_s_raw_output_is_not_that_of_yolov5() -> None:
    raw = np.random.default_rng(10).uniform(0, 1.5, (1, 6300, 8)).astype(np.float32)
    raw[..., 4:] = 0.9
    with pytest.raises(FrameError, match='boxes in cells and not in pixels; write decoder = "yol'):
        decoded("yolov5", (raw,))


def test_the_documentation_lists_the_registry() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    for decoder in DECODERS.values():
        assert f"\n| `{decoder.name}` | {decoder.reads} |\n" in page
    assert len(re.findall(r"^\| `\w+` \| .*`\[", page, re.M)) == len(DECODERS)
