"""Grabber: cameras that come, go, hang, freeze, break and change their size."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from support.waiting import wait_until

from node.capture import grabber as grabber_module
from node.capture import reopening as reopening_module
from node.capture.frozen import FrozenDetector
from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.rate import RateLimit
from node.capture.sources.base import Picture, Source, SourceFacts
from node.config.schema import CameraConfig
from node.errors import BacklogError, PictureError, SourceError
from node.image.frame import Frame, Image, Stamp

WAIT_S = 10.0
CAMERA = CameraConfig(name="a", stall_timeout_s=0.1)
RANDOM = np.random.default_rng(0)


def noise(height: int = 48, width: int = 64) -> Image:
    """As from a sensor: never the same twice."""
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


class FlakyCamera:
    """A camera that is unplugged after three frames."""

    live = True
    facts = SourceFacts(fps=30.0)

    def __init__(self) -> None:
        self._left = 3

    def read(self) -> Picture:
        if not self._left:
            raise SourceError("camera 'a' stopped delivering frames")
        self._left -= 1
        return Picture(noise(), Stamp.now(), None, 0)

    def summary(self) -> None:
        return None

    def close(self) -> None:
        pass


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_lost_camera_is_opened_again_and_its_frames_go_on_counting(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    opened = itertools.count()

    def open_flaky() -> Source:
        match next(opened):
            case 1:
                raise SourceError("camera 'a': not there yet")
            case 2:
                raise OSError("what no driver should raise")
        return FlakyCamera()

    grabber = Grabber(CAMERA, open_flaky, LatestMailbox(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.reconnects >= 3)
    state = grabber.state
    assert state.frames >= 9
    assert state.failure is None
    assert state.last_error is not None
    stop.set()
    assert grabber.join(WAIT_S)


def test_a_camera_that_is_lost_again_and_again_fills_no_log(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(reopening_module, "_ATTEMPT_S", (0.001, 0.001))
    grabber = Grabber(CAMERA, FlakyCamera, LatestMailbox(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.reconnects >= 20)
    stop.set()
    assert grabber.join(WAIT_S)
    lines = [record.getMessage() for record in caplog.records]
    assert 1 <= sum("stopped delivering frames; trying again" in line for line in lines) <= 3
    assert 1 <= sum("is open again" in line for line in lines) <= 3


def test_a_camera_missing_at_the_start_ends_or_is_waited_for(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    attempts = itertools.count()

    def open_late() -> Source:
        if next(attempts) < 3:
            raise SourceError("camera 'a': missing")
        return FlakyCamera()

    required = Grabber(CAMERA, open_late, LatestMailbox(["a"]), stop, retry_first=False)
    required.start()
    wait_until(lambda: required.state.ended)
    assert "missing" in str(required.state.failure)
    waited_for = Grabber(CAMERA, open_late, LatestMailbox(["a"]), stop, retry_first=True)
    waited_for.start()
    wait_until(lambda: waited_for.state.frames > 0)
    assert waited_for.state.failure is None


def test_a_camera_that_hangs_holds_nobody(stop: threading.Event) -> None:
    release = threading.Event()

    class HungCamera(FlakyCamera):
        def read(self) -> Picture:
            release.wait()
            return super().read()

    grabber = Grabber(CAMERA, HungCamera, LatestMailbox(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.open)
    stop.set()
    started = time.monotonic()
    assert not grabber.join(0.2)
    assert time.monotonic() - started < 1.0
    release.set()
    assert grabber.join(WAIT_S)


class Camera:
    """Delivers what `pictures` makes, a hundred a second or as often as it is told."""

    live = True
    facts = SourceFacts(fps=100.0)

    def __init__(self, pictures: Callable[[], Image], period_s: float = 0.01) -> None:
        self._pictures = pictures
        self._period_s = period_s

    def read(self) -> Picture:
        time.sleep(self._period_s)  # the camera's own
        return Picture(self._pictures(), Stamp.now(), None, 0)

    def summary(self) -> None:
        return None

    def close(self) -> None:
        pass


def silent_s(grabber: Grabber) -> float:
    newest = grabber.state.newest_mono_ns
    return 0.0 if newest is None else (time.monotonic_ns() - newest) / 1e9


def test_a_frozen_picture_is_silence_and_the_camera_is_opened_anew(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(grabber_module, "REOPEN_AFTER_S", 0.5)
    opened = itertools.count()
    frozen = noise()

    def open_camera() -> Source:
        return Camera(noise if next(opened) else lambda: frozen.copy())

    mailbox = LatestMailbox(["a"])
    grabber = Grabber(CAMERA, open_camera, mailbox, stop, retry_first=False)
    grabber.start()
    wait_until(lambda: silent_s(grabber) > 0.15)
    put = grabber.state.frames
    wait_until(lambda: silent_s(grabber) > 0.3 or grabber.state.reconnects > 0)
    assert grabber.state.reconnects or grabber.state.frames == put, "no frozen frame is labelled"
    wait_until(lambda: grabber.state.reconnects == 1 and grabber.state.frames > put + 3)
    assert silent_s(grabber) < 0.1
    assert grabber.state.repeated >= 20
    assert "repeats the same picture for" in str(grabber.state.last_error)


def test_a_still_scene_can_be_declared(stop: threading.Event) -> None:
    still = noise()
    config = CAMERA.model_copy(update={"detect_frozen": False})
    grabber = Grabber(
        config, lambda: Camera(lambda: still), LatestMailbox(["a"]), stop, retry_first=False
    )
    grabber.start()
    wait_until(lambda: grabber.state.frames >= 30)
    assert silent_s(grabber) < 0.1


def test_a_drivers_stamp_that_stands_still_is_no_new_frame() -> None:
    freshness = FrozenDetector()
    now_ns = time.monotonic_ns()
    stamps = [Stamp.from_driver(now_ns + step) for step in (0, 1000, 1000, 2000)]
    seen = [freshness.repeats(Picture(noise(), stamp, None, 0)) for stamp in stamps]
    assert seen == [None, None, "stamp", None]


SCENE = RANDOM.integers(60, 200, (240, 320, 3), np.uint8)


def grainy(scene: Image = SCENE) -> Image:
    """A scene at rest, with a sensor's noise."""
    return scene + RANDOM.integers(0, 3, scene.shape, np.uint8)


def clocked(picture: Image, number: int) -> Image:
    """With a clock burnt in, in a corner."""
    shown = picture.copy()
    shown[:12, :80] = number % 250
    return shown


def repeats(freshness: FrozenDetector, image: Image, jpeg: bytes | None = b"jpeg") -> str | None:
    return freshness.repeats(Picture(image, Stamp.now(), None, 0, jpeg=jpeg))


@pytest.mark.parametrize("buffers", [2, 3])
def test_the_pictures_of_a_few_buffers_in_turn_are_not_new(buffers: int) -> None:
    freshness = FrozenDetector()
    turn = [grainy() for _ in range(buffers)]
    assert [repeats(freshness, image.copy()) for image in turn] == [None] * buffers
    for index in range(3 * buffers):
        assert repeats(freshness, turn[index % buffers].copy()) == "few pictures"
    assert repeats(freshness, grainy()) is None


def test_a_short_animation_in_a_loop_is_new() -> None:
    freshness = FrozenDetector()
    turn = [grainy() for _ in range(4)]
    assert [repeats(freshness, turn[index % 4].copy()) for index in range(20)] == [None] * 20


def test_a_clock_over_a_picture_that_stands_still_is_found_where_noise_was_seen() -> None:
    freshness = FrozenDetector()
    for number in range(400):
        assert repeats(freshness, clocked(grainy(), number)) is None
    frozen = grainy()
    repetitions = [repeats(freshness, clocked(frozen, number)) for number in range(20)]
    assert repetitions[1:] == ["most of its picture"] * 19
    assert repeats(freshness, clocked(grainy(), 0)) is None
    assert repeats(freshness, clocked(grainy(np.roll(SCENE, 3)), 1)) is None


def test_a_camera_that_was_never_seen_to_have_noise_may_stand_still_but_for_a_part() -> None:
    """A cartoon, a screen, a scene at rest in H.264."""
    freshness = FrozenDetector()
    for number in range(800):
        assert repeats(freshness, clocked(SCENE, number * 7 % 251 + number)) is None
    learnt_by_motion_alone = FrozenDetector()
    for number in range(800):
        assert repeats(learnt_by_motion_alone, np.roll(SCENE, number * 3, axis=1)) is None
    for number in range(20):
        assert repeats(learnt_by_motion_alone, clocked(SCENE, 2 * number + 1)) is None
    coded = FrozenDetector()
    for number in range(400):
        assert repeats(coded, clocked(grainy(), number), jpeg=None) is None
    frozen = grainy()
    for number in range(20):
        assert repeats(coded, clocked(frozen, number), jpeg=None) is None


def test_darkness_without_noise_is_not_held_against_a_camera() -> None:
    freshness = FrozenDetector()
    for number in range(400):
        assert repeats(freshness, clocked(grainy(), number)) is None
    black = np.zeros_like(SCENE)
    assert [repeats(freshness, clocked(black, number)) for number in range(9)] == [None] * 9


def test_buffers_in_turn_are_silence(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = itertools.cycle([noise(), noise()])
    grabber = Grabber(
        CAMERA, lambda: Camera(lambda: next(turn).copy()), LatestMailbox(["a"]), stop,
        retry_first=False,
    )  # fmt: skip
    grabber.start()
    wait_until(lambda: silent_s(grabber) > 0.15)
    frames = grabber.state.frames
    wait_until(lambda: silent_s(grabber) > 0.3)
    assert grabber.state.frames == frames
    assert grabber.state.last_error == "camera 'a' repeats the same few pictures"


def test_the_rate_in_force_decides_when_a_camera_is_stalled(stop: threading.Event) -> None:
    limit = RateLimit(None)
    grabber = Grabber(
        CAMERA, lambda: Camera(noise), LatestMailbox(["a"]), stop, retry_first=False, limit=limit
    )
    assert grabber.stall_after_s == CAMERA.stall_timeout_s
    limit.change(0.1)
    assert grabber.stall_after_s == 20.0
    grabber.start()
    wait_until(lambda: grabber.state.frames > 0)
    stop.set()
    assert grabber.join(WAIT_S)
    limit.change(30.0)
    assert grabber.stall_after_s == CAMERA.stall_timeout_s
    assert (grabber.silent_s or 0) < 0.05  # counts from the change: the old rate was kept till then


def test_another_rate_holds_from_the_next_frame_on() -> None:
    limit = RateLimit(0.1)
    assert limit.wants(0)
    limit.change(30.0)
    assert limit.wants(10_000_000)


def test_what_nobody_foresaw_costs_one_opening(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)

    class Full(LatestMailbox):
        def put(self, frame: Frame) -> None:
            if frame.frame_id == 2:
                raise MemoryError("no room")
            super().put(frame)

    grabber = Grabber(CAMERA, lambda: Camera(noise), Full(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.frames > 10)
    assert grabber.state.reconnects == 1
    assert grabber.state.last_error == "camera 'a' failed: MemoryError: no room"


def test_another_size_and_another_opening_are_another_scene(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    epochs: list[int] = []

    class Noting(LatestMailbox):
        def put(self, frame: Frame) -> None:
            epochs.append(frame.epoch)

    sizes, unplugged = iter([48, 24]), iter([True])

    def picture() -> Image:
        height = next(sizes, None)
        if height is None and next(unplugged, False):
            raise SourceError("camera 'a' stopped delivering frames")
        return noise(height or 24)

    grabber = Grabber(CAMERA, lambda: Camera(picture), Noting(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: len(set(epochs)) == 3)
    assert sorted(epochs) == epochs


def test_a_corrupt_picture_costs_itself_and_many_reopen_the_camera(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(grabber_module, "REOPEN_AFTER_S", 0.2)
    turns = itertools.count()
    broken = threading.Event()

    def picture() -> Image:
        if broken.is_set() or next(turns) % 3 == 1:
            raise PictureError("camera 'a' delivered a frame that cannot be decoded")
        return noise()

    grabber = Grabber(
        CAMERA, lambda: Camera(picture), LatestMailbox(["a"]), stop, retry_first=False
    )
    grabber.start()
    wait_until(lambda: grabber.state.corrupt >= 5)
    assert grabber.state.reconnects == 0
    assert grabber.state.frames >= 8
    broken.set()
    wait_until(lambda: grabber.state.reconnects >= 2)
    assert not grabber.state.ended


def test_a_hung_driver_is_given_up_and_its_late_frames_are_thrown_away(
    stop: threading.Event,
) -> None:
    release = threading.Event()
    opened = itertools.count()

    class HangsAtFirst(Camera):
        def __init__(self) -> None:
            super().__init__(noise)
            self.hangs = next(opened) == 0

        def read(self) -> Picture:
            if self.hangs:
                release.wait()
                return Picture(noise(7, 7), Stamp.now(), None, 0)
            return super().read()

    mailbox = LatestMailbox(["a"])
    grabber = Grabber(CAMERA, HangsAtFirst, mailbox, stop, retry_first=False, hung_after_s=0.2)
    grabber.start()
    wait_until(lambda: grabber.state.open)
    wait_until(lambda: grabber.look_after() or grabber.state.frames > 3)
    assert grabber.state.reconnects == 1
    release.set()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        queued = next(iter(mailbox.take_all(0.1, 1)), None)
        assert queued is None or queued.frame.image.shape == (48, 64, 3)
    assert grabber.state.facts.width == 64


def test_a_late_picture_does_not_make_a_frozen_camera_new(stop: threading.Event) -> None:
    release = threading.Event()
    opened = itertools.count()
    frozen = noise()

    class HangsAtFirst(Camera):
        def __init__(self) -> None:
            super().__init__(lambda: frozen.copy())
            self.hangs = next(opened) == 0

        def read(self) -> Picture:
            if self.hangs:
                release.wait()
                return Picture(noise(), Stamp.now(), None, 0)
            return super().read()

    grabber = Grabber(
        CAMERA, HangsAtFirst, LatestMailbox(["a"]), stop, retry_first=False, hung_after_s=0.2
    )
    grabber.start()
    hung = next(thread for thread in threading.enumerate() if thread.name == "capture-a")
    wait_until(lambda: grabber.look_after() or grabber.state.repeated > 0)
    wait_until(lambda: silent_s(grabber) > 0.15)
    frames, repeated = grabber.state.frames, grabber.state.repeated
    release.set()
    wait_until(lambda: not hung.is_alive())
    wait_until(lambda: grabber.state.repeated > repeated + 3)
    assert grabber.state.frames == frames, "a frozen picture was taken for a new one"


def test_few_threads_hang_however_long_it_takes(stop: threading.Event) -> None:
    release = threading.Event()

    def open_hung() -> Source:
        release.wait()
        raise SourceError("camera 'a': late")

    grabber = Grabber(
        CAMERA, open_hung, LatestMailbox(["a"]), stop, retry_first=True, hung_after_s=0.01
    )
    grabber.start()
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        grabber.look_after()
        time.sleep(0.005)
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("capture-a") <= grabber_module.MOST_HUNG + 1
    stop.set()
    release.set()
    wait_until(lambda: "capture-a" not in [thread.name for thread in threading.enumerate()])


def test_a_change_of_size_in_flight_is_another_scene(stop: threading.Event) -> None:
    wide = threading.Event()
    mailbox = LatestMailbox(["a"])
    grabber = Grabber(
        CAMERA, lambda: Camera(lambda: noise(48, 128 if wide.is_set() else 64)), mailbox, stop,
        retry_first=False,
    )  # fmt: skip
    grabber.start()
    before = next(iter(mailbox.take_all(WAIT_S, 1)), None)
    assert before is not None
    wide.set()
    deadline = time.monotonic() + WAIT_S
    while (after := next(iter(mailbox.take_all(WAIT_S, 1)), None)) is None or (
        after.frame.image.shape[1] != 128
    ):
        assert time.monotonic() < deadline
    assert after.frame.epoch == before.frame.epoch + 1
    assert (grabber.state.facts.width, grabber.state.reconnects) == (128, 0)


def test_what_a_source_passes_over_is_a_hole_in_the_numbers_and_is_said(
    stop: threading.Event,
) -> None:
    class ShortCamera(Camera):
        shortfall: str | None = "camera 'a': it is decoded more slowly than it comes"
        burst_s: float | None = None

        def read(self) -> Picture:
            return replace(super().read(), dropped=2)

    camera = ShortCamera(noise)
    mailbox = LatestMailbox(["a"])
    grabber = Grabber(CAMERA, lambda: camera, mailbox, stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.frames >= 9)
    grabber.look_after()
    assert grabber.degraded == ("camera 'a': it is decoded more slowly than it comes",)
    assert grabber.state.last_error == grabber.degraded[0]
    (queued,) = mailbox.take_all(1.0, 1)
    assert queued.frame.frame_id % 3 == 2
    assert queued.frame.degraded == grabber.degraded
    assert queued.dropped == queued.frame.frame_id
    camera.shortfall = None
    assert grabber.degraded == ()


def test_pictures_of_which_none_can_be_shown_are_no_damage_and_the_camera_is_opened_anew(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(grabber_module, "REOPEN_AFTER_S", 0.2)

    class LateCamera(FlakyCamera):
        def read(self) -> Picture:
            time.sleep(0.02)  # the camera's own period
            raise BacklogError("camera 'a': its pictures come late")

    grabber = Grabber(CAMERA, LateCamera, LatestMailbox(["a"]), stop, retry_first=False)
    grabber.start()
    wait_until(lambda: grabber.state.reconnects > 0)
    assert grabber.state.corrupt == 0
    assert grabber.state.frames == 0
