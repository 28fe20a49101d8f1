"""What control code is told of frames that were looked at together."""

import threading
import time

import numpy as np

from node.capture.mailbox import LatestMailbox, Taken
from node.client import Status
from node.config import CameraConfig, load_config
from node.frame import Frame, Stamp
from node.labeller import Labeller
from node.monitor.status import StatusAnnouncer
from node.perception.perceiver import build_perceiver
from node.wire.compose import Composer
from node.wire.messages import LabelsMessage, Message
from node.wire.outgoing import LocalSink

WAIT_S = 60.0


def test_an_outage_is_said_again_after_a_frame_that_was_in_work() -> None:
    announcer = StatusAnnouncer()
    before = time.monotonic()
    assert announcer.due(Status.NO_CAMERA)
    assert not announcer.due(Status.NO_CAMERA, ok_at=before)
    assert announcer.due(Status.NO_CAMERA, ok_at=time.monotonic() + 1e-3)
    assert not announcer.due(Status.OK, ok_at=time.monotonic() + 1e-3)


class Together(LatestMailbox):
    """Gives two frames at a time, and notes which were taken together."""

    def __init__(self, cameras: list[str]) -> None:
        super().__init__(cameras)
        self.batches: list[list[tuple[str, int]]] = []

    def take_all(self, timeout_s: float, at_most: int) -> list[Taken]:
        taken = super().take_all(timeout_s, 2)
        self.batches.append([(x.frame.camera, x.frame.frame_id) for x in taken])
        return taken


def test_frames_that_were_looked_at_together_say_the_same_of_who_looked() -> None:
    """A step of the ladder that the first of them brings about holds from the next ones on."""
    steps = ",".join(f"{{every={every}}}" for every in range(2, 8))
    config = load_config(None, [f"degrade.steps=[{steps}]", "camera.0.deadline_s=1e-6"])
    cameras = (CameraConfig(name="a", deadline_s=1e-6), CameraConfig(name="b"))
    degrade = config.degrade.model_copy(update={"down_after_s": 0.1})
    config = config.model_copy(update={"camera": cameras, "degrade": degrade})
    mailbox, stop, said = Together(["a", "b"]), threading.Event(), {}

    def note(message: Message) -> None:
        if isinstance(message, LabelsMessage) and message.frame_id is not None:
            said[message.camera, message.frame_id] = message.degraded

    labeller = Labeller(
        config, lambda wanted: build_perceiver(wanted.model), mailbox, Composer("n"),
        LocalSink(note), stop,
    )  # fmt: skip
    labeller.start()
    assert labeller.ready.wait(WAIT_S)
    image, number, deadline = np.zeros((48, 64, 3), np.uint8), 0, time.monotonic() + WAIT_S
    while len(set(said.values())) < 5 and time.monotonic() < deadline:
        for camera in "ab":
            mailbox.put(Frame(image, camera, number, Stamp.now(), None, 0))
        number += 1
        time.sleep(0.01)
    stop.set()
    assert labeller.join(WAIT_S) is not False
    pairs = [[said[x] for x in batch if x in said] for batch in mailbox.batches]
    both = [pair for pair in pairs if len(pair) == 2]
    assert len({pair[0] for pair in both}) >= 3
    assert all(first == second for first, second in both)
