"""Compares each `ok` message of a fault campaign with the truth: its picture, which the node
recorded, was sent whole at that time, and the labels name the picture's content."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.rig import RECORDED_QUALITY, STALL_S, run_node
from faults.stream import sent_whole, unstamped
from node.recording.frames import RecordedFrame
from node.recording.reader import Recording
from perception_client.subscriber import LabelsMessage

_SAME_SCORE = 0.1
"""A picture of H.264 is looked at before it is encoded for the recording, the truth after it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One `ok` message: its camera, the capture of its frame on CLOCK_MONOTONIC, and the error, if
    any."""

    camera: str
    stamp_s: float
    wrong: str | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """The content of a picture."""

    size: tuple[int, int]
    scores: dict[str, float]
    best: str


class Truth:
    """The content of each picture that the server ever sends whole, labelled by the node's own
    command, one file each."""

    def __init__(self, folder: Path) -> None:
        pictures = sorted(sent_whole(RECORDED_QUALITY))
        folder.mkdir()
        for index, jpeg in enumerate(pictures):
            (folder / f"{index:04}.jpg").write_bytes(jpeg)
        lines = folder / "seen.jsonl"
        code = run_node("label", str(folder), "--jsonl", str(lines)).wait(120)
        if code != 0:
            raise RuntimeError(f"perception-node label {folder} ended with {code}")
        seen = [_seen(json.loads(line)) for line in lines.read_text().splitlines()]
        self._seen = dict(zip(pictures, seen, strict=True))

    def check(self, recordings: Path, cameras: tuple[str, ...]) -> Iterator[Checked]:
        """Checks every recorded `ok` message of some cameras, in each file of a folder."""
        for path in sorted(recordings.glob("*.mcap")):
            for frame, message in Recording([path]).labelled_frames():
                if message is not None and frame.camera in cameras:
                    stamp_s = (message.stamp_mono_ns or 0) / 1e9
                    yield Checked(frame.camera, stamp_s, self._wrong(frame, message))

    def _wrong(self, frame: RecordedFrame, message: LabelsMessage) -> str | None:
        picture, sent_ns = unstamped(frame.jpeg)
        seen = self._seen.get(picture)
        if seen is None:
            return "a picture that was never sent"
        late_s = ((message.stamp_mono_ns or 0) - (sent_ns or 0)) / 1e9
        if sent_ns is not None and late_s > STALL_S:
            return f"a picture that was {late_s:.2f} s old when it was stamped"
        if message.image is None or (message.image.width, message.image.height) != seen.size:
            return f"a picture of {seen.size} is said to be {message.image}"
        scores = {label.name: label.score for label in message.labels}
        if abs(scores.get(seen.best, 0.0) - seen.scores[seen.best]) > _SAME_SCORE:
            return f"{seen.best} {seen.scores[seen.best]:.2f} is said to be {scores}"
        return None


def _seen(line: dict[str, object]) -> _Seen:
    image, labels = line["image"], line["labels"]
    assert isinstance(image, dict)
    assert isinstance(labels, list)
    scores = {label["name"]: label["score"] for label in labels}
    return _Seen((image["width"], image["height"]), scores, labels[0]["name"])
