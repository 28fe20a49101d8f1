"""What control code is told of frames that were looked at together, and of changes."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from node.capture.mailbox import LatestMailbox, QueuedFrame
from node.capture.rate import RateLimit
from node.config.load import load_config
from node.config.schema import CameraConfig, NodeConfig
from node.errors import ControlError, PerceptionError
from node.image.frame import Frame, Stamp
from node.perception.perceiver import build_perceiver
from node.pipeline.camera_status import StatusAnnouncer
from node.pipeline.control_commands import SNAPSHOT_S, ControlCommands
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.pipeline.work_timer import WorkTimer
from node.process.awake import AwakeClock
from node.transport.control_server import Client, Request
from node.transport.sequencing import LocalSink
from perception_client.messages.kinds import LabelsMessage, Message
from perception_client.subscriber import Status

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

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        frames = super().take_all(timeout_s, 2)
        self.batches.append([(queued.frame.camera, queued.frame.frame_id) for queued in frames])
        return frames


def test_frames_that_were_looked_at_together_say_the_same_of_who_looked() -> None:
    """A step of the ladder that the first of them brings about holds from the next ones on."""
    steps = ",".join(f"{{every={every}}}" for every in range(2, 8))
    config = load_config(None, [f"degrade.steps=[{steps}]", "camera.0.deadline_s=1e-6"])
    cameras = (CameraConfig(name="a", deadline_s=1e-6), CameraConfig(name="b"))
    degrade = config.degrade.model_copy(update={"down_after_s": 0.1})
    config = config.model_copy(update={"camera": cameras, "degrade": degrade})
    mailbox, stop, degraded = Together(["a", "b"]), threading.Event(), {}

    def note(message: Message) -> None:
        if isinstance(message, LabelsMessage) and message.frame_id is not None:
            degraded[message.camera, message.frame_id] = message.degraded

    inference_loop = InferenceLoop(
        config, lambda config: build_perceiver(config.model), mailbox, MessageBuilder("n"),
        LocalSink(note), stop,
    )  # fmt: skip
    inference_loop.start()
    assert inference_loop.ready.wait(WAIT_S)
    image, number, deadline = np.zeros((48, 64, 3), np.uint8), 0, time.monotonic() + WAIT_S
    while len(set(degraded.values())) < 5 and time.monotonic() < deadline:
        for camera in "ab":
            mailbox.put(Frame(image, camera, number, Stamp.now(), None, 0))
        number += 1
        time.sleep(0.01)
    stop.set()
    assert inference_loop.join(WAIT_S) is not False
    pairs = [[degraded[key] for key in batch if key in degraded] for batch in mailbox.batches]
    both = [pair for pair in pairs if len(pair) == 2]
    assert len({pair[0] for pair in both}) >= 3
    assert all(first == second for first, second in both)


class DarkOnly(torch.nn.Module):
    """Two classes; what it says of anything but black is no number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3)).unsqueeze(1)  # black is -1
        return torch.cat([mean / torch.where(mean < -0.99, 1.0, 0.0), mean], 1)


@pytest.fixture
def two_classes(tmp_path: Path) -> str:
    """A model whose classes are others than those of the configured one."""
    file = tmp_path / "two.onnx"
    torch.onnx.export(
        DarkOnly(), (torch.zeros(1, 3, 32, 32),), str(file), dynamo=False,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )  # fmt: skip
    card = 'name = "two"\ntask = "classify"\nlabels = ["a", "b"]\n[input]\nsize = [32, 32]\n'
    file.with_suffix(".toml").write_text(card + "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n")
    return str(file)


DARK, LIGHT = (np.full((48, 64, 3), value, np.uint8) for value in (0, 255))


@pytest.fixture(scope="module", autouse=True)
def _model(tiny_model: Path) -> None:
    Rig.model = tiny_model


class Rig:
    """A labeller of the cameras a and b, and what it said."""

    model = Path()
    """Its model; loaded in no time."""

    def __init__(
        self,
        *settings: str,
        on_changed: Callable[["Rig"], None] | None = None,
        awake: AwakeClock | None = None,
        limits: Mapping[str, RateLimit] = MappingProxyType({}),
    ) -> None:
        model = f"model.name={self.model}"
        config = load_config(None, ["smooth.time_constant_s=0.2", model, *settings])
        cameras = (CameraConfig(name="a", deadline_s=1e-6), CameraConfig(name="b"))
        self.config = config.model_copy(update={"camera": cameras})
        self.said: list[LabelsMessage] = []
        self.limits = limits
        self._clients = itertools.count()
        self.mailbox, self.stop = Together(["a", "b"]), threading.Event()
        self.message_builder, self.sink = MessageBuilder("n"), LocalSink(self._note)
        self.inference_loop = InferenceLoop(
            self.config, self.build, self.mailbox, self.message_builder, self.sink, self.stop,
            on_changed=lambda config, settings: on_changed(self) if on_changed else None,
            awake=awake,
        )  # fmt: skip
        unused = cast("Any", None)  # by what is asked here
        watch = cast("Any", SimpleNamespace(stall_after_s=lambda camera: 0.5))
        self.controller = ControlCommands(
            self.inference_loop, watch, limits, self.build, unused, AwakeClock()
        )

    def build(self, config: NodeConfig) -> Any:
        return build_perceiver(config.model)

    @contextmanager
    def running(self) -> Iterator[None]:
        self.inference_loop.start()
        try:
            assert self.inference_loop.ready.wait(WAIT_S), self.inference_loop.failure
            yield
        finally:
            self.stop.set()
            self.controller.close()
            self.inference_loop.join(WAIT_S)
        assert self.inference_loop.failure is None

    def ask(self, command: str, *, client: str | None = None, **arguments: object) -> Any:
        """Asks as a client of its own, or as one that is named."""
        name = f"client {next(self._clients)}" if client is None else client
        return self.controller.handle(Request(0, command, arguments, Client(name)))

    def show(self, number: int, **images: Any) -> list[Frame]:
        """Puts these images into the mailbox at once."""
        frames = [
            Frame(image, name, number, Stamp.now(), None, 0) for name, image in images.items()
        ]

        def put() -> None:
            for frame in frames:
                self.mailbox.put(frame)

        self.inference_loop.call(put).result(WAIT_S)
        return frames

    def look(self, number: int, **images: Any) -> list[LabelsMessage]:
        """The messages about these images, which one inference takes together."""
        frames = self.show(number, **images)
        deadline = time.monotonic() + WAIT_S
        while len(
            messages := [message for message in self.said if message.frame_id == number]
        ) < len(frames):
            assert time.monotonic() < deadline
            assert not self.inference_loop.ended.is_set(), self.inference_loop.failure
            time.sleep(0.001)
        batch = next(
            batch for batch in self.mailbox.batches if any(frame[1] == number for frame in batch)
        )
        assert len(batch) == len(frames), "they were looked at one by one"
        return messages

    def _note(self, message: Message) -> None:
        if isinstance(message, LabelsMessage):
            self.said.append(message)


def named(messages: list[LabelsMessage]) -> list[str]:
    """Which model each is of."""
    return [message.model.name for message in messages if message.model is not None]


def test_a_step_to_another_model_waits_for_the_frames_that_the_one_before_saw(
    two_classes: str,
) -> None:
    rig = Rig(
        f'degrade.steps=[{{model="{two_classes}"}}]',
        "camera.0.deadline_s=1e-6", "degrade.down_after_s=0.1",
    )  # fmt: skip
    pairs = []
    with rig.running():
        deadline = time.monotonic() + WAIT_S
        while (not pairs or "two" not in named(pairs[-1])) and time.monotonic() < deadline:
            pairs.append(rig.look(len(pairs), a=DARK, b=DARK))
    assert {tuple(named(pair)) for pair in pairs[:-1]} == {("tiny",) * 2}
    assert named(pairs[-1]) == ["two", "two"]
    assert all(message.degraded for message in pairs[-1])


def test_a_model_that_is_rolled_back_says_nothing_of_the_frames_that_it_failed_with(
    two_classes: str,
) -> None:
    rig = Rig()
    with rig.running():
        assert named(rig.look(0, a=DARK, b=LIGHT)) == ["tiny"] * 2
        model = rig.config.model.model_copy(update={"name": two_classes})
        config = rig.config.model_copy(update={"model": model})
        other = rig.build(config)
        settled = rig.inference_loop.call(lambda: rig.inference_loop.swap(other, config)).result(
            WAIT_S
        )
        messages = rig.look(1, a=DARK, b=LIGHT)
        with pytest.raises(ControlError, match="the one before is back"):
            settled.result(WAIT_S)
    assert named(messages) == ["tiny"] * 2
    assert all({label.name for label in message.labels}.isdisjoint("ab") for message in messages)


def test_a_pause_names_the_first_message_that_says_it_whoever_says_it() -> None:
    """The watch says it too as soon as it sees it."""

    def watch(rig: Rig) -> None:
        if "a" in rig.inference_loop.paused:
            rig.sink.send(rig.message_builder.unavailable("a", Status.PAUSED))

    rig = Rig(on_changed=watch)
    with rig.running():
        first_seq = rig.ask("pause", camera="a").result(WAIT_S).first_seq["a"]
    paused = [message for message in rig.said if message.status == Status.PAUSED]
    assert paused[0].seq == first_seq
    assert {message.settings for message in paused} == {rig.inference_loop.settings}


def test_a_model_or_another_snapshot_waits_for_no_snapshots() -> None:
    rig = Rig()
    with rig.running():
        rig.ask("pause", camera="a").result(WAIT_S)
        snapshots = [rig.ask("snapshot", camera="a") for _ in range(4)]
        began = time.monotonic()
        with pytest.raises(ControlError, match="give a text"):
            rig.ask("model").result(WAIT_S)
        seen = rig.ask("snapshot", camera="b")
        number = 0
        while not seen.done():
            rig.look(number, b=DARK)
            number += 1
        assert seen.result().result["message"]["camera"] == "b"
        assert time.monotonic() - began < SNAPSHOT_S / 2
        assert not any(snapshot.done() for snapshot in snapshots)


def test_time_in_which_the_process_stood_still_is_not_the_models() -> None:
    now_ns = [10**15]
    awake = AwakeClock(lambda: now_ns[0])
    awake.beat()
    rig = Rig(
        "degrade.steps=[{every = 2}]", "degrade.down_after_s=0.1", "camera.0.deadline_s=1e-6",
        awake=awake,
    )  # fmt: skip

    def freeze() -> float:
        now_ns[0] += 3600 * 10**9
        return rig.inference_loop.busy_s

    with rig.running():
        assert rig.inference_loop.call(freeze).result(WAIT_S) <= 0.1
        assert rig.inference_loop.call(lambda: rig.inference_loop.busy_s).result(WAIT_S) <= 0.2
        until = time.monotonic() + 0.4
        for number in itertools.count():  # every one is late, and captured before a standstill ends
            assert not any(message.degraded for message in rig.look(number, a=DARK))
            if time.monotonic() > until:
                break
        awake.beat()
        now_ns[0] += 10**8
        awake.beat()
        numbers = itertools.count(number + 1)
        while not any(
            message.degraded for message in tuple(rig.said)
        ):  # from then on every second is skipped
            rig.show(next(numbers), a=DARK)
            time.sleep(0.01)
            assert time.monotonic() < until + WAIT_S


def test_a_hang_after_a_batchs_first_message_is_noticed() -> None:
    """A send suspends the timer; the rest of the batch is timed from its end, in awake time."""
    now_ns = [10**15]
    timer = WorkTimer(AwakeClock(lambda: now_ns[0]))
    with timer.suspended():
        assert timer.busy_s == 0.0
    assert timer.busy_s == 0.0
    timer.start()
    with timer.suspended():
        now_ns[0] += 5 * 10**9
        assert timer.busy_s == 0.0
    now_ns[0] += 2 * 10**9
    assert timer.busy_s == 2.0
    timer.stop()
    assert timer.busy_s == 0.0


@pytest.mark.parametrize(
    "bad",
    [
        {"camera.a.max_fps": 1e-300},
        {"camera.a.max_fps": float("nan")},
        {"camera.c.max_fps": 5.0},
        {"camera.a.deadline_s": 5.0},
        {"detect.score": 1e-300},
        {"detect.min_box_px": 2**62},
        {"smooth.leave": 0.9},
        {"smooth.time_constant_s": True},
        {"nothing.at_all": 1},
    ],
)
def test_one_bad_value_among_good_ones_changes_nothing(bad: dict[str, object]) -> None:
    rig = Rig(limits={"a": RateLimit(None), "b": RateLimit(None)})
    good = {"model.top_k": 2, "camera.b.max_fps": 5.0}
    with rig.running():
        before, settings = rig.inference_loop.config, rig.inference_loop.settings
        for mixed in ({**good, **bad}, {**bad, **good}):
            with pytest.raises(PerceptionError):
                rig.ask("set", settings=mixed).result(WAIT_S)
        assert rig.inference_loop.config == before
        assert rig.inference_loop.settings == settings
        assert {name: limit.max_fps for name, limit in rig.limits.items()} == {"a": None, "b": None}
        rig.ask("set", settings=good).result(WAIT_S)
        assert rig.limits["b"].max_fps == 5.0


def test_a_client_may_ask_for_each_of_its_cameras_at_once() -> None:
    rig = Rig()
    with rig.running():
        answers = [rig.ask("pause", camera="a", client="pilot") for _ in range(32)]
        for answer in answers:
            answer.result(WAIT_S)


def test_one_client_with_many_snapshots_has_only_its_own_refused() -> None:
    rig = Rig()
    with rig.running():
        rig.ask("pause", camera="a", client="pilot").result(WAIT_S)
        snapshots = [rig.ask("snapshot", camera="a", client="greedy") for _ in range(4)]
        with pytest.raises(ControlError, match="4 of yours are in work already"):
            rig.ask("snapshot", camera="a", client="greedy")
        snapshots += [rig.ask("snapshot", camera="a") for _ in range(12)]
        with pytest.raises(ControlError, match="16 are in work already"):
            rig.ask("snapshot", camera="a")
        began = time.monotonic()
        for number in range(50):
            rig.ask("pause", camera="a", client=f"pilot {number}").result(WAIT_S)
            rig.ask("resume", camera="b", client="greedy").result(WAIT_S)
        assert time.monotonic() - began < SNAPSHOT_S
        assert not any(snapshot.done() for snapshot in snapshots)


def test_the_requests_of_a_client_that_has_gone_are_given_up() -> None:
    rig = Rig()
    with rig.running():
        rig.ask("pause", camera="a").result(WAIT_S)
        gone = Client("gone")
        snapshots = [
            rig.controller.handle(Request(0, "snapshot", {"camera": "a"}, gone)) for _ in range(4)
        ]
        began = time.monotonic()
        gone.leave()
        for snapshot in snapshots:
            with pytest.raises(ControlError):
                snapshot.result(WAIT_S)
        assert time.monotonic() - began < SNAPSHOT_S / 2


def test_a_change_that_waits_too_long_is_refused_and_does_not_come_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.pipeline.control_commands.BETWEEN_FRAMES_S", 0.05)
    rig = Rig()
    with rig.running():
        in_work, go_on = threading.Event(), threading.Event()

        def work() -> None:
            in_work.set()
            assert go_on.wait(WAIT_S)

        rig.inference_loop.call(work)
        assert in_work.wait(WAIT_S)
        answer = rig.ask("pause", camera="a")
        deadline = time.monotonic() + WAIT_S
        while not answer.done():
            assert time.monotonic() < deadline
            rig.controller.look_after()
        with pytest.raises(ControlError, match="nothing was changed"):
            answer.result()
        go_on.set()
        rig.inference_loop.call(lambda: None).result(WAIT_S)
        assert not rig.inference_loop.paused


def test_a_publisher_that_is_busy_is_no_model_that_hangs() -> None:
    rig = Rig()
    sending, go_on = threading.Event(), threading.Event()
    send = rig.sink.send

    def busy(outgoing: Any) -> None:
        sending.set()
        assert go_on.wait(WAIT_S)
        send(outgoing)

    with rig.running():
        rig.sink.send = busy  # type: ignore[method-assign]
        rig.inference_loop.call(lambda: rig.mailbox.put(Frame(DARK, "a", 0, Stamp.now(), None, 0)))
        assert sending.wait(WAIT_S)
        assert rig.inference_loop.busy_s == 0
        go_on.set()
        deadline = time.monotonic() + WAIT_S
        while not rig.said:
            assert time.monotonic() < deadline
            time.sleep(0.001)
