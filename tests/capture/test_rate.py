"""max_fps: the mean rate is kept whatever the jitter, and what is skipped is not decoded. Taking
frames of several cameras at once is fair."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from node.capture.grabber import number
from node.capture.mailbox import LatestMailbox
from node.capture.rate import RateLimit, RealtimeSource
from node.capture.sources.base import Picture
from node.capture.sources.device import LiveSource
from node.capture.sources.video_file import VideoFileSource
from node.config.schema import CameraConfig
from node.image.frame import Frame, Stamp
from node.image.opencv import cv2


@pytest.mark.parametrize(
    ("max_fps", "expected"), [(10, 10), (20, 20), (25, 25), (60, 30), (0.5, 0.5)]
)
@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_the_mean_rate_is_the_limit(max_fps: float, expected: float, jitter: float) -> None:
    noise = random.Random(0)
    limit = RateLimit(max_fps)
    seconds = 60
    count = sum(
        limit.wants(round((index + jitter * noise.uniform(-1, 1)) / 30 * 1e9) + 10**9)
        for index in range(30 * seconds)
    )
    assert count / seconds == pytest.approx(expected, rel=0.05)


def test_after_a_gap_the_limit_does_not_catch_up() -> None:
    limit = RateLimit(10)
    assert limit.wants(0)
    moments = [round(60e9 + index / 30 * 1e9) for index in range(31)]
    assert sum(limit.wants(moment) for moment in moments) <= 12


class Camera:
    """Stands for a cv2.VideoCapture on a camera of 100 fps."""

    def __init__(self) -> None:
        self.grabbed = self.decoded = 0

    def getBackendName(self) -> str:
        return "FAKE"

    def get(self, setting: int) -> float:
        return 0.0

    def set(self, setting: int, value: float) -> bool:
        return True

    def grab(self) -> bool:
        time.sleep(0.01)
        self.grabbed += 1
        return True

    def retrieve(self) -> tuple[bool, object]:
        self.decoded += 1
        return True, np.zeros((4, 4, 3), np.uint8)


def test_skipped_frames_of_a_camera_are_never_decoded() -> None:
    camera = Camera()
    source = LiveSource(camera, "camera 'x'", CameraConfig(max_fps=20))  # type: ignore[arg-type]
    stamps = [source.read().stamp.mono_ns for _ in range(6)]  # type: ignore[union-attr]
    assert camera.decoded == 6
    assert camera.grabbed > 2 * camera.decoded
    assert (stamps[-1] - stamps[0]) / 5 == pytest.approx(50e6, rel=0.3)  # type: ignore[operator]


def test_a_video_played_live_keeps_the_limit_and_its_pace(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), 30, (64, 48))
    for level in range(30):
        writer.write(np.full((48, 64, 3), 8 * level, np.uint8))
    writer.release()
    started = time.monotonic()
    source = RealtimeSource(VideoFileSource(file), threading.Event(), RateLimit(10))
    positions = []
    while (picture := source.read()) is not None:
        positions.append(picture.media_ns / 1e9)  # type: ignore[operator]
    assert len(positions) == 10
    assert np.diff(positions) == pytest.approx([0.1] * 9, abs=0.04)
    assert time.monotonic() - started >= 0.85


def frame(camera: str, frame_id: int) -> Frame:
    return number(Picture(np.zeros((1, 1, 3), np.uint8), Stamp.now(), None, 0), camera, frame_id)


def test_cameras_are_taken_together_and_in_turn() -> None:
    mailbox = LatestMailbox(["a", "b", "c"])
    served = {"a": 0, "b": 0, "c": 0}
    for frame_id in range(20):
        for camera in served:  # all faster than the taker
            mailbox.put(frame(camera, frame_id))
        batch = [queued.frame.camera for queued in mailbox.take_all(0, at_most=2)]
        assert len(set(batch)) == 2
        for camera in batch:
            served[camera] += 1
    assert max(served.values()) - min(served.values()) <= 1


def test_taking_waits_for_the_first_frame_only() -> None:
    mailbox = LatestMailbox(["a", "b"])
    assert mailbox.take_all(0.01, at_most=2) == []
    threading.Timer(0.05, mailbox.put, [frame("b", 0)]).start()
    (queued,) = mailbox.take_all(5, at_most=2)
    assert queued.frame.camera == "b"
