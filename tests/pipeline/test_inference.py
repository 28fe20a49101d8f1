"""A model that fails, hangs or is late: what the node says, and how it ends."""

import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import Start
from support import commands

from node.config.load import load_config
from node.config.schema import NodeConfig
from node.errors import FrameError, InferenceError, ModelError
from node.image.frame import Frame, Image
from node.perception.models.registry import load_model
from node.perception.perceiver import InferenceResult, Perceiver, build_perceiver
from node.perception.preprocess.gpu import GpuPreprocessor, Uploaded
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.runtimes.torch_runtime import TorchRuntime
from node.perception.tasks.base import Outputs, Prediction
from node.perception.temporal.scene import Scene, TrackedPrediction
from node.pipeline.inference_failures import MAX_FAILURES
from node.pipeline.live import run_live
from perception_client.subscriber import (
    Control,
    ControlError,
    HealthMessage,
    LabelsMessage,
    NodeGoneError,
    Subscriber,
)

WAIT_S = 20.0


class Faulty(Perceiver):
    """The real one, but for the frames that `fault` spoils."""

    fault: Callable[[int], None]
    taken = 0

    def perceive_all(
        self, images: Sequence[Image], ready: Sequence[object | None] = ()
    ) -> list[InferenceResult]:
        seen = super().perceive_all(images, ready)
        self.taken += 1
        self.fault(self.taken)
        return seen


def faulty(config: NodeConfig, fault: Callable[[int], None]) -> Perceiver:
    perceiver = build_perceiver(config.model)
    perceiver.__class__ = Faulty
    perceiver.fault = fault  # type: ignore[attr-defined]
    return perceiver


def having(fault: Callable[[int], None]) -> Callable[[NodeConfig], Perceiver]:
    return lambda config: faulty(config, fault)


@contextmanager
def running(
    ipc: str, build: Callable[[NodeConfig], Perceiver], *settings: str
) -> Iterator[tuple[Subscriber, list[BaseException]]]:
    """A node on the demo pictures with a model of this kind, and how it ended."""
    config = load_config(None, settings, {"wire.endpoint": ipc})
    stop = threading.Event()
    ended: list[BaseException] = []

    def run() -> None:
        try:
            run_live(config, build, stop)
        except InferenceError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber:
        thread.start()
        try:
            yield subscriber, ended
        finally:
            stop.set()
            thread.join(WAIT_S)


def received_until(
    subscriber: Subscriber, enough: Callable[[list[LabelsMessage]], bool]
) -> list[LabelsMessage]:
    """From the first labelled frame on."""
    seen: list[LabelsMessage] = []
    deadline = time.monotonic() + WAIT_S
    while not enough(seen):
        assert time.monotonic() < deadline, [message.status for message in seen]
        message, _ = subscriber.receive(WAIT_S)
        if seen or message.status == "ok":
            seen.append(message)
    return seen


def health_until(subscriber: Subscriber, enough: Callable[[HealthMessage], bool]) -> HealthMessage:
    deadline = time.monotonic() + WAIT_S
    while not enough(health := subscriber.health(WAIT_S)):
        assert time.monotonic() < deadline, health
        subscriber.wait(0.1)
    return health


@pytest.mark.parametrize("error", [ModelError("engine failed"), FrameError("nan"), KeyError("x")])
def test_an_exception_costs_one_frame_and_says_so(ipc: str, error: Exception) -> None:
    def fault(count: int) -> None:
        if count % 4 == 0:
            raise error

    with running(ipc, having(fault)) as (subscriber, ended):
        statuses = [
            message.status for message in received_until(subscriber, lambda seen: len(seen) >= 30)
        ]
        health = health_until(subscriber, lambda health: health.lost_frames >= 5)
    assert 5 <= statuses.count("stalled") <= 10
    assert set(statuses) == {"ok", "stalled"}
    assert str(error) in str(health.last_error)
    assert not ended


def test_a_model_that_only_fails_ends_the_node(ipc: str) -> None:
    def fault(count: int) -> None:
        if count > 5:
            raise RuntimeError("the driver is gone")

    with running(ipc, having(fault)) as (subscriber, ended):
        seen = received_until(subscriber, lambda seen: len(seen) >= 5 + MAX_FAILURES)
        assert [message.status for message in seen[-MAX_FAILURES:]] == ["stalled"] * MAX_FAILURES
        deadline = time.monotonic() + WAIT_S
        while subscriber.alive:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(NodeGoneError, match=r"it stops|nothing from"):
            subscriber.require(60.0)
    assert "failed on 10 frames in a row (RuntimeError('the driver is gone'))" in str(ended[0])


def test_a_model_that_hangs_is_said_and_ends_the_node_in_time(ipc: str) -> None:
    release = threading.Event()

    def fault(count: int) -> None:
        if count == 5:
            release.wait(WAIT_S)

    with running(ipc, having(fault), "model.inference_timeout_s=0.5") as (subscriber, ended):
        seen = received_until(subscriber, lambda seen: bool(seen) and seen[-1].status != "ok")
        started = time.monotonic()
        while not ended and time.monotonic() < started + WAIT_S:
            time.sleep(0.01)
        assert time.monotonic() - started < 2.0
        release.set()
    assert seen[-1].status == "stalled"
    assert re.search(r"hangs for \d\.\d s on one frame", str(ended[0]))


def test_what_hangs_behind_the_model_ends_the_node_too(
    ipc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    real = Scene.observe

    def hangs(scene: Scene, frame: Frame, seen: Prediction) -> TrackedPrediction:
        if frame.frame_id >= 5:
            release.wait(WAIT_S)
        return real(scene, frame, seen)

    monkeypatch.setattr(Scene, "observe", hangs)
    model = having(lambda count: None)
    with running(ipc, model, "model.inference_timeout_s=0.5") as (subscriber, ended):
        received_until(subscriber, lambda seen: bool(seen) and seen[-1].status == "stalled")
        deadline = time.monotonic() + WAIT_S
        while not ended and time.monotonic() < deadline:
            time.sleep(0.01)
        release.set()
    assert re.search(r"hangs for \d\.\d s on one frame", str(ended[0]))


def test_the_process_ends_with_exit_code_4_though_a_thread_hangs(ipc: str) -> None:
    program = (
        "import sys, threading\n"
        "from node.perception import perceiver as p\n"
        "real = p.Perceiver.perceive_all\n"
        "taken = [0]\n"
        "def hung(self, *arguments):\n"
        "    taken[0] += 1\n"
        "    if taken[0] > 20: threading.Event().wait()\n"
        "    return real(self, *arguments)\n"
        "p.Perceiver.perceive_all = hung\n"
        "from node.__main__ import main\n"
        "main()\n"
    )
    command = ("run", "--endpoint", ipc, "--set", "model.inference_timeout_s=0.5")
    done = commands.run([sys.executable, "-c", program, *command], timeout_s=60)
    assert done.returncode == 4, done.stderr
    assert re.search(r"^error: the model hangs for \d\.\d s", done.stderr, re.MULTILINE)


def test_late_messages_are_counted_by_the_node_and_seen_by_the_client(ipc: str) -> None:
    def fault(count: int) -> None:
        time.sleep(0.02)  # stands for a slower network

    with running(ipc, having(fault), "camera.0.deadline_s=0.005") as (subscriber, _):
        seen = received_until(subscriber, lambda seen: len(seen) >= 20)
        assert subscriber.late("camera") >= 20
        health_until(subscriber, lambda health: health.cameras[0].deadline_misses >= 10)
    assert all(message.deadline_ns == 5_000_000 and message.late for message in seen)


def test_the_ladder_goes_down_says_so_and_comes_up_again(ipc: str) -> None:
    slow = threading.Event()
    slow.set()

    def fault(count: int) -> None:
        if slow.is_set():
            time.sleep(0.06)

    settings = (
        "camera.0.deadline_s=0.05", "degrade.steps=[{every=3}]", "degrade.down_after_s=0.3",
        "degrade.up_after_s=0.5",
    )  # fmt: skip
    with running(ipc, having(fault), *settings) as (subscriber, _):
        reason = ("deadline not held, step 1 of 1: one frame in 3",)
        seen = received_until(
            subscriber, lambda seen: sum(message.degraded == reason for message in seen) >= 3
        )
        assert seen[0].degraded == ()
        fewer = [message for message in seen if message.degraded]
        assert all(message.frame_id is not None and message.frame_id % 3 == 0 for message in fewer)
        slow.clear()
        received_until(subscriber, lambda seen: bool(seen) and seen[-1].degraded == ())


def test_the_ladder_can_take_a_smaller_model_and_says_whose_labels_these_are(
    ipc: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "small.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), weights)
    slow = threading.Event()
    slow.set()

    def build(config: NodeConfig) -> Perceiver:
        def fault(count: int) -> None:
            if slow.is_set() and config.model.name == "efficientnet_lite0":
                time.sleep(0.06)

        return faulty(config, fault)

    step = f"{{model='shufflenet_v2_x0_5', weights='{weights}'}}"
    settings = (
        "camera.0.deadline_s=0.05", f"degrade.steps=[{step}]", "degrade.down_after_s=0.3",
        "degrade.up_after_s=0.5",
    )  # fmt: skip
    with running(ipc, build, *settings) as (subscriber, _):
        seen = received_until(subscriber, lambda seen: bool(seen) and seen[-1].degraded != ())
        seen += received_until(subscriber, lambda seen: len(seen) > 3)
        for message in seen:
            assert message.model is not None
            small = message.model.name == "shufflenet_v2_x0_5"
            assert small == bool(message.degraded)
        slow.clear()
        received_until(subscriber, lambda seen: bool(seen) and seen[-1].degraded == ())


def test_a_model_that_fails_on_its_first_frames_gives_way_to_the_one_before(ipc: str) -> None:
    """It passed its trial on a frame, and fails once it is in place."""
    config = load_config(None, (), {"wire.endpoint": ipc, "control.endpoint": f"{ipc}.control"})
    stop = threading.Event()
    built: list[Perceiver] = []

    def build(config: NodeConfig) -> Perceiver:
        second = len(built) == 1

        def fault(count: int) -> None:
            if second and count > 7:
                raise RuntimeError("engine")

        built.append(faulty(config, fault))
        return built[-1]

    thread = threading.Thread(target=lambda: run_live(config, build, stop))
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber, Control(f"{ipc}.control") as control:
        thread.start()
        try:
            before = received_until(subscriber, lambda seen: len(seen) > 3)[-1]
            with pytest.raises(ControlError, match=r"failed, the one before is back: engine"):
                control.model("efficientnet_lite0")
            after = received_until(
                subscriber, lambda seen: bool(seen) and seen[-1].settings == before.settings + 2
            )
            assert {message.status for message in after} == {"ok"}, "no frame is lost by it"
        finally:
            stop.set()
            thread.join(WAIT_S)


def test_systemd_is_told_of_readiness_and_life(
    start_node: Start, ipc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(WAIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        node = start_node("run", "--endpoint", ipc)
        notices = [notify.recv(1000).decode()]
        began = time.monotonic()
        while len(notices) < 6:
            notices.append(notify.recv(1000).decode())
        assert notices[0] == "READY=1"
        assert all(notice.startswith("WATCHDOG=1\nSTATUS=") for notice in notices[1:])
        assert time.monotonic() - began < 2.5
        node.terminate()
        while not notices[-1].startswith("STOPPING"):
            notices.append(notify.recv(1000).decode())
    assert node.wait(10) == 0


def test_the_next_frame_is_uploaded_while_one_is_inferred(
    ipc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for a GPU: its device is the CPU under another name, on which torch runs what
    is written for a GPU."""
    model = load_model("efficientnet_lite0")
    uploads: list[str] = []
    overlapped: list[bool] = []
    seen = threading.Event()  # enough: the node is to end
    begin = GpuPreprocessor.begin

    def counted(self: GpuPreprocessor, image: Image) -> Uploaded:
        uploads.append(threading.current_thread().name)
        return begin(self, image)

    class Gpu(TorchRuntime):
        def infer(self, pixels: Pixels) -> Outputs:
            answer, before = super().infer(pixels), len(uploads)
            deadline = time.monotonic() + 5
            while len(uploads) == before and time.monotonic() < deadline and not seen.is_set():
                time.sleep(0.001)
            overlapped.append(len(uploads) > before)
            return answer

    runtime = Gpu(model)
    runtime.info = RuntimeInfo("torch", "fp32", "cpu:0")
    perceiver = Perceiver(model, runtime, top_k=1)
    monkeypatch.setattr(GpuPreprocessor, "begin", counted)
    with running(ipc, lambda config: perceiver) as (subscriber, ended):
        names = set()
        while len(overlapped) < 4:
            message, _ = subscriber.receive(WAIT_S)
            names.update(label.name for label in message.labels)
        seen.set()
    assert not ended
    assert all(overlapped[:4])
    assert names == {"espresso"}
    assert set(uploads) == {"capture-camera"}  # nothing is uploaded twice
