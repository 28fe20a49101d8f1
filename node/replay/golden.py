"""Golden files: the messages of an earlier replay, one JSON object a line, and the comparison with
them."""

import json
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from node.errors import ConfigError, MessageError
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import (
    Area,
    Box,
    Detection,
    Label,
    LabelsMessage,
    Mask,
    ModelInfo,
    Pose,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OF_THIS_RUN = frozenset(
    {"session", "published_ns", "published_mono_ns", "published_boot_ns", "timing_ns", "retained"}
)
"""Fields that depend on the run and not on the recording; they are not compared."""
OF_THE_RUNTIME = frozenset({"model", "degraded"})
"""Fields that depend on the runtime; they are compared only without a tolerance."""
_COMPARED_APART = frozenset({"labels", "detections", "areas", "masks"})
"""Fields that are compared item by item."""
_GRID = 128
"""Cells a side of the grid on which masks of different grids are compared."""
_SAME_OBJECT_IOU = 0.5
"""Least overlap (intersection over union) of two boxes of one class that count as one object."""
_CELLS_OF_ROUNDING = 2
"""Cells in which two masks may differ at any tolerance: one cell is much of a small mask."""

Map = dict[str, Any]
Kind = Literal[
    "frame missing",
    "frame added",
    "order",
    "vanished",
    "appeared",
    "score",
    "box",
    "corners",
    "pose",
    "mask",
    "track",
    "field",
]


@dataclass(frozen=True, slots=True)
class Difference:
    """One change."""

    kind: Kind
    line: int | None
    """In the golden file, from 1; None for an unexpected message."""
    camera: str
    frame_id: int | None
    media_ns: int | None
    what: str
    """The changed field, or the name of the changed label."""
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a comparison."""

    messages: int
    """Messages of this run."""
    expected: int
    """Messages in the golden file."""
    differing: int
    """Messages of this run with a difference."""
    tolerance: float
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Whether nothing changed."""
        return not self.differences


def read_golden(file: Path) -> list[Map]:
    """The messages of a `--jsonl` file. Raises ConfigError naming file and line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"{file} cannot be read: {reason}", fix="make it with --jsonl in place of --expect"
        ) from error
    if not lines:
        raise ConfigError(
            f"{file} holds no messages", fix="make it again with --jsonl, of a replay with frames"
        )
    return [_read_line(file, number, line) for number, line in enumerate(lines, start=1)]


def check_model(golden: list[Map], file: Path, model: ModelInfo) -> None:
    """Raises ConfigError if a golden file names another model than the one that runs: every
    difference would be one of the models."""
    for message in golden:
        named = message.get("model")
        if not isinstance(named, dict):
            continue
        if (named.get("name"), named.get("digest")) != (model.name, model.digest):
            raise ConfigError(
                f"{file} was made with the model {named.get('name')!s:.64} "
                f"({named.get('digest')!s:.12}), and this replay runs {model.name} "
                f"({model.digest:.12})",
                fix="name the model of the file with --model, or make the file again with --jsonl",
            )


class Comparison:
    """Compares messages with golden ones as they arrive, frame by frame.

    A frame that occurs several times is compared each time, in order.

    Args:
        golden: the expected messages, in the order of their lines.
        tolerance: the allowed difference of a score or fraction, and the amount by which the
            overlap of two boxes or masks (intersection over union) may fall short of 1. With 0
            everything must be the same to the last bit.
    """

    def __init__(self, golden: list[Map], tolerance: float = 0.0) -> None:
        self._tolerance = tolerance
        self._expected: defaultdict[_Key, deque[tuple[int, Map]]] = defaultdict(deque)
        for line, message in enumerate(golden, 1):
            self._expected[_key(message)].append((line, message))
        self._count = len(golden)
        self._messages = 0
        self._differing = 0
        self._last_line = 0
        self._differences: list[Difference] = []

    def add(self, message: Map) -> None:
        """Compares the next message."""
        self._messages += 1
        got: Map = json.loads(json.dumps(message))
        candidates = self._expected[_key(got)]
        differences: list[Difference]
        if not candidates:
            differences = [_difference("frame added", None, got, "message", "", _summary(got))]
        else:
            line, expected = candidates.popleft()
            differences = list(_changes(line, expected, got, self._tolerance))
            if line < self._last_line:
                differences.append(
                    _difference("order", line, got, "message", f"before line {self._last_line}", "")
                )
            self._last_line = max(line, self._last_line)
        self._differing += bool(differences)
        self._differences += differences

    def verdict(self) -> Verdict:
        """The result, in which golden messages without a counterpart are missing frames."""
        missing = [
            _difference("frame missing", line, message, "message", _summary(message), "")
            for line, message in sorted(
                (entry for entries in self._expected.values() for entry in entries),
                key=lambda entry: entry[0],
            )
        ]
        return Verdict(
            self._messages,
            self._count,
            self._differing,
            self._tolerance,
            (*self._differences, *missing),
        )


_Key = tuple[str, str, Any]


def _key(message: Map) -> _Key:
    """Identifies a message by its frame; without a frame (a status other than `ok`) by `seq`."""
    by = "seq" if message.get("frame_id") is None else "frame_id"
    return str(message.get("camera")), by, message.get(by)


def _changes(line: int, expected: Map, got: Map, tolerance: float) -> Iterator[Difference]:
    ignored = OF_THIS_RUN | _COMPARED_APART | (OF_THE_RUNTIME if tolerance else frozenset())
    for key in sorted((expected.keys() | got.keys()) - ignored):
        for field, old, new in _parts(key, expected.get(key), got.get(key)):
            if old != new:
                yield _difference("field", line, got, field, _json(old), _json(new))
    if all(expected.get(key) == got.get(key) for key in _COMPARED_APART):
        return
    before, now = _typed(line, expected), _typed(line, got)
    changes = {
        "labels": [*_labels(before.labels, now.labels, tolerance)],
        "detections": [*_detections(before.detections, now.detections, tolerance)],
        "areas": [*_areas(before.areas, now.areas, tolerance)],
        "masks": [*_masks(before.masks, now.masks, tolerance)],
    }
    for key, named in changes.items():
        # Typed: a file of an earlier version lacks the keys that were added since.
        same = getattr(before, key) == getattr(now, key)
        unnamed = [] if tolerance or same else _last_bits(key, expected, got)
        for kind, subject, old, new in named or unnamed:
            yield _difference(kind, line, got, subject, old, new)


def _parts(key: str, old: object, new: object) -> Iterator[tuple[str, object, object]]:
    """A field, or where both sides are maps each of their keys: its name and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for part in sorted(old.keys() | new.keys()):
            yield f"{key}.{part}", old.get(part), new.get(part)
    else:
        yield key, old, new


_Change = tuple[Kind, str, str, str]


def _last_bits(key: str, expected: Map, got: Map) -> list[_Change]:
    """A difference that no kind of change describes: the order of equal items, a last bit."""
    return [("field", key, _json(expected.get(key, [])), _json(got.get(key, [])))]


def _labels(
    before: tuple[Label, ...], now: tuple[Label, ...], tolerance: float
) -> Iterator[_Change]:
    olds, news = ({_class(label): label for label in labels} for labels in (before, now))
    for label in before:
        same = news.get(_class(label))
        if same is None:
            if not _fell_off(label, before, now, tolerance):
                yield "vanished", label.name, f"{label.score:.4f}", ""
        elif _differ(label.score, same.score, tolerance):
            yield "score", label.name, *_scores(label.score, same.score)
        elif label.stable != same.stable:
            yield "field", f"{label.name}: stable", str(label.stable), str(same.stable)
        elif label.since_ns != same.since_ns:
            yield "field", f"{label.name}: since_ns", str(label.since_ns), str(same.since_ns)
    for label in now:
        if _class(label) not in olds and not _fell_off(label, now, before, tolerance):
            yield "appeared", label.name, "", f"{label.score:.4f}"
    old_order = [_class(label) for label in before if _class(label) in news]
    new_order = [_class(label) for label in now if _class(label) in olds]
    for old_class, new_class in zip(old_order, new_order, strict=True):
        if old_class != new_class and _differ(
            olds[old_class].score, olds[new_class].score, 2 * tolerance
        ):
            yield "order", "labels", olds[old_class].name, olds[new_class].name
            return


def _fell_off(
    label: Label, own: tuple[Label, ...], other: tuple[Label, ...], tolerance: float
) -> bool:
    """Whether a label may be missing from the other list because top-k ends that list, and scores
    there are within the tolerance. The best label may not be missing, nor a stable one, which is
    listed in addition to the top k."""
    if not tolerance or not other or label is own[0] or label.stable:
        return False
    ends_by_top_k = all(extra.stable for extra in own[len(other) :])
    return ends_by_top_k and other[-1].score >= label.score - tolerance


def _detections(
    before: tuple[Detection, ...], now: tuple[Detection, ...], tolerance: float
) -> Iterator[_Change]:
    unmatched = list(now)
    for old in before:
        best = max(
            (new for new in unmatched if _class(new) == _class(old)),
            key=lambda new: old.box.iou(new.box),
            default=None,
        )
        if best is None or old.box.iou(best.box) < _SAME_OBJECT_IOU:
            yield "vanished", old.name, _of_detection(old), ""
            continue
        unmatched.remove(best)
        if old.box != best.box and (not tolerance or 1 - old.box.iou(best.box) > tolerance):
            yield "box", old.name, _of_detection(old), f"IoU {old.box.iou(best.box):.4f}"
        yield from _of_tags(old, best, tolerance)
        if _differ(old.score, best.score, tolerance):
            yield "score", old.name, *_scores(old.score, best.score)
        if old.track != best.track:
            yield "track", old.name, str(old.track), str(best.track)
        for kind, label, expected, got in _labels(old.labels, best.labels, tolerance):
            yield kind, f"{old.name}: {label}", expected, got
    for new in unmatched:
        yield "appeared", new.name, "", _of_detection(new)


def _of_tags(old: Detection, new: Detection, tolerance: float) -> Iterator[_Change]:
    """With a tolerance, corners may move by that share of the box's longer side, and the middle of
    a tag by that share of its distance."""
    allowed_px = tolerance * max(old.box.w, old.box.h)
    if len(old.corners) != len(new.corners) or any(
        math.dist(*pair) > allowed_px for pair in zip(old.corners, new.corners, strict=True)
    ):
        yield "corners", old.name, _json(old.corners), _json(new.corners)
    before, now = old.pose, new.pose
    if before is None or now is None or not tolerance:
        differs = before != now
    else:
        moved_m = math.dist(before.translation_m, now.translation_m)
        differs = moved_m > tolerance * before.distance_m
    if differs:
        yield "pose", old.name, _of_pose(before), _of_pose(now)


def _of_pose(pose: Pose | None) -> str:
    return "none" if pose is None else _json([*pose.translation_m, *pose.rotation])


def _masks(before: tuple[Mask, ...], now: tuple[Mask, ...], tolerance: float) -> Iterator[_Change]:
    unmatched = list(now)
    for old in before:
        best = max(
            (new for new in unmatched if _class(new) == _class(old)),
            key=lambda new: (old == new, old.box.iou(new.box)),
            default=None,
        )
        if best is None:
            yield "vanished", f"mask of {old.name}", _of_mask(old), ""
            continue
        unmatched.remove(best)
        if old != best and (not tolerance or _masks_differ(old, best, tolerance)):
            yield "mask", old.name, _of_mask(old), _of_mask(best)
    for new in unmatched:
        yield "appeared", f"mask of {new.name}", "", _of_mask(new)


def _masks_differ(old: Mask, new: Mask, tolerance: float) -> bool:
    """Whether the overlap of two masks falls short of 1 by more than the tolerance."""
    if (old.width, old.height, old.box) == (new.width, new.height, new.box):
        old_cells, new_cells = _cells(old), _cells(new)
    else:
        old_cells, new_cells = (_on_grid(mask, (old.box, new.box)) for mask in (old, new))
    differing, union = int((old_cells ^ new_cells).sum()), int((old_cells | new_cells).sum())
    disjoint = differing == union > 0
    return disjoint or differing > tolerance * union + _CELLS_OF_ROUNDING


def _cells(mask: Mask) -> "NDArray[np.bool_]":
    """The mask as [width, height] bool."""
    import numpy as np

    return np.frombuffer(mask.cells(), np.uint8).reshape(mask.width, mask.height).astype(bool)


def _on_grid(mask: Mask, boxes: tuple[Box, Box]) -> "NDArray[np.bool_]":
    """The mask as [_GRID, _GRID] bool (columns, rows) on a grid over both boxes."""
    import numpy as np

    left, right = min(box.cx - box.w / 2 for box in boxes), max(box.cx + box.w / 2 for box in boxes)
    top, bottom = min(box.cy - box.h / 2 for box in boxes), max(box.cy + box.h / 2 for box in boxes)
    middles = (np.arange(_GRID) + 0.5) / _GRID
    across = (left + middles * (right - left) - mask.box.cx) / mask.box.w + 0.5
    down = (top + middles * (bottom - top) - mask.box.cy) / mask.box.h + 0.5
    columns = np.clip((across * mask.width).astype(int), 0, mask.width - 1)
    rows = np.clip((down * mask.height).astype(int), 0, mask.height - 1)
    inside = ((across >= 0) & (across < 1))[:, None] & ((down >= 0) & (down < 1))[None, :]
    cells: NDArray[np.bool_] = inside & _cells(mask)[columns[:, None], rows[None, :]]
    return cells


def _of_mask(mask: Mask) -> str:
    return f"{sum(mask.counts[1::2])} of {mask.width}x{mask.height} cells"


def _areas(before: tuple[Area, ...], now: tuple[Area, ...], tolerance: float) -> Iterator[_Change]:
    olds, news = ({_class(area): area for area in areas} for areas in (before, now))
    for number in sorted(olds.keys() | news.keys()):
        old, new = olds.get(number), news.get(number)
        fractions = (old.fraction if old else 0.0, new.fraction if new else 0.0)
        if not _differ(*fractions, tolerance):
            continue
        kind: Kind = "score" if old and new else "vanished" if old else "appeared"
        name = old.name if old else new.name if new else ""
        yield kind, name, *_scores(*fractions)


def _class(item: Label | Detection | Area | Mask) -> tuple[int, str]:
    return item.id, item.name


def _differ(old: float, new: float, tolerance: float) -> bool:
    return old != new if not tolerance else abs(old - new) > tolerance


def _scores(old: float, new: float) -> tuple[str, str]:
    """Two scores as texts with six digits, or with as many as show that they differ."""
    shown = f"{old:.6f}", f"{new:.6f}"
    return shown if shown[0] != shown[1] else (repr(old), repr(new))


def _of_detection(detection: Detection) -> str:
    box = detection.box
    return f"{detection.score:.4f} at {box.cx:.0f}, {box.cy:.0f}, {box.w:.0f}x{box.h:.0f}"


def _difference(
    kind: Kind, line: int | None, message: Map, subject: str, expected: str, got: str
) -> Difference:
    return Difference(
        kind=kind,
        line=line,
        camera=str(message.get("camera")),
        frame_id=message.get("frame_id"),
        media_ns=message.get("media_ns"),
        what=subject,
        expected=expected,
        got=got,
    )


def _summary(message: Mapping[str, Any]) -> str:
    """The first names in a message; its status where it has no names."""
    items = message.get("detections") or message.get("labels") or message.get("areas") or []
    names = [str(item.get("name")) for item in items[:3] if isinstance(item, dict)]
    return ", ".join(names) or str(message.get("status"))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:80]


def _typed(line: int, message: Map) -> LabelsMessage:
    try:
        typed = from_map("labels", message)
    except MessageError as error:
        raise ConfigError(f"line {line} of the expected messages: {error}") from error
    assert isinstance(typed, LabelsMessage)
    for mask in typed.masks:
        if not _is_whole(mask):
            raise ConfigError(
                f"line {line} of the expected messages: the mask of '{mask.name}' does not fill "
                f"its {mask.width}x{mask.height} cells or box",
                fix="make the file again with --jsonl",
            )
    return typed


def _is_whole(mask: Mask) -> bool:
    placed = min(mask.width, mask.height, mask.box.w, mask.box.h) > 0
    runs = min(mask.counts, default=0) >= 0
    return placed and runs and sum(mask.counts) == mask.width * mask.height


def _read_line(file: Path, number: int, line: str) -> Map:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: nested a thousand times
        message = None
    if not isinstance(message, dict):
        raise ConfigError(
            f"{file}, line {number} is not a JSON object", fix="was it made by --jsonl?"
        )
    if not isinstance(message.get("camera"), str):
        raise ConfigError(
            f"{file}, line {number} is no message of labels: it names no camera",
            fix="was it made by --jsonl?",
        )
    for key in ("frame_id", "seq"):  # `_key` identifies messages by them
        if not isinstance(message.get(key), int | None):
            raise ConfigError(
                f"{file}, line {number}: {key} is {_json(message[key]):.40}, not a number",
                fix="was it made by --jsonl?",
            )
    return message
