"""When pictures of a stream come tells which of them are old."""

import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import skimage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.streams import ByteServer, part

from node.capture.backlog import Arrival, BacklogMeter
from node.capture.sources.base import Source
from node.capture.sources.image_files import read_image
from node.capture.sources.open import open_source
from node.config.schema import CameraConfig
from node.errors import SourceError
from node.image.jpeg import encode_jpeg
from node.image.opencv import cv2

PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"
BURST_S = 0.001


def arrived(
    intervals_s: Iterable[float], fps: float | None = 30, *, discard: bool = True
) -> list[Arrival]:
    """Of pictures that come so long one after the other, to a reader who is busy for 1 ms of it."""
    meter, came_s, arrivals = BacklogMeter(fps, discard=discard, opened_ns=0), 0.0, []
    for interval_s in intervals_s:
        came_s += interval_s
        waited_ns = int(max(interval_s - 0.001, 0) * 1e9)
        arrivals.append(meter.next(waited_ns, int(came_s * 1e9)))
    return arrivals


def old(intervals_s: Iterable[float], fps: float | None = 30) -> list[bool]:
    return [arrival.old for arrival in arrived(intervals_s, fps)]


def test_what_comes_at_once_at_opening_is_old_and_nothing_of_a_steady_camera() -> None:
    assert old([1, *[BURST_S] * 20, *[1 / 30] * 100]) == [True] * 22 + [False] * 99


@pytest.mark.parametrize("silence_s", [0.6, 3.0])
def test_what_was_held_back_in_a_silence_is_old(silence_s: float) -> None:
    held_back = int(silence_s * 30)
    times = [*[1 / 30] * 50, silence_s, *[BURST_S] * held_back, *[1 / 30] * 50]
    arrivals = arrived(times)[50:]
    assert all(arrival.old for arrival in arrivals[: held_back - 4])
    for number, arrival in enumerate(arrivals[:held_back]):
        assert arrival.late_ns >= (silence_s - (number + 1.1) / 30) * 1e9
    assert not any(arrival.old for arrival in arrivals[held_back + 2 :])


def test_another_silence_among_what_waited_begins_anew() -> None:
    times = [*[1 / 30] * 50, 2.0, *[BURST_S] * 5, 2.0, *[BURST_S] * 115, *[1 / 30] * 50]
    are_old = old(times)[50:]
    assert all(are_old[:110])
    assert not any(are_old[123:])


def test_after_a_silence_that_lost_all_two_pictures_are_passed_over() -> None:
    assert sum(old([*[1 / 30] * 50, 3.0, *[1 / 30] * 50])[5:]) == 2


@pytest.mark.parametrize("declared_fps", [25, 1000, None])
@pytest.mark.parametrize("fps", [0.5, 1, 5, 60, 120])
def test_a_wrong_rate_in_the_header_costs_a_second_or_a_few_pictures(
    declared_fps: float | None, fps: float
) -> None:
    are_old = old([1 / fps] * 200, declared_fps)
    assert not any(are_old[max(20, int(1.2 * fps)) :])
    assert sum(are_old) <= max(10, 1.1 * fps)


def test_a_camera_that_becomes_slower_costs_a_few_pictures() -> None:
    assert sum(old([*[1 / 30] * 50, *[1 / 4] * 50])[5:]) <= 3


def test_what_was_held_back_of_a_camera_that_became_faster_is_old() -> None:
    times = [*[2 / 15] * 100, *[1 / 30] * 60, 1.2, *[BURST_S] * 36, *[1 / 30] * 50]
    arrivals = arrived(times)
    assert not any(arrival.old for arrival in arrivals[20:160])
    for number, arrival in enumerate(arrivals[160:196]):
        assert arrival.old or arrival.late_ns >= (1.2 - (number + 4) / 30) * 1e9
    assert not any(arrival.old for arrival in arrivals[200:])


@pytest.mark.parametrize("fps", [15, 30, 120])
def test_a_rate_that_is_not_known_yet_blinds_nobody(fps: float) -> None:
    arrivals = arrived([*[0.05] * 8, *[1 / fps] * 400], fps=1000)
    assert not any(arrival.old for arrival in arrivals[8:])


@pytest.mark.parametrize(
    "rhythm", [(0.066, 0.0), (0.1, 0.0, 0.0), (0.01, 0.05), (0.033, 0.033, 0.12, 0.0, 0.0, 0.0)]
)
def test_a_stream_that_sends_several_pictures_at_once_is_seen(rhythm: tuple[float, ...]) -> None:
    arrivals = arrived([*rhythm] * 100)
    assert not any(arrival.old for arrival in arrivals[20:])
    assert max(arrival.late_ns for arrival in arrivals[20:]) <= 0.12e9


def test_a_silence_too_short_to_pass_anything_over_is_said() -> None:
    arrivals = arrived([*[1 / 30] * 50, 0.12, 0.0, 0.0, *[1 / 30] * 50])[50:]
    assert not any(arrival.old for arrival in arrivals)
    assert arrivals[0].late_ns == pytest.approx(0.12e9 - 1e9 / 30, rel=0.01)
    assert arrivals[10].late_ns < 1e6


@pytest.mark.parametrize("interval_s", [0.0005, 0.004])
def test_a_stream_that_never_has_to_be_waited_for_is_never_of_now(interval_s: float) -> None:
    """A recording behind an address, or a reader that is always behind."""
    arrivals = BacklogMeter(30, discard=True, opened_ns=0)
    assert all(arrivals.next(0, int(number * interval_s * 1e9)).old for number in range(1, 20_000))


@pytest.mark.parametrize("pause_s", [0.003, 0.0045, 0.006, 0.01])
def test_pauses_of_a_server_that_sends_without_end_prove_nothing(pause_s: float) -> None:
    """It is pre-empted now and then, for about a period of the fastest camera."""
    chance = random.Random(pause_s)
    times = [
        pause_s * chance.uniform(0.9, 1.1) if chance.random() < 0.2 else 0.0003 for _ in range(5000)
    ]
    are_old = old(times)
    shown = [number for number, is_old in enumerate(are_old) if not is_old]
    assert all(number < 75 for number in shown)


def test_a_reader_who_does_not_wait_any_more_is_behind_sooner_or_later() -> None:
    """What he misses by each picture may be less than a clock tells."""
    arrivals = BacklogMeter(30, discard=True, opened_ns=0)
    came = [arrivals.next(int(3e7), int(number / 30 * 1e9)) for number in range(1, 50)]
    assert not came[-1].old
    behind = [arrivals.next(0, int(number / 30 * 1e9)) for number in range(50, 100)]
    assert behind[-1].old


def test_where_nothing_is_to_be_discarded_the_bound_is_said_all_the_same() -> None:
    arrivals = arrived([*[1 / 30] * 50, 2.0, *[BURST_S] * 30], discard=False)
    assert not any(arrival.old for arrival in arrivals)
    assert arrivals[50].late_ns == pytest.approx(2e9 - 1e9 / 30, rel=0.01)


def test_periods_are_counted_at_the_rate_that_was_learnt() -> None:
    arrivals = BacklogMeter(25, discard=True, opened_ns=0)
    for number in range(1, 100):
        arrivals.next(900_000_000, number * 10**9)
    assert arrivals.next(900_000_000, 110 * 10**9).periods == pytest.approx(11, rel=0.05)


@settings(max_examples=200, deadline=None)
@example(
    fps=30, declared_fps=None, silences=[(1.0, 2.0), (0.5, 2.0), (0.5, 1.0)], jitter=0.0, seed=0
)
@given(
    fps=st.sampled_from([5, 15, 30, 60]),
    declared_fps=st.sampled_from([None, 25.0, 30.0]),
    silences=st.lists(st.tuples(st.floats(0.3, 3), st.floats(0.02, 2)), max_size=8),
    jitter=st.floats(0, 0.3),
    seed=st.integers(0, 1000),
)
def test_no_picture_is_older_than_is_said(
    fps: int,
    declared_fps: float | None,
    silences: list[tuple[float, float]],
    jitter: float,
    seed: int,
) -> None:
    """A camera of a steady rate behind a network that stands still now and then, and a link that is
    four times as fast as the stream."""
    chance, period_s = random.Random(seed), 1 / fps
    sent_s = [10 + (number + jitter * chance.random()) * period_s for number in range(12 * fps)]
    held, at_s = [], 12.0
    for pause_s, length_s in silences:
        at_s += pause_s
        held.append((at_s, at_s + length_s))
        at_s += length_s
    arrivals, free_s = BacklogMeter(declared_fps, discard=True, opened_ns=int(9.9e9)), 0.0
    for number, moment_s in enumerate(sent_s):
        through_s = next((end for begin, end in held if begin <= moment_s < end), moment_s)
        came_s = max(through_s, free_s) + period_s / 4
        arrival = arrivals.next(int((came_s - max(free_s, 10)) * 1e9), int(came_s * 1e9))
        free_s = came_s
        hidden_s = came_s - moment_s - period_s / 4
        if not arrival.old and number > 20:
            assert hidden_s <= arrival.late_ns / 1e9 + 1.1 * period_s
            assert hidden_s <= 0.1 + 2.1 * period_s


def test_motion_jpeg_that_was_held_back_is_passed_over() -> None:
    picture = cv2.resize(read_image(PHOTO), (320, 240))
    jpegs = [encode_jpeg(picture + number, 90) for number in range(50)]
    times = [*[1 / 30] * 20, 0.8, *[0.0] * 14, *[1 / 30] * 15]
    server = ByteServer(
        *((delay_s, part(jpeg)) for delay_s, jpeg in zip(times, jpegs, strict=True))
    )
    source = open_source(CameraConfig(source=server.url))
    seen = [jpegs.index(jpeg) for jpeg in read_all(source)]
    source.close()
    server.close()
    assert not set(seen) & set(range(20, 35))
    assert set(seen) >= {*range(15, 20), *range(37, 49)}


def read_all(source: Source) -> Iterable[bytes]:
    """The bytes of each picture, until the server closes."""
    for _ in itertools.count():
        try:
            picture = source.read()
        except SourceError:
            return
        assert picture is not None
        assert picture.jpeg is not None
        yield picture.jpeg
