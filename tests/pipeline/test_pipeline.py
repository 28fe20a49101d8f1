"""The live pipeline with a model that is too slow, in this process, over a real socket."""

import bisect
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from node.config.load import load_config
from node.config.schema import NodeConfig
from node.image.frame import Image
from node.perception.perceiver import InferenceResult, Perceiver, build_perceiver
from node.pipeline.live import run_live
from node.pipeline.threads import Outcome
from perception_client.subscriber import LabelsMessage, Status, Subscriber

SOURCE_FPS = 60
MODEL_PERIOD_S = 0.25
"""Far above what a busy computer adds: one frame kept back adds all of it."""


class SlowPerceiver:
    """The real one, made to take a quarter of a second; keeps when each call began and ended."""

    def __init__(self, perceiver: Perceiver, calls_ns: list[tuple[int, int]]) -> None:
        self._perceiver = perceiver
        self._calls_ns = calls_ns
        self.info = perceiver.info
        self.names = perceiver.names
        self.crop_info, self.crop_names = perceiver.crop_info, perceiver.crop_names
        self.at_most = 1
        self.recovering = False

    def prefetch(self, camera: str, image: Image) -> None:
        return None

    def perceive_all(self, images: Sequence[Image], ready: Sequence[None]) -> list[InferenceResult]:
        begun_ns = time.monotonic_ns()
        seen = self._perceiver.perceive_all(images, ready)
        due_ns = begun_ns + int(MODEL_PERIOD_S * 1e9)
        time.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)  # stands for a slower network
        self._calls_ns.append((begun_ns, time.monotonic_ns()))
        return seen


@pytest.fixture
def fast_source(tmp_path: Path) -> Path:
    """Five seconds at 60 frames a second."""
    file = tmp_path / "fast.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), SOURCE_FPS, (320, 240))
    for shade in range(5 * SOURCE_FPS):
        writer.write(np.full((240, 320, 3), shade % 256, np.uint8))
    writer.release()
    return file


@pytest.fixture
def calls_ns() -> list[tuple[int, int]]:
    return []


@pytest.fixture
def slow_node(
    fast_source: Path, ipc: str, calls_ns: list[tuple[int, int]]
) -> Iterator[list[Outcome]]:
    config = load_config(
        options={"camera.0.source": str(fast_source), "wire.endpoint": ipc, "camera.0.name": "fast"}
    )
    stop = threading.Event()
    outcomes: list[Outcome] = []

    def build(config: NodeConfig) -> SlowPerceiver:
        return SlowPerceiver(build_perceiver(config.model), calls_ns)

    thread = threading.Thread(
        target=lambda: outcomes.append(
            run_live(config, build, stop)  # type: ignore[arg-type]
        )
    )
    thread.start()
    yield outcomes
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_source_faster_than_the_model_makes_labels_no_older(
    slow_node: list[Outcome], ipc: str, calls_ns: list[tuple[int, int]]
) -> None:
    outcomes = slow_node
    messages: list[LabelsMessage] = []
    with Subscriber(ipc, "fast") as subscriber:
        deadline = time.monotonic() + 60
        while not outcomes and time.monotonic() < deadline:
            message = subscriber.latest(max_age_s=60, timeout_s=0.02)
            if message is None or message.status is not Status.OK:
                continue
            if not messages or message.seq != messages[-1].seq:
                messages.append(message)

    assert len(messages) > 6
    # What a frame's label took beyond the model's own call, which lasts as long as it likes.
    waits_s = []
    for message in messages:
        assert message.published_mono_ns is not None
        assert message.stamp_mono_ns is not None
        call = bisect.bisect(calls_ns, message.published_mono_ns, key=lambda call: call[1]) - 1
        begun_ns, ended_ns = calls_ns[call]
        age_ns = message.published_mono_ns - message.stamp_mono_ns
        waits_s.append((age_ns - (ended_ns - begun_ns)) / 1e9)
    third = len(waits_s) // 3
    # The least of each: a busy computer adds to some, a queue to every one.
    early, late = min(waits_s[:third]), min(waits_s[-third:])
    # Never a queue's worth: one frame kept back would add a whole period of the model to each.
    assert late < 0.7 * MODEL_PERIOD_S
    assert late < early + 0.5 * MODEL_PERIOD_S

    (outcome,) = outcomes
    assert outcome.frames + outcome.dropped == 5 * SOURCE_FPS
    assert outcome.dropped > 3 * outcome.frames
    for before, after in itertools.pairwise(messages):
        if after.seq == before.seq + 1:
            assert after.frame_id is not None
            assert before.frame_id is not None
            assert after.dropped == after.frame_id - before.frame_id - 1
