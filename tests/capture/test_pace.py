"""Pace: what is slow is not stalled, and what stood still blames nobody."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from conftest import Start
from support.streams import ByteServer, MjpegServer, part
from support.waiting import wait_until

from node.capture import grabber as grabber_module
from node.capture import reopening as reopening_module
from node.capture.cadence import Cadence
from node.capture.frozen import period_s
from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.packets import timeout_ms
from node.capture.sources.base import Picture, SourceFacts
from node.capture.sources.open import open_source
from node.config.schema import CameraConfig
from node.image.frame import Image, Stamp
from node.image.jpeg import encode_jpeg
from node.pipeline.camera_status import camera_status
from node.process.awake import AwakeClock
from perception_client.messages.kinds import Status
from perception_client.subscriber import Subscriber

WAIT_S = 60.0
RANDOM = np.random.default_rng(0)


def noise() -> Image:
    return RANDOM.integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def learnt(intervals_s: list[float], max_fps: float | None = None) -> Cadence:
    cadence = Cadence()
    for at_s in itertools.accumulate([0.0, *intervals_s]):
        cadence.note(round(at_s * 1e9), max_fps)
    return cadence


def test_the_rate_is_learnt_from_the_pictures_and_a_claim_counts_only_before() -> None:
    claims = SourceFacts(fps=25.0)
    assert period_s(learnt([]), claims, None) == pytest.approx(0.04)
    assert period_s(learnt([1.0]), claims, None) == pytest.approx(1.0)
    assert period_s(learnt([0.033] * 3), SourceFacts(fps=0.1), None) == pytest.approx(0.033)
    assert period_s(learnt([]), SourceFacts(), None) == 0.0


@pytest.mark.parametrize(
    ("intervals_s", "period_s"),
    [
        ([0.033] * 20 + [3.0], 0.033),  # fell silent
        ([0.033] * 20 + [3.0, 0.033, 3.0], 0.033),
        ([0.033] * 20 + [1.0] * 3, 1.0),  # became slow
        ([1.0] * 5 + [0.001] * 2, 1.0),  # a burst
        ([1.0] * 5 + [0.033] * 3, 0.033),  # became fast
        ([3.0, 0.033], 0.033),  # began late
        ([3600.0] * 3, 60.0),
    ],
)
def test_neither_a_gap_nor_a_burst_is_another_rate(
    intervals_s: list[float], period_s: float
) -> None:
    assert learnt(intervals_s).period_s(None) == pytest.approx(period_s)


def test_what_was_learnt_at_another_rate_counts_where_it_is_the_sources_own() -> None:
    assert learnt([10.0] * 5, max_fps=0.1).period_s(None) is None
    assert learnt([10.0] * 5, max_fps=0.1).period_s(0.1) == pytest.approx(10.0)
    assert learnt([1.0] * 5, max_fps=30).period_s(10.0) == pytest.approx(1.0)
    assert learnt([0.033] * 5).period_s(0.1) == pytest.approx(10.0)


def test_an_opening_is_no_interval() -> None:
    cadence = learnt([0.1] * 2)
    cadence.interrupt()
    cadence.note(10**12, None)
    assert cadence.period_s(None) == pytest.approx(0.1)


def test_a_slow_stream_has_time_for_its_pictures() -> None:
    assert timeout_ms(CameraConfig()) == 10_000
    assert timeout_ms(CameraConfig(stall_timeout_s=30.0)) == 30_000
    assert timeout_ms(CameraConfig(fps=0.05)) == 40_000


class Statuses:
    """Of a grabber, looked at as the node does, on a thread of its own."""

    def __init__(self, grabber: Grabber) -> None:
        self.seen: list[Status] = []
        self._grabber = grabber
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.01):
            status = camera_status(
                is_open=self._grabber.state.open,
                silent_s=self._grabber.silent_s,
                stall_timeout_s=self._grabber.stall_after_s,
            )
            if not self.seen or self.seen[-1] is not status:
                self.seen.append(status)

    def close(self) -> None:
        self._done.set()
        self._thread.join(WAIT_S)


def streamed(pictures: int, period_s: float) -> ByteServer:
    parts = [part(encode_jpeg(noise(), 90)) for _ in range(pictures)]
    # FFmpeg takes a picture for complete when the next begins.
    return ByteServer(*((period_s * (index > 1), body) for index, body in enumerate(parts)))


def test_a_stream_of_five_periods_a_stall_time_is_ok_from_its_first_interval_on(
    stop: threading.Event,
) -> None:
    """Over HTTP, with a claim of 25 a second, in a fifth of the time."""
    server = streamed(32, 0.2)
    config = CameraConfig(name="a", source=server.url, stall_timeout_s=0.1)
    grabber = Grabber(
        config, lambda: open_source(config), LatestMailbox(["a"]), stop, retry_first=False
    )
    grabber.start()
    wait_until(lambda: grabber.state.frames >= 3)
    statuses = Statuses(grabber)
    wait_until(lambda: grabber.state.frames >= 12)
    statuses.close()
    stop.set()
    assert grabber.state.reconnects == 0
    assert statuses.seen == [Status.OK]
    server.close()


class Slowing:
    """A camera whose period is changed in flight; None: it is silent."""

    live = True
    facts = SourceFacts(fps=30.0)

    def __init__(self, stop: threading.Event) -> None:
        self.period_s = 0.01
        self.silent = threading.Event()
        self._stop = stop

    def read(self) -> Picture:
        self._stop.wait(self.period_s)
        while self.silent.is_set() and not self._stop.wait(0.005):
            pass
        return Picture(noise(), Stamp.now(), None, 0)

    def summary(self) -> None:
        return None

    def close(self) -> None:
        pass


def test_a_fast_camera_that_falls_silent_is_stalled_in_time_and_one_that_became_slow_is_not(
    stop: threading.Event,
) -> None:
    camera = Slowing(stop)
    config = CameraConfig(name="a", stall_timeout_s=0.1)
    grabber = Grabber(config, lambda: camera, LatestMailbox(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.frames > 10)
    assert grabber.stall_after_s == 0.1
    camera.silent.set()
    wait_until(lambda: (grabber.silent_s or 0) > 0.1)
    assert grabber.stall_after_s == 0.1
    camera.silent.clear()
    camera.period_s = 0.2
    frames = grabber.state.frames
    wait_until(lambda: grabber.state.frames > frames + 4)
    statuses = Statuses(grabber)
    wait_until(lambda: grabber.state.frames > frames + 8)
    statuses.close()
    assert statuses.seen == [Status.OK]
    assert grabber.stall_after_s == pytest.approx(0.4, rel=0.2)


def test_a_slow_source_is_not_opened_anew_for_one_bad_picture(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grabber_module, "REOPEN_AFTER_S", 0.1)
    still = noise()

    class Slow(Slowing):
        def read(self) -> Picture:
            picture = super().read()
            again = grabber.state.frames % 2
            return Picture(still if again else picture.image, picture.stamp, None, 0)

    camera = Slow(stop)
    camera.period_s = 0.15
    config = CameraConfig(name="a", stall_timeout_s=0.1)
    grabber = Grabber(config, lambda: camera, LatestMailbox(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.frames > 8)
    assert grabber.state.reconnects == 0


# Standing still.


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ns = 10**15

    def __call__(self) -> int:
        return self.ns

    def go(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def test_awake_time_leaves_out_what_the_pulse_slept_through() -> None:
    now = Time()
    awake = AwakeClock(now)
    began = awake.now_ns()
    now.go(5.0)
    assert (awake.now_ns() - began) / 1e9 == 5.0  # nothing beats yet
    awake.beat()
    for _ in range(100):
        now.go(0.05)
        awake.beat()
    assert (awake.now_ns() - began) / 1e9 == pytest.approx(10.0)
    assert awake.resumed_ns == 0
    now.go(3600.0)
    assert (awake.now_ns() - began) / 1e9 == pytest.approx(10.1)  # before the pulse knows of it
    assert awake.resumed_ns > 0
    awake.beat()
    assert (awake.now_ns() - began) / 1e9 == pytest.approx(10.1)
    before = time.monotonic_ns()
    assert 0 < awake.resumed_ns <= before


def test_the_pulse_beats(stop: threading.Event) -> None:
    awake = AwakeClock()
    awake.start()
    began, real = awake.now_ns(), time.monotonic_ns()
    wait_until(lambda: time.monotonic_ns() - real > 4e8)
    assert (awake.now_ns() - began) / 1e9 > 0.2
    awake.close()
    assert "pulse" not in [thread.name for thread in threading.enumerate()]


def test_a_result_is_waited_for_in_awake_time() -> None:
    future: Future[int] = Future()
    with pytest.raises(TimeoutError):
        AwakeClock().result(future, 0.05)
    now = Time()
    awake = AwakeClock(now)
    awake.beat()
    waiter: Future[int] = Future()
    thread = threading.Thread(target=lambda: waiter.set_result(awake.result(future, 5.0)))
    thread.start()
    now.go(100.0)
    future.set_result(3)
    assert waiter.result(WAIT_S) == 3
    failed: Future[int] = Future()
    failed.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        awake.result(failed, 5.0)


def test_after_a_standstill_a_camera_is_opened_anew_and_the_picture_of_before_is_thrown_away(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    now = Time()
    awake = AwakeClock(now)
    awake.beat()
    camera = Slowing(stop)
    grabber = Grabber(
        CameraConfig(name="a"), lambda: camera, LatestMailbox(["a"]), stop, retry_first=False,
        awake=awake, hung_after_s=1.0,
    )  # fmt: skip
    grabber.start()
    wait_until(lambda: grabber.state.frames > 3)
    camera.silent.set()
    wait_until(lambda: (grabber.silent_s or 0) > 0.05)
    frames = grabber.state.frames
    now.go(30.0)
    awake.beat()
    grabber.look_after()
    assert grabber.state.open, "it was not the driver that hung"
    camera.silent.clear()
    wait_until(lambda: grabber.state.reconnects == 1)
    assert grabber.state.frames <= frames + 1
    assert "stood still" in str(grabber.state.last_error)
    wait_until(lambda: grabber.state.frames > frames + 5)
    assert grabber.state.reconnects == 1
    awake.beat()
    now.go(0.05)
    awake.beat()
    assert grabber.state.reconnects == 1


def test_a_node_that_was_stopped_goes_on_and_says_nothing_old_is_new(
    start_node: Start, ipc: str, tmp_path: Path
) -> None:
    server = MjpegServer(RANDOM.integers(0, 256, (240, 320, 3), np.uint8))
    process = start_node(
        "run", "--source", server.url, "--endpoint", ipc, "--set", "model.inference_timeout_s=0.4"
    )
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber:
        assert subscriber.require(1.0, timeout_s=WAIT_S)
        for _ in range(2):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(1.3)  # how long it is stopped
            resumed_ns = time.monotonic_ns()
            os.kill(process.pid, signal.SIGCONT)
            seen = [subscriber.receive(WAIT_S)[0]]
            while seen[-1].status is not Status.OK or (seen[-1].stamp_mono_ns or 0) < resumed_ns:
                seen.append(subscriber.receive(WAIT_S)[0])
            blind = [message.status for message in seen if message.status is not Status.OK]
            assert Status.NO_CAMERA in blind, "nothing was opened anew"
            assert process.poll() is None
            wait_until(lambda: bool(subscriber.latest(0.5)))
    server.close()
