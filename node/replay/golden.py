"""Golden files: the messages of an earlier replay, one JSON object a line, to compare with."""

import json
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from node.errors import ConfigError, MessageError
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import Area, Box, Detection, Label, LabelsMessage, Mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

OF_THIS_RUN = frozenset(
    {"session", "published_ns", "published_mono_ns", "published_boot_ns", "timing_ns", "retained"}
)
"""Fields that tell of the run and not of the recording; they are not compared."""
OF_THE_RUNTIME = frozenset({"model", "degraded"})
"""Fields that tell what ran; compared only where no tolerance is given."""
_COMPARED_APART = frozenset({"labels", "detections", "areas", "masks"})
_GRID = 128
"""Cells a side on which masks of different grids are compared."""
_CELLS_OF_ROUNDING = 2
"""In which two masks may differ whatever the tolerance: a small one has few."""

Map = dict[str, Any]
Kind = Literal[
    "frame missing",
    "frame added",
    "order",
    "vanished",
    "appeared",
    "score",
    "box",
    "mask",
    "track",
    "field",
]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that changed. line: in the golden file, from 1; None for what was not expected."""

    kind: Kind
    line: int | None
    camera: str
    frame_id: int | None
    media_ns: int | None
    what: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison found. differing: messages with a difference, of `messages`."""

    messages: int
    expected: int
    differing: int
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
        raise ConfigError(f"{file} cannot be read: {reason}") from error
    return [_read_line(file, number, line) for number, line in enumerate(lines, start=1)]


class Comparison:
    """Holds messages, as they come, against golden ones, frame by frame.

    tolerance: by how much a score or fraction may differ, and by how much the overlap of two boxes
    or masks (intersection over union) may fall short of 1. 0: all has to be the same, to the last
    bit. A frame that came several times is compared as often, in the order in which it came.
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
        waiting = self._expected[_key(got)]
        found: list[Difference]
        if not waiting:
            found = [_difference("frame added", None, got, "message", "", _seen_in(got))]
        else:
            line, expected = waiting.popleft()
            found = list(_changes(line, expected, got, self._tolerance))
            if line < self._last_line:
                found.append(
                    _difference("order", line, got, "message", f"before line {self._last_line}", "")
                )
            self._last_line = max(line, self._last_line)
        self._differing += bool(found)
        self._differences += found

    def verdict(self) -> Verdict:
        """What was found, with the messages that did not come."""
        missing = [
            _difference("frame missing", line, message, "message", _seen_in(message), "")
            for line, message in sorted(
                (one for waiting in self._expected.values() for one in waiting),
                key=lambda one: one[0],
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
    """A message without a frame, of a camera that could not be seen, has its number only."""
    by = "seq" if message.get("frame_id") is None else "frame_id"
    return str(message.get("camera")), by, message.get(by)


def _changes(line: int, expected: Map, got: Map, tolerance: float) -> Iterator[Difference]:
    left_out = OF_THIS_RUN | _COMPARED_APART | (OF_THE_RUNTIME if tolerance else frozenset())
    for key in sorted((expected.keys() | got.keys()) - left_out):
        if expected.get(key) != got.get(key):
            yield _difference(
                "field", line, got, key, _json(expected.get(key)), _json(got.get(key))
            )
    if all(expected.get(key) == got.get(key) for key in _COMPARED_APART):
        return
    before, now = _typed(line, expected), _typed(line, got)
    found = {
        "labels": [*_labels(before.labels, now.labels, tolerance)],
        "detections": [*_detections(before.detections, now.detections, tolerance)],
        "areas": [*_areas(before.areas, now.areas, tolerance)],
        "masks": [*_masks(before.masks, now.masks, tolerance)],
    }
    for key, named in found.items():
        unnamed = [] if tolerance else _last_bits(key, expected, got)
        for kind, what, old, new in named or unnamed:
            yield _difference(kind, line, got, what, old, new)


_Change = tuple[Kind, str, str, str]


def _last_bits(key: str, expected: Map, got: Map) -> list[_Change]:
    """What differs in nothing that has a name: the order of equals, a last bit."""
    old, new = expected.get(key, []), got.get(key, [])
    return [] if old == new else [("field", key, _json(old), _json(new))]


def _labels(
    before: tuple[Label, ...], now: tuple[Label, ...], tolerance: float
) -> Iterator[_Change]:
    olds, news = {_which(one): one for one in before}, {_which(one): one for one in now}
    for label in before:
        same = news.get(_which(label))
        if same is None:
            if not _fell_off(label, before, now, tolerance):
                yield "vanished", label.name, f"{label.score:.4f}", ""
        elif _apart(label.score, same.score, tolerance):
            yield "score", label.name, f"{label.score:.6f}", f"{same.score:.6f}"
        elif label.stable != same.stable:
            yield "field", f"{label.name}: stable", str(label.stable), str(same.stable)
        elif label.since_ns != same.since_ns:
            yield "field", f"{label.name}: since_ns", str(label.since_ns), str(same.since_ns)
    for label in now:
        if _which(label) not in olds and not _fell_off(label, now, before, tolerance):
            yield "appeared", label.name, "", f"{label.score:.4f}"
    shared = [_which(one) for one in before if _which(one) in news]
    turned = [_which(one) for one in now if _which(one) in olds]
    for a, b in zip(shared, turned, strict=True):
        if a != b and _apart(olds[a].score, olds[b].score, 2 * tolerance):
            yield "order", "labels", olds[a].name, olds[b].name
            return


def _fell_off(
    label: Label, own: tuple[Label, ...], other: tuple[Label, ...], tolerance: float
) -> bool:
    """Whether a label may be missing from the other list because that ends after so many (top-k),
    and with scores that are within the tolerance. The best one may not, nor a stable one, which
    is listed beside those whatever its score."""
    if not tolerance or not other or label is own[0] or label.stable:
        return False
    ended = all(one.stable for one in own[len(other) :])
    return ended and other[-1].score >= label.score - tolerance


def _detections(
    before: tuple[Detection, ...], now: tuple[Detection, ...], tolerance: float
) -> Iterator[_Change]:
    left = list(now)
    for one in before:
        among = [x for x in left if _which(x) == _which(one)]
        best = max(among, key=lambda x: one.box.iou(x.box), default=None)
        if best is None or one.box.iou(best.box) < 0.5:
            yield "vanished", one.name, _of_detection(one), ""
            continue
        left.remove(best)
        if one.box != best.box and (not tolerance or 1 - one.box.iou(best.box) > tolerance):
            yield "box", one.name, _of_detection(one), f"IoU {one.box.iou(best.box):.4f}"
        if _apart(one.score, best.score, tolerance):
            yield "score", one.name, f"{one.score:.6f}", f"{best.score:.6f}"
        if one.track != best.track:
            yield "track", one.name, str(one.track), str(best.track)
        for kind, what, old, new in _labels(one.labels, best.labels, tolerance):
            yield kind, f"{one.name}: {what}", old, new
    for one in left:
        yield "appeared", one.name, "", _of_detection(one)


def _masks(before: tuple[Mask, ...], now: tuple[Mask, ...], tolerance: float) -> Iterator[_Change]:
    left = list(now)
    for one in before:
        among = [x for x in left if _which(x) == _which(one)]
        best = max(among, key=lambda x: (one == x, one.box.iou(x.box)), default=None)
        if best is None:
            yield "vanished", f"mask of {one.name}", _of_mask(one), ""
            continue
        left.remove(best)
        if one != best and (not tolerance or _cells_apart(one, best, tolerance)):
            yield "mask", one.name, _of_mask(one), _of_mask(best)
    for one in left:
        yield "appeared", f"mask of {one.name}", "", _of_mask(one)


def _cells_apart(one: Mask, other: Mask, tolerance: float) -> bool:
    """Whether the overlap of two masks falls short of 1 by more than the tolerance."""
    if (one.width, one.height, one.box) == (other.width, other.height, other.box):
        a, b = _cells(one), _cells(other)
    else:
        a, b = (_on_grid(mask, (one.box, other.box)) for mask in (one, other))
    differing, union = int((a ^ b).sum()), int((a | b).sum())
    disjoint = differing == union > 0
    return disjoint or differing > tolerance * union + _CELLS_OF_ROUNDING


def _cells(mask: Mask) -> "NDArray[np.bool_]":
    """[width, height]."""
    import numpy as np

    return np.frombuffer(mask.cells(), np.uint8).reshape(mask.width, mask.height).astype(bool)


def _on_grid(mask: Mask, boxes: tuple[Box, Box]) -> "NDArray[np.bool_]":
    """[_GRID, _GRID], over both boxes."""
    import numpy as np

    left, right = min(b.cx - b.w / 2 for b in boxes), max(b.cx + b.w / 2 for b in boxes)
    top, bottom = min(b.cy - b.h / 2 for b in boxes), max(b.cy + b.h / 2 for b in boxes)
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
    olds, news = {_which(one): one for one in before}, {_which(one): one for one in now}
    for number in sorted(olds.keys() | news.keys()):
        old, new = olds.get(number), news.get(number)
        fractions = (old.fraction if old else 0.0, new.fraction if new else 0.0)
        if not _apart(*fractions, tolerance):
            continue
        kind: Kind = "score" if old and new else "vanished" if old else "appeared"
        name = old.name if old else new.name if new else ""
        yield kind, name, f"{fractions[0]:.4f}", f"{fractions[1]:.4f}"


def _which(one: Label | Detection | Area | Mask) -> tuple[int, str]:
    return one.id, one.name


def _apart(a: float, b: float, tolerance: float) -> bool:
    return a != b if not tolerance else abs(a - b) > tolerance


def _of_detection(one: Detection) -> str:
    return f"{one.score:.4f} at {one.box.cx:.0f}, {one.box.cy:.0f}, {one.box.w:.0f}x{one.box.h:.0f}"


def _difference(
    kind: Kind, line: int | None, message: Map, what: str, expected: str, got: str
) -> Difference:
    return Difference(
        kind=kind,
        line=line,
        camera=str(message.get("camera")),
        frame_id=message.get("frame_id"),
        media_ns=message.get("media_ns"),
        what=what,
        expected=expected,
        got=got,
    )


def _seen_in(message: Mapping[str, Any]) -> str:
    seen = message.get("detections") or message.get("labels") or message.get("areas") or []
    names = [str(one.get("name")) for one in seen[:3] if isinstance(one, dict)]
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
                f"its {mask.width}x{mask.height} cells or box; make the file again with --jsonl"
            )
    return typed


def _is_whole(mask: Mask) -> bool:
    placed = min(mask.width, mask.height, mask.box.w, mask.box.h) > 0
    runs = min(mask.counts, default=0) >= 0
    return placed and runs and sum(mask.counts) == mask.width * mask.height


def _read_line(file: Path, number: int, line: str) -> Map:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):  # nested a thousand times
        message = None
    if not isinstance(message, dict):
        raise ConfigError(f"{file}, line {number} is not a JSON object; was it made by --jsonl?")
    for key in ("frame_id", "seq"):  # by which messages are found
        if not isinstance(message.get(key), int | None):
            raise ConfigError(
                f"{file}, line {number}: {key} is {_json(message[key]):.40}, not a number; "
                "was it made by --jsonl?"
            )
    return message
