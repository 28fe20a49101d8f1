"""Where undecoded pictures wait: the newest wins, nothing grows, what is given up is counted."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from node.capture import handover
from node.capture.backlog import Arrival
from node.capture.handover import HandOver, NewestKey, NewestPicture, Packet
from node.capture.shortfall import Shortfall
from node.errors import BacklogError, SourceError
from node.image.frame import Stamp

MS = 1_000_000
FRESH = Arrival(late_ns=0, old=False, periods=1.0)
OLD = Arrival(late_ns=500 * MS, old=True, periods=1.0)


class Clock:
    """Says what it is set to."""

    def __init__(self) -> None:
        self.ms = 0.0

    def __call__(self) -> int:
        return round(self.ms * MS)


def made(kind: Callable[..., HandOver]) -> tuple[HandOver, Clock]:
    clock = Clock()
    return kind(Shortfall("a"), clock), clock


def packet(ms: float, *, key: bool = False, arrival: Arrival = FRESH, size: int = 10) -> Packet:
    """One that came at this moment."""
    return Packet(bytes(size), Stamp(0, round(ms * MS), "host"), key, arrival)


def came_ms(item: Packet) -> float:
    return item.came_ns / MS


def test_of_pictures_that_stand_alone_the_newest_is_taken_and_the_rest_counted() -> None:
    waiting, clock = made(NewestPicture)
    for ms in (0, 33, 66):
        waiting.put(packet(ms))
    waiting.put(packet(100, arrival=OLD))
    clock.ms = 100
    newest = waiting.take()
    assert (came_ms(newest), newest.dropped) == (66, 3)
    assert waiting.waiting == 0


def test_pictures_that_come_in_groups_are_all_taken() -> None:
    waiting, clock = made(NewestPicture)
    items = []
    for group in range(12):
        for number in range(5):
            waiting.put(packet(165 * group + number))
        for number in range(5):
            clock.ms = 165 * group + 8 * (number + 1)
            items.append(waiting.take())
            waiting.shown()
    assert [item.dropped for item in items] == [0] * 60


def test_who_falls_behind_goes_on_with_the_newest_key_frame() -> None:
    waiting, clock = made(NewestKey)
    for number in range(20):
        waiting.put(packet(33 * number, key=number % 8 == 0))
    clock.ms = 34
    first = waiting.take()
    assert (came_ms(first), first.follows) == (0, True)
    clock.ms = 640
    key_frame = waiting.take()
    assert (came_ms(key_frame), key_frame.dropped, key_frame.follows) == (33 * 16, 15, False)
    assert key_frame.periods == float("inf"), "the decoder knows that pictures are missing"
    following = waiting.take()
    assert (came_ms(following), following.dropped, following.follows) == (33 * 17, 0, True)


def test_who_is_a_little_behind_without_a_key_frame_goes_on_in_order() -> None:
    waiting, clock = made(NewestKey)
    for number in range(10):
        waiting.put(packet(33 * number))
    clock.ms = 400
    assert came_ms(waiting.take()) == 0


def test_who_is_far_behind_without_a_key_frame_waits_for_the_next() -> None:
    waiting, clock = made(NewestKey)
    for number in range(20):
        waiting.put(packet(33 * number))
    clock.ms = 700
    threading.Timer(
        0.05, lambda: [waiting.put(packet(ms, key=ms == 740)) for ms in (710, 740, 770)]
    ).start()
    key_frame = waiting.take()
    assert (came_ms(key_frame), key_frame.dropped, key_frame.follows) == (740, 21, False)
    assert came_ms(waiting.take()) == 770


@pytest.mark.parametrize("kind", [NewestPicture, NewestKey])
@pytest.mark.parametrize("size", [10, 2**20, 2**25])
def test_what_waits_is_bounded_in_count_and_bytes(kind: type[HandOver], size: int) -> None:
    waiting, _ = made(kind)
    most = 0
    for number in range(2 * handover.MOST_PICTURES):
        waiting.put(packet(number, key=number % 50 == 0, size=size))
        most = max(most, waiting.waiting)
    assert most <= handover.MOST_PICTURES
    assert (most - 1) * size <= handover.MOST_BYTES


def test_where_every_picture_counts_who_puts_waits() -> None:
    waiting, _ = made(HandOver)
    total = handover.MOST_PICTURES + 20

    def put_all() -> None:
        for number in range(total):
            waiting.put(packet(number))
        waiting.end(SourceError("over"))

    threading.Thread(target=put_all, daemon=True).start()
    assert [came_ms(waiting.take()) for _ in range(total)] == list(range(total))
    with pytest.raises(SourceError, match="over"):
        waiting.take()


def test_closing_frees_who_waits_to_put() -> None:
    waiting, _ = made(HandOver)
    filling = threading.Thread(
        target=lambda: [waiting.put(packet(n)) for n in range(handover.MOST_PICTURES + 1)],
        daemon=True,
    )
    filling.start()
    waiting.close()
    filling.join(5)
    assert not filling.is_alive()


def test_pictures_of_which_none_can_be_shown_are_said_after_a_second() -> None:
    waiting, clock = made(NewestPicture)
    for number in range(30):
        waiting.put(packet(33 * number, arrival=OLD))
    clock.ms = 1001
    with pytest.raises(BacklogError, match=r"camera 'a': its pictures come late.*discard_backlog"):
        waiting.take()
    waiting.put(replace(packet(1010), arrival=FRESH))
    assert came_ms(waiting.take()) == 1010
