"""Export: a recording as video, JSON lines, or a dataset to train on."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from node.errors import OutputError, PictureError, SourceError
from node.image.opencv import cv2
from node.process.output_files import fresh_folder, whole_file
from node.recording.export.overlay import draw
from node.recording.reader import RecordedFrame, Recording
from perception_client.messages.codec import to_json
from perception_client.messages.kinds import Detection, ImageSize, Label, LabelsMessage

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which frames of a dataset. labels: of these names, None for all; score: at least; every: of
    each so many that fit, one."""

    labels: frozenset[str] | None = None
    score: float = 0.0
    every: int = 1

    def fits(self, thing: Detection | Label) -> bool:
        """Whether a thing that was seen counts."""
        return thing.score >= self.score and (self.labels is None or thing.name in self.labels)


def write_jsonl(recording: Recording, write: Callable[[str], None], kinds: tuple[Any, ...]) -> int:
    """One message a line, of some kinds; how many."""
    count = 0
    for _, message in recording.messages(*kinds):
        write(to_json(message))
        count += 1
    return count


def write_video(
    recording: Recording, to: Path, camera: str | None, progress: Progress = lambda done: None
) -> int:
    """A video of one camera (the first) with its labels drawn, at the mean rate; how many frames.

    A frame that was not labelled says so. Raises SourceError for a camera that is not there,
    OutputError where it cannot be written, and leaves no file then.
    """
    name = _camera(recording, camera)
    moments = [frame.media_ns for frame in recording.frames() if frame.camera == name]
    if not moments:
        raise SourceError(f"{recording.paths[0]}: camera {name!r} has no frames")
    duration_ns = max(moments[-1] - moments[0], 1)
    fps = (len(moments) - 1) / (duration_ns / 1e9) if len(moments) > 1 else 1.0
    with whole_file(to) as beside:
        return _write_frames(recording, to, beside, name, _Pace(fps, moments[-1] or 1), progress)


@dataclass(frozen=True, slots=True)
class _Pace:
    fps: float
    end_ns: int


def _write_frames(
    recording: Recording, to: Path, beside: Path, name: str, pace: _Pace, progress: Progress
) -> int:
    """to: what the file is going to be called, for errors."""
    writer: cv2.VideoWriter | None = None
    size = (0, 0)
    count = 0
    try:
        for frame, message in recording.labelled_frames():
            if frame.camera != name:
                continue
            try:
                drawn = draw(frame.image(), message)
            except PictureError:
                continue
            if writer is None:
                size = drawn.shape[1], drawn.shape[0]
                fourcc = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(beside), fourcc, pace.fps, size)
                if not writer.isOpened():
                    raise OutputError(_why_no_video(to))
            if (drawn.shape[1], drawn.shape[0]) != size:
                drawn = np.asarray(cv2.resize(drawn, size), np.uint8)
            writer.write(drawn)
            count += 1
            progress(frame.media_ns / pace.end_ns)
    finally:
        if writer is not None:
            writer.release()
    if writer is None:
        raise SourceError(f"{recording.paths[0]}: no frame of camera {name!r} can be decoded")
    _check_video(to, _frames_in(beside), count)
    return count


def _check_video(to: Path, there: int, count: int) -> None:
    """OpenCV does not say that a disk was full. Raises OutputError where not all frames are in the
    file."""
    if there != count:
        raise OutputError(
            f"{to} cannot be written: {there} of {count} frames arrived in it; is the disk full?"
        )


def _frames_in(file: Path) -> int:
    """Counted one by one, without decoding: a header may tell of more than came after it."""
    import av  # takes 0.1 s

    try:
        with av.open(str(file)) as container:
            packets = container.demux(video=0)
            return sum(1 for packet in packets if packet.size and not packet.is_corrupt)
    except (av.FFmpegError, IndexError):  # no index, or no stream in it
        return 0


def _why_no_video(to: Path) -> str:
    """OpenCV does not say."""
    return f"{to} cannot be written as a video; name it .mp4 or .avi, and make room for it"


def write_coco(
    recording: Recording, to: Path, choice: Choice, progress: Progress = lambda done: None
) -> int:
    """A COCO dataset: `images/` and `annotations.json`, with the frames that show a chosen
    detection; how many frames. Boxes are [x, y, width, height] in pixels. A category's id is the
    model's and 1, but where the model was changed and another's name has it. Raises OutputError,
    and leaves nothing then."""
    with fresh_folder(to):
        return _write_coco(recording, to, choice, progress)


def _write_coco(recording: Recording, to: Path, choice: Choice, progress: Progress) -> int:
    images: list[dict[str, Any]] = []
    found: list[tuple[Detection, int]] = []
    folder = _made(to / "images")
    duration_ns = max(recording.end_ns - recording.start_ns, 1)
    for frame, message in _chosen(recording, choice, lambda told: told.detections):
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
        for one in message.detections:
            if choice.fits(one):
                found.append((one, len(images)))
    categories = _categories(one for one, _ in found)
    content = {
        "info": {"description": f"labelled by perception-node from {recording.paths[0].name}"},
        "images": images,
        "annotations": [
            _annotation(one, number, image, categories[one.id, one.name])
            for number, (one, image) in enumerate(found, start=1)
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
    """A folder for each label with the frames whose best label it is (torchvision's ImageFolder);
    how many frames. Raises OutputError, and leaves nothing then."""
    count = 0
    duration_ns = max(recording.end_ns - recording.start_ns, 1)
    with fresh_folder(to):
        for frame, message in _chosen(recording, choice, lambda told: told.labels[:1]):
            progress(frame.media_ns / duration_ns)
            folder = _made(to / _folder_name(message.labels[0].name))
            _write(folder / f"{frame.camera}_{frame.frame_id:08d}.jpg", frame.jpeg)
            count += 1
    return count


def _size(frame: RecordedFrame) -> ImageSize:
    """Of a frame whose message does not tell."""
    height, width = frame.image().shape[:2]
    return ImageSize(width, height)


def _chosen(
    recording: Recording,
    choice: Choice,
    things: Callable[[LabelsMessage], tuple[Detection, ...] | tuple[Label, ...]],
) -> Iterator[tuple[RecordedFrame, LabelsMessage]]:
    fitting = 0
    for frame, message in recording.labelled_frames():
        if message is None or not any(choice.fits(thing) for thing in things(message)):
            continue
        if fitting % choice.every == 0:
            yield frame, message
        fitting += 1


def _categories(detections: Iterable[Detection]) -> dict[tuple[int, str], int]:
    """A number, from 1, for each id and name: two models give one id to different things. Who comes
    first keeps the id, the others are numbered after the highest."""
    classes = list(dict.fromkeys((one.id, one.name) for one in detections))
    free = itertools.count(max((id_ for id_, _ in classes), default=0) + 2)
    numbers: dict[tuple[int, str], int] = {}
    taken: set[int] = set()
    for id_, name in classes:
        numbers[id_, name] = next(free) if id_ in taken else id_ + 1
        taken.add(id_)
    return numbers


def _annotation(one: Detection, number: int, image: int, category: int) -> dict[str, Any]:
    box = one.box
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [box.cx - box.w / 2, box.cy - box.h / 2, box.w, box.h],
        "area": box.area,
        "iscrowd": 0,
        "score": one.score,
    }


def _camera(recording: Recording, camera: str | None) -> str:
    if camera is None:
        return recording.cameras[0]
    if camera not in recording.cameras:
        raise SourceError(
            f"{recording.paths[0]}: no camera {camera!r}; cameras: {', '.join(recording.cameras)}"
        )
    return camera


def _folder_name(label: str) -> str:
    """A label names a folder here, and never one elsewhere."""
    return label.replace("/", "-").replace("\0", "-").lstrip(".") or "unnamed"


def _made(folder: Path) -> Path:
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
