"""What control code is told when there are no labels to act on, and how soon."""

import asyncio
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from support.waiting import wait_until

from node.image.frame import Frame, Stamp
from node.pipeline.message_builder import MessageBuilder, PerceptionHealth, Usage
from node.transport.publisher import Publisher
from perception_client.aio import AsyncSubscriber
from perception_client.messages import labels as messages
from perception_client.messages.codec import from_map, to_map
from perception_client.messages.kinds import Label, ModelInfo, NodeState, Timing
from perception_client.subscriber import (
    CannotSeeError,
    LabelsMessage,
    NodeGoneError,
    NotLookingError,
    NotUsableError,
    StaleGuard,
    Status,
    Subscriber,
    TooOldError,
)

WAIT_S = 10.0
IMAGE = np.zeros((4, 4, 3), np.uint8)
MODEL = ModelInfo("m", "classify", "torch", "fp32", "cpu", "")


class Node:
    """A publisher on a real socket, and what a node says through it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.publisher = Publisher(endpoint)
        self.message_builder = MessageBuilder("node")

    def labels(self, camera: str = "front", uncertainty_ns: int | None = None) -> None:
        stamp = replace(Stamp.now(), uncertainty_ns=uncertainty_ns)
        frame = Frame(IMAGE, camera, 0, stamp, None, 0)
        self.publisher.send(
            self.message_builder.labels(
                frame, dropped=0, timing=Timing(0, 0, 0, 0, 0), model=MODEL,
                labels=(Label(1, "cup", 0.9),),
            )
        )  # fmt: skip

    def unavailable(self, status: Status, camera: str = "front") -> None:
        self.publisher.send(self.message_builder.unavailable(camera, status))

    def health(self, state: NodeState = "running") -> None:
        usage = Usage(0, 0.0, 0.0, 0)
        self.publisher.send(self.message_builder.health(state, (), None, usage, PerceptionHealth()))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(f"ipc://{tmp_path}/wire")
    yield made
    made.publisher.close()


def why_not(subscriber: Subscriber, kind: type[NotUsableError]) -> str:
    """Waits for this kind of refusal."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            subscriber.require(0.2)
        except kind as error:
            return str(error)
        except NotUsableError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_case_has_its_own_error(node: Node) -> None:
    with Subscriber(node.endpoint) as subscriber:
        assert "nothing from the node yet" in why_not(subscriber, NodeGoneError)
        assert not subscriber.alive
        node.health()
        assert "has sent no labels yet" in why_not(subscriber, TooOldError)
        assert subscriber.alive
        node.labels()
        assert subscriber.require(WAIT_S, timeout_s=WAIT_S).best == Label(1, "cup", 0.9)
        assert "s old, the limit is 0.2 s" in why_not(subscriber, TooOldError)
        node.unavailable(Status.STALLED)
        assert why_not(subscriber, CannotSeeError) == "camera 'front' cannot see: stalled"
        node.unavailable(Status.PAUSED)
        assert why_not(subscriber, NotLookingError) == "camera 'front' is paused"
        node.health("stopping")
        assert "the node announced that it stops" in why_not(subscriber, NodeGoneError)


def test_an_address_may_be_of_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this computer has no IPv6")
        port = probe.getsockname()[1]
    node = Node(f"tcp://[::1]:{port}")
    with Subscriber(node.endpoint) as subscriber:
        node.labels()
        assert subscriber.require(WAIT_S, timeout_s=WAIT_S).camera == "front"
    node.publisher.close()


def test_one_blind_camera_does_not_speak_for_another(node: Node) -> None:
    with Subscriber(node.endpoint) as subscriber:
        node.labels("left")
        node.unavailable(Status.NO_CAMERA, "right")
        assert subscriber.require(WAIT_S, camera="left", timeout_s=WAIT_S).camera == "left"
        with pytest.raises(CannotSeeError) as caught:
            subscriber.require(WAIT_S, camera="right", timeout_s=1.0)
        assert isinstance(caught.value.message, LabelsMessage)
        assert caught.value.message.status is Status.NO_CAMERA


def test_latest_is_never_older_than_asked(node: Node) -> None:
    with Subscriber(node.endpoint) as subscriber:
        assert subscriber.latest(0.1) is None
        node.labels()
        assert subscriber.latest(WAIT_S, timeout_s=WAIT_S) is not None
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            message = subscriber.latest(0.1)
            assert message is None or message.age_s < 0.15
        assert subscriber.latest(0.1) is None


def test_what_a_picture_can_be_older_than_its_stamp_counts_in(node: Node) -> None:
    with Subscriber(node.endpoint) as subscriber:
        assert not subscriber.wait(0.1)
        node.labels(uncertainty_ns=10**10)
        assert subscriber.wait(WAIT_S)
        assert subscriber.latest(5.0) is None
        with pytest.raises(TooOldError, match=r"10\.\d+ s old, the limit is 5 s"):
            subscriber.require(5.0)
        message = subscriber.require(60.0)
        assert message.stamp_uncertainty_ns == 10**10
        assert message.age_bound_s - message.age_s == pytest.approx(10, abs=0.01)
        assert message.age_s < 5
        assert replace(message, deadline_ns=5 * 10**9).late
        without = {
            key: value for key, value in to_map(message).items() if key != "stamp_uncertainty_ns"
        }
        old = from_map("labels", without)  # as recorded before there was such a key
        assert isinstance(old, LabelsMessage)
        assert old.stamp_uncertainty_ns is None
        assert old.age_bound_s == pytest.approx(old.age_s, abs=0.01)


def test_a_guard_calls_where_a_picture_can_be_too_old(node: Node) -> None:
    calls: queue.Queue[NotUsableError] = queue.Queue()
    with StaleGuard(node.endpoint, 2.0, calls.put):
        deadline = time.monotonic() + WAIT_S
        while calls.empty():
            assert time.monotonic() < deadline
            node.labels(uncertainty_ns=10**10)
            time.sleep(0.02)
    assert isinstance(calls.get(), TooOldError)


def test_a_stale_guard_calls_in_time_and_once_and_says_when_it_is_over(node: Node) -> None:
    calls: queue.Queue[tuple[float, object]] = queue.Queue()
    feeding, done = threading.Event(), threading.Event()

    def feed() -> None:
        while not done.wait(0.02):
            if feeding.is_set():
                node.labels()
            node.health()

    def note(outcome: object) -> None:
        calls.put((time.monotonic(), outcome))

    feeding.set()
    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with Subscriber(node.endpoint) as subscriber:
            subscriber.require(WAIT_S, timeout_s=WAIT_S)
            with subscriber.on_stale(0.3, note, on_fresh=note):
                time.sleep(0.6)  # longer than the age: nothing is to happen
                assert calls.empty()
                stopped = time.monotonic()
                feeding.clear()
                at, error = calls.get(timeout=WAIT_S)
                assert isinstance(error, TooOldError)
                assert 0.2 < at - stopped < 0.45
                feeding.set()
                _, message = calls.get(timeout=WAIT_S)
                assert isinstance(message, LabelsMessage)
                assert calls.empty()
    finally:
        done.set()
        feeder.join(WAIT_S)


def test_a_guard_calls_where_there_is_no_node_at_all(tmp_path: Path) -> None:
    errors: queue.Queue[NotUsableError] = queue.Queue()

    def stop(error: NotUsableError) -> None:
        errors.put(error)
        raise RuntimeError("the user's own mistake")

    with StaleGuard(f"ipc://{tmp_path}/nobody", 0.1, stop):
        assert isinstance(errors.get(timeout=WAIT_S), NodeGoneError)


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), OSError()])
def test_a_guard_survives_whatever_its_callbacks_raise(
    node: Node, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: queue.Queue[object] = queue.Queue()

    def note(outcome: object) -> None:
        outcomes.put(outcome)
        raise raised

    node.labels()
    with StaleGuard(node.endpoint, 0.3, note, on_fresh=note) as guard:
        for _ in range(2):
            assert isinstance(outcomes.get(timeout=WAIT_S), NotUsableError)
            node.labels()
            assert isinstance(outcomes.get(timeout=WAIT_S), LabelsMessage)
        assert guard.watching
    assert not guard.watching
    assert "a callback of the stale guard raised" in caplog.text
    assert type(raised).__name__ in caplog.text


@pytest.mark.parametrize("died", [SystemExit(1), MemoryError(), KeyboardInterrupt()])
def test_a_guard_that_dies_says_so_even_where_logging_fails(
    node: Node,
    died: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors: queue.Queue[NotUsableError] = queue.Queue()

    def fails(*arguments: object) -> None:
        raise died

    def stop(error: NotUsableError) -> None:
        errors.put(error)
        raise SystemExit

    monkeypatch.setattr(Subscriber, "require", fails)
    monkeypatch.setattr(logging.getLogger("perception_client.subscriber"), "exception", fails)
    with StaleGuard(node.endpoint, WAIT_S, stop) as guard:
        assert "the stale guard ended: " in str(errors.get(timeout=WAIT_S))
        guard._thread.join(WAIT_S)
        assert not guard.watching
    stderr = capsys.readouterr().err
    assert "the stale guard ended" in stderr
    assert "a callback of the stale guard raised SystemExit()" in stderr


def test_a_guard_without_a_thread_is_said_and_leaves_no_socket(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", cannot)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                StaleGuard(node.endpoint, 1.0, print)
    # ZeroMQ closes the descriptors of a context in a thread of its own.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_a_process_with_a_guard_ends(node: Node) -> None:
    code = (
        "import sys; from node.client import StaleGuard; "
        "guard = StaleGuard(sys.argv[1], 0.01, lambda error: sys.exit(5)); "
        "import time; time.sleep(0.3); print(guard.watching)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, node.endpoint], capture_output=True, text=True, cwd=ROOT,
        timeout=WAIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    assert "SystemExit(5)" in done.stderr


def test_a_guard_that_fails_calls_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: queue.Queue[NotUsableError] = queue.Queue()
    node.labels()

    def fails(subscriber: Subscriber, max_age_s: float) -> LabelsMessage:
        raise OSError("no file descriptors")

    monkeypatch.setattr(Subscriber, "require", fails)
    with StaleGuard(node.endpoint, WAIT_S, errors.put):
        assert "the stale guard ended: OSError('no file" in str(errors.get(timeout=WAIT_S))


def test_steps_of_the_wall_clock_change_no_age_and_no_order(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    with Subscriber(node.endpoint, timeout_s=WAIT_S) as subscriber:
        node.labels()
        received = [subscriber.receive(WAIT_S)[0]]
        for step_s in (3600, -7200, 0):
            monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: real() + step_s * 10**9)
            node.labels()
            message, gap = subscriber.receive(WAIT_S)
            received.append(message)
            assert not gap
            assert 0 <= message.age_s < 1
            assert subscriber.latest(1.0) is message
            assert all(0 <= earlier.age_s < 5 for earlier in received)
        assert [message.seq for message in received] == [0, 1, 2, 3]
        monkeypatch.undo()


def test_a_wall_clock_that_is_set_back_keeps_nothing_fresh_on_another_computer(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "boot_id", lambda: "another computer")
    real = time.time_ns
    with Subscriber(node.endpoint) as subscriber:
        node.labels()
        assert subscriber.require(WAIT_S, timeout_s=WAIT_S).labels
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
        assert "s old, the limit is 0.2 s" in why_not(subscriber, TooOldError)
        assert subscriber.latest(0.2) is None


def test_asyncio_has_the_same(node: Node) -> None:
    async def ask() -> None:
        async with AsyncSubscriber(node.endpoint) as subscriber:
            with pytest.raises(NodeGoneError):
                await subscriber.require(1.0)
            node.labels()
            message = await subscriber.require(WAIT_S, timeout_s=WAIT_S)
            assert message.camera == "front"
            assert subscriber.alive

    asyncio.run(ask())
