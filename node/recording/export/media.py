"""Exports a recording as JSON lines, or as a training dataset."""

import difflib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import ConfigError, OutputError
from node.process.output_files import fresh_folder
from node.recording.frames import RecordedFrame
from node.recording.reader import INFO, Recording
from perception_client.messages.codec import to_json
from perception_client.messages.kinds import (
    Detection,
    ImageSize,
    InfoMessage,
    Label,
    LabelsMessage,
)

Progress = Callable[[float], None]
_Items = Callable[[LabelsMessage], tuple[Detection, ...] | tuple[Label, ...]]
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """Selects the frames of a dataset."""

    labels: frozenset[str] | None = None
    """Names that count; None for all."""
    score: float = 0.0
    """Lowest score that counts."""
    every: int = 1
    """One of so many matching frames is exported."""

    def fits(self, item: Detection | Label) -> bool:
        """Whether a detection or label counts."""
        return item.score >= self.score and (self.labels is None or item.name in self.labels)


def check_labels(recording: Recording, labels: Iterable[str], task: str) -> None:
    """Raises ConfigError for a label that no model of this task in a recording has; for one of a
    recording without the models' class names, if no message has it. A recording of other tasks
    passes: the writer of the dataset names the format that fits."""
    names: set[str] = set()
    informed = False
    for entry in recording.entries(schemas=(INFO,)):
        message = recording.read_message("info", entry)
        if isinstance(message, InfoMessage):
            informed = True
            names.update(message.names if message.model.task == task else ())
    if not informed:
        names.update(_seen_names(recording))
    for label in sorted(set(labels) - names if names else ()):
        lowered = {name.lower(): name for name in sorted(names)}
        nearest = difflib.get_close_matches(label.lower(), lowered, n=1)
        raise ConfigError(
            f"--label {label}: {recording.paths[0]} has no class of this name",
            fix=f"did you mean {lowered[nearest[0]]!r}?"
            if nearest
            else f"some of its {len(names)}: {', '.join(sorted(names)[:_MOST_NAMED])}",
        )


def _seen_names(recording: Recording) -> Iterator[str]:
    for _, message in recording.messages("labels"):
        if isinstance(message, LabelsMessage):
            yield from (label.name for label in message.labels)
            yield from (detection.name for detection in message.detections)


def write_jsonl(recording: Recording, write: Callable[[str], None], kinds: tuple[Any, ...]) -> int:
    """Writes one message a line, of the given kinds; returns their number."""
    count = 0
    for _, message in recording.messages(*kinds):
        write(to_json(message))
        count += 1
    return count


def write_coco(
    recording: Recording, to: Path, choice: Choice, progress: Progress = lambda done: None
) -> int:
    """Writes a COCO dataset, `images/` and `annotations.json`, of the frames with a matching
    detection.

    Boxes are [x, y, width, height] in pixels. A category's id is the model's class id plus 1; after
    a change of the model, classes whose id is taken get higher numbers.

    Returns the number of frames. Raises OutputError, also for a recording of a classifier, and then
    leaves no folder.
    """
    with fresh_folder(to):
        count = _write_coco(recording, to, choice, progress)
        if not count and _contains(recording, _best_label) and not _contains(recording, _boxes):
            raise OutputError(
                f"{recording.paths[0]} contains labels of a classifier and no boxes",
                fix="'perception-node export imagefolder' writes its frames by label",
            )
        return count


def _write_coco(recording: Recording, to: Path, choice: Choice, progress: Progress) -> int:
    images: list[dict[str, Any]] = []
    objects: list[tuple[Detection, int]] = []
    folder = _created(to / "images")
    duration_ns = max(recording.end_ns - recording.start_ns, 1)
    for frame, message in _chosen(recording, choice, _boxes):
        progress(frame.media_ns / duration_ns)
        size = message.image or _size(frame)
        name = f"{frame.camera}_{frame.frame_id:08d}.jpg"
        _write(folder / name, frame.jpeg)
        images.append(
            {
                "id": len(images) + 1,
                "file_name": name,
                "width": size.width,
                "height": size.height,
            }
        )
        for detection in message.detections:
            if choice.fits(detection):
                objects.append((detection, len(images)))
    categories = _categories(detection for detection, _ in objects)
    content = {
        "info": {"description": f"labelled by perception-node from {recording.paths[0].name}"},
        "images": images,
        "annotations": [
            _annotation(detection, number, image, categories[detection.id, detection.name])
            for number, (detection, image) in enumerate(objects, start=1)
        ],
        "categories": [
            {"id": number, "name": name}
            for (_, name), number in sorted(categories.items(), key=lambda item: item[1])
        ],
    }
    _write(to / "annotations.json", json.dumps(content).encode())
    return len(images)


def write_image_folder(
    recording: Recording, to: Path, choice: Choice, progress: Progress = lambda done: None
) -> int:
    """Writes frames into a folder for each best label (torchvision's ImageFolder).

    Returns the number of frames. Raises OutputError, also for a recording of a detector, and then
    leaves no folder.
    """
    count = 0
    duration_ns = max(recording.end_ns - recording.start_ns, 1)
    with fresh_folder(to):
        for frame, message in _chosen(recording, choice, _best_label):
            progress(frame.media_ns / duration_ns)
            folder = _created(to / _folder_name(message.labels[0].name))
            _write(folder / f"{frame.camera}_{frame.frame_id:08d}.jpg", frame.jpeg)
            count += 1
        if not count and _contains(recording, _boxes) and not _contains(recording, _best_label):
            raise OutputError(
                f"{recording.paths[0]} contains boxes of a detector and no labels of whole frames",
                fix="'perception-node export coco' writes its frames and boxes",
            )
    return count


def _boxes(message: LabelsMessage) -> tuple[Detection, ...]:
    return message.detections


def _best_label(message: LabelsMessage) -> tuple[Label, ...]:
    return message.labels[:1]


def _contains(recording: Recording, items: _Items) -> bool:
    return any(
        isinstance(message, LabelsMessage) and items(message)
        for _, message in recording.messages("labels")
    )


def _size(frame: RecordedFrame) -> ImageSize:
    """The size of a frame whose message lacks it."""
    height, width = frame.image().shape[:2]
    return ImageSize(width, height)


def _chosen(
    recording: Recording,
    choice: Choice,
    items: _Items,
) -> Iterator[tuple[RecordedFrame, LabelsMessage]]:
    fitting = 0
    for frame, message in recording.labelled_frames():
        if message is None or not any(choice.fits(item) for item in items(message)):
            continue
        if fitting % choice.every == 0:
            yield frame, message
        fitting += 1


def _categories(detections: Iterable[Detection]) -> dict[tuple[int, str], int]:
    """A number, from 1, for each pair of id and name, since two models may use one id for different
    classes. The first class of an id gets id + 1, the others numbers above the highest."""
    classes = list(dict.fromkeys((detection.id, detection.name) for detection in detections))
    free = itertools.count(max((id_ for id_, _ in classes), default=0) + 2)
    numbers: dict[tuple[int, str], int] = {}
    used_ids: set[int] = set()
    for id_, name in classes:
        numbers[id_, name] = next(free) if id_ in used_ids else id_ + 1
        used_ids.add(id_)
    return numbers


def _annotation(detection: Detection, number: int, image: int, category: int) -> dict[str, Any]:
    box = detection.box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [box.cx - box.w / 2, box.cy - box.h / 2, box.w, box.h],
        "area": box.area,
        "iscrowd": 0,
        "score": detection.score,
    }


def _folder_name(label: str) -> str:
    """A label as the name of one folder, never a path that leads elsewhere."""
    return label.replace("/", "-").replace("\0", "-").lstrip(".") or "unnamed"


def _created(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    return folder


def _write(file: Path, data: bytes) -> None:
    try:
        file.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}") from error
