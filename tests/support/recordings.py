"""Small recordings, written with what a real node seldom meets."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from node.image.frame import Frame, Image, Stamp
from node.recording.encode import frame_entries, message_entries
from node.recording.mcap_writer import RecordingFile
from perception_client.messages.kinds import (
    Detection,
    EventMessage,
    HealthMessage,
    ImageSize,
    LabelsMessage,
    Message,
)
from perception_client.subscriber import (
    Status,
)

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
NOISE: Image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
LABELS = LabelsMessage(
    node="node", camera="front", session="s", seq=0, status=Status.OK, published_ns=START_NS
)
FILE_BYTES = 20_000
"""The largest file that a full disk lets be written here."""


def labels(at_s: float, seq: int, status: Status = Status.OK, *seen: Detection) -> LabelsMessage:
    at_ns = START_NS + round(at_s * 1e9)
    message = replace(LABELS, seq=seq, status=status, published_ns=at_ns, detections=seen)
    if status is not Status.OK:
        return message
    return replace(message, frame_id=seq, stamp_ns=at_ns, image=ImageSize(320, 240))


def health(at_s: float, **changes: str) -> HealthMessage:
    message = HealthMessage(
        node="node", session="s", seq=0, published_ns=START_NS + round(at_s * 1e9),
        state="running", cameras=(), latency_ns=None, rss_bytes=0, cpu=0.0, uptime_s=0.0,
        subscribers=0,
    )  # fmt: skip
    return replace(message, **changes)


def appeared(at_s: float, seq: int) -> EventMessage:
    at_ns = START_NS + round(at_s * 1e9)
    return EventMessage(
        node="node", camera="front", session="s", seq=seq, kind="appeared", key=str(seq), id=1,
        name="cup", score=0.9, since_ns=at_ns, frame_id=0, stamp_ns=at_ns, clock="host",
        published_ns=at_ns,
    )  # fmt: skip


def write(path: Path, messages: Iterable[Message], frames: int = 1) -> Path:
    """A recording with frames, ten a second, and messages at the times of their publishing. Each
    ten of either are a chunk."""
    file = RecordingFile(path, {"session": "s"})
    for number in range(frames):
        at_ns = START_NS + number * SECOND_NS // 10
        frame = Frame(NOISE, "front", number, Stamp(at_ns, None, "media"), None, 0)
        file.write(frame_entries(frame, at_ns, quality=80, lost_before=0))
    for number, message in enumerate(messages):
        file.write(message_entries(message, message.published_ns))
        if number % 10 == 9:
            file.flush()
    file.close()
    return path
