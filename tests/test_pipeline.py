"""The live pipeline with a model that is too slow, in this process, over a real socket."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from node.client import LabelsMessage, Status, Subscriber
from node.config import NodeConfig, load_config
from node.frame import Image
from node.perception.perceiver import Perceived, Perceiver, build_perceiver
from node.pipeline import Outcome, run_live

SOURCE_FPS = 60
MODEL_PERIOD_S = 0.1


class SlowPerceiver:
    """The real one, made to take a tenth of a second."""

    def __init__(self, perceiver: Perceiver) -> None:
        self._perceiver = perceiver
        self.info = perceiver.info
        self.names = perceiver.names
        self.crop_info, self.crop_names = perceiver.crop_info, perceiver.crop_names
        self.at_most = 1
        self.recovering = False

    def make_ready(self, camera: str, image: Image) -> None:
        return None

    def perceive_all(self, images: Sequence[Image], ready: Sequence[None]) -> list[Perceived]:
        due = time.monotonic() + MODEL_PERIOD_S
        seen = self._perceiver.perceive_all(images, ready)
        time.sleep(max(0.0, due - time.monotonic()))  # stands for a slower network
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
def slow_node(fast_source: Path, ipc: str) -> Iterator[tuple[NodeConfig, list[Outcome]]]:
    config = load_config(
        options={"camera.0.source": str(fast_source), "wire.endpoint": ipc, "camera.0.name": "fast"}
    )
    stop = threading.Event()
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(
            run_live(config, lambda config: SlowPerceiver(build_perceiver(config.model)), stop)  # type: ignore[arg-type, return-value]
        )
    )
    thread.start()
    yield config, outcomes
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_source_faster_than_the_model_makes_labels_no_older(
    slow_node: tuple[NodeConfig, list[Outcome]], ipc: str
) -> None:
    _, outcomes = slow_node
    messages: list[LabelsMessage] = []
    with Subscriber(ipc, "fast") as subscriber:
        deadline = time.monotonic() + 60
        while not outcomes and time.monotonic() < deadline:
            message = subscriber.latest(max_age_s=60, timeout_s=0.02)
            if message is None or message.status is not Status.OK:
                continue
            if not messages or message.seq != messages[-1].seq:
                messages.append(message)

    assert len(messages) > 20
    ages_s = [
        (message.published_mono_ns - message.stamp_mono_ns) / 1e9
        for message in messages
        if message.published_mono_ns is not None and message.stamp_mono_ns is not None
    ]
    assert len(ages_s) == len(messages)
    third = len(ages_s) // 3
    early, late = np.median(ages_s[:third]), np.median(ages_s[-third:])
    # One period of the model, and at most one of the source before it: never a queue's worth.
    assert late < MODEL_PERIOD_S + 5 / SOURCE_FPS
    assert late < early + 2 / SOURCE_FPS

    (outcome,) = outcomes
    assert outcome.frames + outcome.dropped == 5 * SOURCE_FPS
    assert outcome.dropped > 3 * outcome.frames
    for before, after in itertools.pairwise(messages):
        if after.seq == before.seq + 1:
            assert after.frame_id is not None
            assert before.frame_id is not None
            assert after.dropped == after.frame_id - before.frame_id - 1
