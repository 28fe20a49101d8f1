"""Events as control code receives them: from a real node, over real sockets."""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Start
from support import commands

from node.image.frame import Frame, Stamp
from node.pipeline.message_builder import MessageBuilder
from node.transport.publisher import Publisher
from node.transport.sequencing import Header
from perception_client.aio import AsyncSubscriber
from perception_client.events import EventInbox
from perception_client.messages.codec import encode
from perception_client.messages.kinds import EventKind, Message, SceneEvent, retained
from perception_client.subscriber import EventMessage, NoMessageError, NotSeenError, Subscriber

YOLOX = Path("models/yolox_nano.onnx")
BOTTLES = Path("video/bottle-detection.mp4")
FRAME = Frame(np.zeros((100, 200, 3), np.uint8), "front", 3, Stamp.now(), None, 0)


def happening(kind: EventKind, track: int) -> SceneEvent:
    return SceneEvent(kind, f"track {track}", 0, "cup", 0.9, 1, track=track)


def event(kind: EventKind, track: int, seq: int) -> EventMessage:
    made = COMPOSER.event(FRAME, happening(kind, track)).finalise(Header(seq, 0, 0))
    assert isinstance(made, EventMessage)
    return made


COMPOSER = MessageBuilder("node")


def test_a_late_joiner_gets_what_is_open_and_then_what_comes(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    sent: list[Message] = []
    publisher = Publisher(endpoint, observer=sent.append)
    try:
        for kind, track in (("appeared", 1), ("appeared", 2), ("left", 1), ("appeared", 3)):
            publisher.send(COMPOSER.event(FRAME, happening(kind, track)))  # type: ignore[arg-type]
        deadline = time.monotonic() + 5
        while len(sent) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        with Subscriber(endpoint) as early, Subscriber(endpoint, "front") as late:
            seen = [early.events.receive(5), early.events.receive(5)]
            assert [(event.track, event.seq, event.retained) for event in seen if event] == [
                (2, 1, True),
                (3, 3, True),
            ]
            assert late.events.receive(5) is not None
            publisher.send(COMPOSER.event(FRAME, happening("left", 2)))
            gone = early.events.receive(5)
            assert gone is not None
            assert (gone.kind, gone.seq, gone.retained) == ("left", 4, False)
            assert [event.track for event in early.events.now()] == [3]
            assert early.events.receive(0.3) is None, "each once, though others joined"
            assert early.events.lost == 0
    finally:
        publisher.close()


def test_an_event_that_is_lost_is_counted_and_one_that_comes_twice_is_not_told_twice() -> None:
    inbox = EventInbox()
    messages = [event("appeared", 1, 0), event("appeared", 2, 1), event("left", 2, 4)]
    assert [inbox.open(encode(message)) for message in messages] == messages
    assert inbox.lost == 2
    assert inbox.open(encode(messages[2])) is None
    assert inbox.open(encode(retained(messages[0]))) is None
    assert [message.key for message in inbox.now(None)] == ["track 1"]


def test_events_and_boxes_of_a_real_video(shared_data: Path, start_node: Start) -> None:
    endpoint = f"ipc://@events-{time.monotonic_ns()}"
    node: subprocess.Popen[str] = start_node(
        "replay", shared_data / BOTTLES, "--model", shared_data / YOLOX, "--endpoint", endpoint,
        "--speed", "max", "--wait-for-subscriber", "--set", "track.enabled=true",
        "--set", "camera.0.calibration={width=640,height=360,fx=500.0,fy=500.0,cx=320.0,cy=180.0}",
    )  # fmt: skip
    with Subscriber(endpoint) as subscriber:
        events = subscriber.events
        message = subscriber.wait_for("bottle", 60)
        bottle = message.largest("bottle")
        assert bottle is not None
        assert message.of_class("bottle")[0].score >= bottle.score
        assert message.nearest_to_centre() is not None
        bearing = subscriber.calibration("camera").bearing(bottle.box.cx, bottle.box.cy, 640, 360)
        assert abs(bearing.azimuth_rad) < 0.6
        first = events.receive(20)
        assert first is not None
        assert (first.kind, first.name) == ("appeared", "bottle")
        assert first.box is not None
        tracked = next(
            message
            for message, _ in subscriber
            if any(detection.track for detection in message.detections)
        )
        number = next(
            detection.track for detection in tracked.detections if detection.track is not None
        )
        assert tracked.track(number) is not None
        with pytest.raises(NotSeenError, match="no 'zebra' was seen"):
            subscriber.wait_for("zebra", 0.2)
    node.terminate()
    node.wait(10)


def test_a_camera_without_calibration_says_how_to_give_one(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    with Subscriber(endpoint) as subscriber, pytest.raises(NoMessageError):
        subscriber.calibration("front", 0.1)


def test_the_documents_example_of_objects_runs_as_it_stands(
    start_node: Start, passer_by: Path, shared_data: Path, ipc: str
) -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    example, bearing = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    start_node(
        "run", "--source", passer_by,
        "--model", shared_data / YOLOX, "--set", "track.enabled=true", "--endpoint", ipc,
        "--set", 'detect.classes=["person"]',
        "--set", "camera.0.loop=true", "--set",
        "camera.0.calibration={width=768, height=432, fx=600.0, fy=600.0, cx=384.0, cy=216.0}",
    )  # fmt: skip
    assert "node.events.receive(timeout_s=10)" in example
    example = example.replace("Subscriber()", f"Subscriber({ipc!r})")
    example = example.replace("timeout_s=10)", "timeout_s=10):\n        break\n    if event")
    example = example.replace(":\n        print(event", " is not None:\n        print(event")
    done = commands.run([sys.executable, "-c", example], timeout_s=60)
    assert done.returncode == 0, (done.stderr, example)
    assert re.search(r"^person #(\d+|None) at \d+, \d+ px$", done.stdout, re.MULTILINE)
    assert re.search(r"^(appeared|left) person \d+ None$", done.stdout, re.MULTILINE)
    bearing = bearing.replace("Subscriber()", f"Subscriber({ipc!r})")
    done = commands.run([sys.executable, "-c", bearing], timeout_s=60)
    assert re.fullmatch(r"[+-]\d\.\d\d rad to the right, [+-]\d\.\d\d rad up\n", done.stdout), (
        done.stderr
    )


def test_asyncio_gets_the_same_events(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/wire"
    sent: list[Message] = []
    publisher = Publisher(endpoint, observer=sent.append)

    async def listen() -> None:
        async with AsyncSubscriber(endpoint) as node:
            first = await node.events.receive(5)
            assert first is not None
            assert (first.track, first.retained) == (1, True)
            publisher.send(COMPOSER.event(FRAME, happening("appeared", 2)))
            async with asyncio.timeout(5):
                async for event in node.events:
                    assert (event.track, event.retained) == (2, False)
                    break
            assert [event.track for event in node.events.now("front")] == [1, 2]
            assert await node.events.receive(0.1) is None
            assert node.events.lost == 0
            with pytest.raises(NoMessageError):
                await node.wait_for("cup", 0.1)

    try:
        publisher.send(COMPOSER.event(FRAME, happening("appeared", 1)))
        deadline = time.monotonic() + 5
        while not sent and time.monotonic() < deadline:
            time.sleep(0.01)
        asyncio.run(listen())
    finally:
        publisher.close()
