"""When pictures of a stream come tells which of them are old."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
import skimage
from streams import ByteServer, part

from node.capture.arrivals import Arrivals
from node.capture.open import open_source
from node.capture.photos import read_image
from node.capture.source import Source
from node.config import CameraConfig
from node.errors import SourceError
from node.jpeg import encode_jpeg
from node.opencv import cv2

PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"
BURST_S = 0.001


def old(intervals_s: Iterable[float], fps: float | None = 30, busy_s: float = 0.005) -> list[bool]:
    """Of pictures that come so long one after the other, to a reader who is busy between them."""
    arrivals, came_s, found = Arrivals("camera 'a'", fps, discard=True), 0.0, []
    for interval_s in intervals_s:
        came_s += interval_s
        asked_s = came_s - max(interval_s - busy_s, 0)
        found.append(arrivals.next(int(asked_s * 1e9), int(came_s * 1e9)).old)
    return found


def test_what_comes_at_once_at_opening_is_old_and_nothing_of_a_steady_camera() -> None:
    assert old([1, *[BURST_S] * 20, *[1 / 30] * 100]) == [True] * 21 + [False] * 100


@pytest.mark.parametrize("silence_s", [0.6, 3.0])
def test_what_was_held_back_in_a_silence_is_old(silence_s: float) -> None:
    held_back = int(silence_s * 30)
    times = [*[1 / 30] * 50, silence_s, *[BURST_S] * held_back, *[1 / 30] * 50]
    assert sum(old(times)[:50]) == 1
    assert old(times)[50:] == [True] * (held_back + 1) + [False] * 50


def test_another_silence_among_what_waited_begins_anew() -> None:
    times = [*[1 / 30] * 50, 2.0, *[BURST_S] * 5, 2.0, *[BURST_S] * 60, *[1 / 30] * 50]
    assert old(times)[50:] == [True] * 67 + [False] * 50


def test_after_a_silence_that_lost_all_one_picture_is_passed_over() -> None:
    assert sum(old([*[1 / 30] * 50, 3.0, *[1 / 30] * 50])[1:]) == 1


@pytest.mark.parametrize("told_fps", [25, 1000, None])
@pytest.mark.parametrize("fps", [0.5, 1, 5, 60])
def test_a_wrong_rate_in_the_header_costs_a_second_or_a_few_pictures(
    told_fps: float | None, fps: float
) -> None:
    found = old([1 / fps] * 200, told_fps)
    assert not any(found[max(20, int(1.2 * fps)) :])
    assert sum(found) <= max(10, 1.1 * fps)


def test_jitter_below_half_a_second_is_no_silence() -> None:
    assert sum(old([1 / 30] * 50 + [0.4, 0.0, 0.0] * 50)) == 1


def test_a_stream_that_never_has_to_be_waited_for_is_let_by_after_a_while() -> None:
    found = old([0.02] * 200, 30, busy_s=0.02)
    assert all(found[:45])
    assert not any(found[60:])


def test_periods_are_counted_at_the_rate_that_was_learnt() -> None:
    arrivals = Arrivals("camera 'a'", 25, discard=True)
    for number in range(100):
        arrivals.next(number * 10**9 - 10**8, number * 10**9)
    assert arrivals.next(109 * 10**9, 110 * 10**9).periods == pytest.approx(11, rel=0.05)


def test_motion_jpeg_that_was_held_back_is_passed_over() -> None:
    picture = cv2.resize(read_image(PHOTO), (320, 240))
    jpegs = [encode_jpeg(picture + number, 90) for number in range(50)]
    times = [*[1 / 30] * 20, 0.8, *[0.0] * 14, *[1 / 30] * 15]
    server = ByteServer(*((t, part(jpeg)) for t, jpeg in zip(times, jpegs, strict=True)))
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
