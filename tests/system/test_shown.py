"""What a person sees of messages: `watch`, and the receiving half of the demo."""

import contextlib
import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq
from conftest import ROOT, Run

from perception_client.messages.clock import boot_id, boottime_ns
from perception_client.messages.codec import encode
from perception_client.messages.kinds import (
    Area,
    CameraHealth,
    HealthMessage,
    ImageSize,
    Label,
    LabelsMessage,
    ModelInfo,
    Status,
    Timing,
)


def message(seq: int, **seen: object) -> LabelsMessage:
    return LabelsMessage(
        node="robot", camera="front", session="5e55", seq=seq, frame_id=seq,
        stamp_ns=time.time_ns(), clock="host", stamp_mono_ns=time.monotonic_ns(),
        stamp_boot_ns=boottime_ns(), boot_id=boot_id(), published_ns=time.time_ns(),
        published_mono_ns=time.monotonic_ns(), timing_ns=Timing(1, 2, 3, 4, 5), dropped=0,
        model=ModelInfo("m", "segment", "torch", "fp32", "cpu", "d16e57"),
        image=ImageSize(640, 480), **{"status": Status.OK, **seen},
    )  # type: ignore[arg-type]  # fmt: skip


@contextlib.contextmanager
def published(
    endpoint: str, period_s: float, health: HealthMessage | None = None, **seen: object
) -> Iterator[None]:
    """A node that sends the same labels, and health, again and again."""
    stop = threading.Event()

    def run() -> None:
        with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
            publisher.bind(endpoint)
            for seq in itertools.count():
                if health is not None:
                    publisher.send_multipart(encode(health))
                publisher.send_multipart(encode(message(seq, **seen)))
                if stop.wait(period_s):
                    return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_watch_shows_the_areas_of_a_segmentation(in_process: Run, ipc: str) -> None:
    areas = (Area(1, "road", 0.613), Area(2, "grass", 0.2))
    with published(ipc, 0.05, areas=areas):
        done = in_process("watch", "--endpoint", ipc, "--count", 1, "--timeout", 20)
    assert done.returncode == 0, done.stderr
    assert "road 61.3%, grass 20.0%" in done.stdout


def test_watch_shows_nothing_where_nothing_is(in_process: Run, ipc: str) -> None:
    with published(ipc, 0.05):
        done = in_process("watch", "--endpoint", ipc, "--count", 1, "--timeout", 20)
    assert "nothing seen" in done.stdout


def test_watch_says_why_a_camera_sees_nothing(in_process: Run, ipc: str) -> None:
    def about(camera: str, last_error: str | None) -> CameraHealth:
        return CameraHealth(
            camera=camera, status=Status.STALLED, fps=0.0, width=None,
            height=None, pixel_format=None, newest_frame_age_s=None, frames=0, dropped=0,
            reconnects=3, last_error=last_error,
        )  # fmt: skip

    health = HealthMessage(
        node="robot", session="5e55", seq=0, published_ns=time.time_ns(), state="stalled",
        cameras=(about("rear", "another"), about("front", "/dev/video2 does not exist")),
        latency_ns=None, rss_bytes=None, cpu=0.1, uptime_s=1.0, subscribers=1,
    )  # fmt: skip
    with published(ipc, 0.05, health, status=Status.NO_CAMERA):
        done = in_process("watch", "--endpoint", ipc, "--count", 9, "--timeout", 20)
    assert "no_camera: /dev/video2 does not exist\n" in done.stdout


@pytest.mark.parametrize("period_s", [0.3, 0.7])
def test_the_demo_prints_messages_as_they_come(ipc: str, period_s: float) -> None:
    with published(ipc, period_s, labels=(Label(967, "espresso", 0.9),)):
        done = subprocess.run(
            [sys.executable, "scripts/demo_subscriber.py", ipc, "--seconds", "2.5"],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
            env={"PYTHONPATH": f"{ROOT}:{ROOT}/client"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ages_ms = [int(age) for age in re.findall(r"(\d+) ms old", done.stdout)]
    assert len(ages_ms) >= 3
    assert sorted(ages_ms)[len(ages_ms) // 2] < 100  # a busy computer may delay one or two
