"""Streams that come in bursts: several pictures at once, then none for a while."""

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.http_server import RawServer, stream_head
from support.streams import part

from node.capture.backlog import MOST_LATE_NS, BacklogMeter
from node.capture.bursts import Bursts
from node.capture.sources.open import open_source
from node.config.schema import CameraConfig
from node.errors import SourceError
from node.image.jpeg import encode_jpeg

SCENE = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)


def test_bursts_bound_the_age_of_each_picture() -> None:
    bursts, came_ns = Bursts(4e6), 0
    period_ns, count = 100_000_000, 8
    shown = []
    for burst in range(1, 12):
        for number in range(count):
            came_ns = burst * count * period_ns + number * 1_000_000
            late_ns = bursts.late_ns(came_ns, begins=number == 0)
            if late_ns is not None:
                shown.append(late_ns)
                assert late_ns == pytest.approx((count - 1 - number) * (period_ns - 1e6), abs=2e6)
    assert len(shown) == 8 * count
    assert bursts.span_s == pytest.approx(0.8)


@pytest.mark.parametrize("counts", [(8, 4), (12, 3), (1, 15)])
def test_irregular_bursts_prove_nothing(counts: tuple[int, ...]) -> None:
    bursts, came_ns = Bursts(4e6), 0
    for burst in range(20):
        for number in range(counts[burst % len(counts)]):
            came_ns = burst * 800_000_000 + number * 1_000_000
            assert bursts.late_ns(came_ns, begins=number == 0) is None


@settings(max_examples=30, deadline=None)
@given(
    fps=st.sampled_from([6, 12, 24]),
    span_s=st.floats(0.35, 3.0),
    jitter=st.floats(0, 0.12),
    seed=st.integers(0, 1000),
)
def test_each_burst_shows_its_newest_picture_and_hides_no_age(
    fps: int, span_s: float, jitter: float, seed: int
) -> None:
    chance, meter = random.Random(seed), BacklogMeter(25, discard=True, opened_ns=0)
    period_s, taken_s, before_s, shown_s = 1 / fps, 0.0, 0.0, []
    for burst in range(1, 14):
        sent_s = (burst + jitter * chance.uniform(-1, 1)) * span_s
        while taken_s + period_s <= sent_s:
            taken_s += period_s
            came_s = max(sent_s, before_s) + 0.0002
            waited_ns = max(0, round((came_s - before_s - 0.0001) * 1e9))
            arrival = meter.next(waited_ns, round(came_s * 1e9))
            before_s = came_s
            if not arrival.old:
                shown_s.append(came_s)
                hidden_s = came_s - taken_s - arrival.late_ns / 1e9
                assert hidden_s <= MOST_LATE_NS / 1e9 + 1.1 * period_s
    if span_s >= 4 * period_s:
        assert shown_s[0] <= 5.5 * span_s
        assert meter.burst_s == pytest.approx(span_s, rel=0.2)


def test_the_link_of_a_steady_stream_makes_no_bursts() -> None:
    """A network that stands still, and goes on before all was sent, and so on."""
    meter, came_ns = BacklogMeter(30, discard=True, opened_ns=0), 0
    intervals_ms = [33] * 60 + ([700] + [8] * 15) * 12
    arrivals = []
    for interval_ms in intervals_ms:
        came_ns += interval_ms * 1_000_000
        arrivals.append(meter.next((interval_ms - 1) * 1_000_000, came_ns))
    assert not any(arrival.old for arrival in arrivals[10:60])
    assert all(arrival.old for arrival in arrivals[60:])
    assert meter.burst_s is None


def test_a_stream_in_bursts_is_read_steadily_and_only_its_newest_pictures() -> None:
    per_burst, span_s = 6, 0.6
    sent: list[bytes] = []

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield stream_head()
        began_s = time.monotonic()
        for burst in range(1, 14):
            time.sleep(max(0.0, began_s + burst * span_s - time.monotonic()))  # between bursts
            pictures = [
                encode_jpeg(np.roll(SCENE, 3 * (len(sent) + offset), 1), 80)
                for offset in range(per_burst)
            ]
            sent.extend(pictures)
            yield b"".join(part(picture) for picture in pictures)

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url))
        shown = []
        deadline_s = time.monotonic() + 20
        while len(shown) < 6 and time.monotonic() < deadline_s:
            try:
                picture = source.read()
            except SourceError:
                continue
            assert picture is not None
            shown.append(sent.index(picture.jpeg or b"") % per_burst)
        assert getattr(source, "burst_s", None) == pytest.approx(span_s, rel=0.3)
        source.close()
    assert len(shown) == 6
    assert min(shown) >= per_burst - 4
