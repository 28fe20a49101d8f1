"""`perception-node run`, as control code and an operator meet it: real processes, real sockets."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq
from conftest import COMMAND, ROOT, Run, Start, stop
from support.streams import MjpegServer

from perception_client.messages.codec import decode
from perception_client.messages.kinds import HealthMessage, InfoMessage
from perception_client.subscriber import LabelsMessage, Status, Subscriber

START_TIMEOUT_S = 60.0


def first_ok(subscriber: Subscriber) -> LabelsMessage:
    """The first labelled message; the model takes seconds to load."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        message, _ = subscriber.receive(deadline - time.monotonic())
        if message.status is Status.OK:
            return message
    raise AssertionError("no labelled message came")


def wait_for_status(
    subscriber: Subscriber, statuses: set[Status], within_s: float
) -> LabelsMessage:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        message, _ = subscriber.receive(deadline - time.monotonic())
        if message.status in statuses:
            return message
    raise AssertionError(f"none of {statuses} within {within_s} s")


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """Where a node publishes that labels the demo, for tests that only listen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    node = subprocess.Popen([*COMMAND, "run", "--source", "demo", "--endpoint", endpoint], cwd=ROOT)
    yield endpoint
    node.terminate()
    assert node.wait(10) == 0


def test_labels_of_the_demo_arrive_in_another_process(demo: str) -> None:
    with Subscriber(demo) as subscriber:
        messages = [first_ok(subscriber)]
        while len(messages) < 40:
            message, gap = subscriber.receive(5.0)
            assert gap.lost == 0
            messages.append(message)
        names = {message.best.name for message in messages if message.best}
        assert names <= {"espresso", "tripod"}
        assert names
        newest = subscriber.latest(max_age_s=1.0, timeout_s=5.0)
    assert newest is not None
    assert newest.clock == "host"
    assert newest.age_s < 1.0
    assert newest.image is not None
    assert (newest.image.width, newest.image.height) == (640, 480)
    assert newest.model is not None
    assert newest.model.name == "efficientnet_lite0"
    assert len(newest.model.digest) == 64
    assert [message.seq for message in messages] == list(
        range(messages[0].seq, messages[0].seq + len(messages))
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_within_two_seconds(
    start_node: Start, ipc: str, number: signal.Signals
) -> None:
    node = start_node("run", "--source", "demo", "--endpoint", ipc)
    with Subscriber(ipc) as subscriber:
        before, _ = subscriber.receive(START_TIMEOUT_S)
        assert before.status is Status.NO_CAMERA, "until the first frame it cannot see"
        assert (before.labels, before.stamp_ns, before.frame_id) == ((), None, None)
        first_ok(subscriber)
        code, took_s = stop(node, number)
    assert code == 0
    assert took_s < 2.0
    assert not Path(ipc.removeprefix("ipc://")).exists()
    assert "Traceback" not in node.communicate()[1]


def test_a_signal_stops_it_while_the_model_loads(start_node: Start, ipc: str) -> None:
    node = start_node("run", "--source", "demo", "--endpoint", ipc)
    path = Path(ipc.removeprefix("ipc://"))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():  # bound, and the model not there yet
        assert time.monotonic() < deadline
        time.sleep(0.01)
    code, took_s = stop(node)
    assert code == 0
    assert took_s < 2.0
    assert not path.exists()


def test_a_lost_stream_is_said_and_found_again(start_node: Start, ipc: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    server = MjpegServer(picture)
    start_node(
        "run", "--source", server.url, "--endpoint", ipc,
        "--set", "camera.0.stall_timeout_s=0.5",
    )  # fmt: skip
    with Subscriber(ipc) as subscriber:
        before = first_ok(subscriber)
        server.close()
        blind = wait_for_status(subscriber, {Status.NO_CAMERA, Status.STALLED}, within_s=10)
        assert blind.labels == ()
        assert blind.stamp_ns is None
        again = MjpegServer(picture, port=server.port)
        try:
            after = first_ok(subscriber)
        finally:
            again.close()
    assert after.session == before.session
    assert after.frame_id is not None
    assert before.frame_id is not None
    assert after.frame_id > before.frame_id


def test_health_and_label_names_are_published(demo: str) -> None:
    context = zmq.Context()
    sub = context.socket(zmq.SUB)
    sub.setsockopt(zmq.SUBSCRIBE, b"health/")
    sub.setsockopt(zmq.SUBSCRIBE, b"info/")
    sub.connect(demo)
    try:
        health = info = None
        deadline = time.monotonic() + START_TIMEOUT_S
        while health is None or info is None or health.state != "running" or not health.latency_ns:
            assert sub.poll(int((deadline - time.monotonic()) * 1000)), "health did not come"
            message = decode(sub.recv_multipart())
            if isinstance(message, InfoMessage):
                info = message
            elif isinstance(message, HealthMessage):
                health = message
    finally:
        sub.close()
        context.term()
    assert info.names[967] == "espresso"
    (camera,) = health.cameras
    assert camera.status is Status.OK
    assert camera.frames > 0
    assert health.latency_ns.p50 <= health.latency_ns.maximum
    assert health.rss_bytes > 0


def test_a_node_that_is_killed_does_not_hold_its_ipc_endpoint(
    start_node: Start, perception_node: Run, ipc: str
) -> None:
    node = start_node("run", "--source", "demo", "--endpoint", ipc)
    with Subscriber(ipc) as subscriber:
        subscriber.receive(START_TIMEOUT_S)
        in_use = perception_node("run", "--source", "demo", "--endpoint", ipc)
        assert in_use.returncode == 2
        assert "in use" in in_use.stderr
        subscriber.receive(START_TIMEOUT_S)  # the first node was not disturbed
    node.kill()
    node.wait(timeout=10)
    assert Path(ipc.removeprefix("ipc://")).exists()
    done = perception_node("run", "--source", "demo", "--endpoint", ipc, "--max-frames", 5)
    assert done.returncode == 0
    assert "stopped after 5 labelled frames" in done.stderr


def test_the_control_loop_of_the_readme_runs_as_it_stands(demo: str) -> None:
    readme = (ROOT / "README.md").read_text()
    loop = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert "tcp://127.0.0.1:5570" in loop
    with Subscriber(demo) as subscriber:
        first_ok(subscriber)
    done = subprocess.run(
        [sys.executable, "-c", loop.replace("tcp://127.0.0.1:5570", demo)],
        capture_output=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"(espresso|tripod) \d\.\d\d \d+ ms old", done.stdout)


def test_a_video_is_played_at_its_own_rate(start_node: Start, ipc: str, tmp_path: Path) -> None:
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for shade in range(20):
        writer.write(np.full((120, 160, 3), 10 * shade, np.uint8))
    writer.release()
    node = start_node("run", "--source", file, "--endpoint", ipc)
    with Subscriber(ipc) as subscriber:
        messages = [first_ok(subscriber)]
        while messages[-1].frame_id != 19:
            message, _ = subscriber.receive(5.0)
            messages.append(message)
    assert node.wait(timeout=10) == 0
    first, last = messages[0], messages[-1]
    assert first.stamp_ns is not None
    assert last.stamp_ns is not None
    assert last.frame_id is not None
    assert first.frame_id is not None
    assert last.media_ns is not None
    assert first.media_ns is not None
    played_s = (last.stamp_ns - first.stamp_ns) / 1e9
    assert played_s == pytest.approx((last.media_ns - first.media_ns) / 1e9, abs=0.25)
    assert "20 frames read" in node.communicate()[1]


def test_every_view_of_the_demo_is_labelled_rightly() -> None:
    from node.capture.sources.demo import FPS, PICTURES, SECONDS_A_PICTURE, DemoSource
    from node.config.schema import ModelConfig
    from node.perception.perceiver import build_perceiver

    perceiver = build_perceiver(ModelConfig())
    demo = DemoSource()
    for index in range(int(2 * len(PICTURES) * SECONDS_A_PICTURE * FPS)):
        picture = demo.read()
        if index % 6 == 0:  # the view moves slowly
            expected = list(PICTURES.values())[int(index / FPS / SECONDS_A_PICTURE) % len(PICTURES)]
            assert perceiver.perceive(picture.image).labels[0].name == expected, f"frame {index}"
