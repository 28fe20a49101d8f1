"""Every number of seconds that control code gives: for ever works, nonsense is refused by name."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_client import outgoing

from node.transport.publisher import Publisher
from perception_client.aio import AsyncSubscriber
from perception_client.subscriber import (
    Control,
    NoAnswerError,
    NodeGoneError,
    StaleGuard,
    Subscriber,
)
from perception_client.testing.recorded import RecordedLabels
from perception_client.waits import poll_ms, seconds

WAIT_S = 10.0
NONSENSE = (-1, -1e-9, -math.inf, math.nan)
NO_NUMBERS = (None, "5", b"5", [], object())
LONG = (math.inf, 1e300, 10**400, 1e10, 2**31, 86400 * 365)


@pytest.fixture
def publisher(ipc: str) -> Iterator[Publisher]:
    made = Publisher(ipc)
    yield made
    made.close()


@pytest.fixture
def jsonl(tmp_path: Path, ipc: str) -> Path:
    """A replay of two messages."""
    from node.transport.sequencing import Header
    from perception_client.messages.codec import to_json

    lines = [to_json(outgoing().finalise(Header(seq, seq * 10**9, None))) for seq in range(2)]
    file = tmp_path / "two.jsonl"
    file.write_text("\n".join(lines))
    return file


def calls(subscriber: Subscriber | RecordedLabels) -> dict[str, Callable[[float], object]]:
    """Every call that takes seconds, by the name of its argument and its own."""
    by_name: dict[str, Callable[[float], object]] = {
        "max_age_s of latest": subscriber.latest,
        "timeout_s of latest": lambda seconds: subscriber.latest(1.0, timeout_s=seconds),
        "max_age_s of require": subscriber.require,
        "timeout_s of require": lambda seconds: subscriber.require(1.0, timeout_s=seconds),
        "timeout_s of health": subscriber.health,
        "timeout_s of receive": subscriber.receive,
        "timeout_s of wait_for": lambda seconds: subscriber.wait_for("cup", seconds),
        "max_age_s of on_stale": lambda seconds: subscriber.on_stale(seconds, print),
    }
    if isinstance(subscriber, Subscriber):
        by_name["timeout_s of events"] = subscriber.events.receive
        by_name["timeout_s of wait"] = subscriber.wait
        by_name["timeout_s of calibration"] = lambda seconds: subscriber.calibration(
            "front", seconds
        )
        by_name["timeout_s of a subscriber"] = lambda seconds: Subscriber(
            "ipc://x", timeout_s=seconds
        )
        by_name["timeout_s of control"] = lambda seconds: Control(
            "ipc:///nobody", timeout_s=seconds
        )
        by_name["max_age_s of a guard"] = lambda seconds: StaleGuard("ipc://x", seconds, print)
    else:
        by_name["seconds of advance"] = subscriber.advance
    return by_name


def refuses(call: Callable[[float], object], name: str) -> None:
    for value in NONSENSE:
        with pytest.raises(ValueError, match=f"^{name} is "):
            call(value)
    for value in NO_NUMBERS:
        with pytest.raises(TypeError, match=f"^{name} is .*give a number of seconds"):
            call(value)  # type: ignore[arg-type]


def test_nonsense_is_refused_by_the_name_of_its_argument(ipc: str) -> None:
    with Subscriber(ipc) as subscriber:
        for name, call in calls(subscriber).items():
            refuses(call, name.partition(" ")[0])


def test_nonsense_is_refused_in_virtual_time_too(jsonl: Path) -> None:
    with RecordedLabels(jsonl) as labels:
        for name, call in calls(labels).items():
            refuses(call, name.partition(" ")[0])


def test_nonsense_is_refused_by_asyncio_too(ipc: str) -> None:
    async def ask() -> None:
        async with AsyncSubscriber(ipc) as subscriber:
            for value in NONSENSE:
                for waits in (
                    subscriber.latest(value),
                    subscriber.latest(1.0, timeout_s=value),
                    subscriber.require(value),
                    subscriber.require(1.0, timeout_s=value),
                    subscriber.receive(value),
                    subscriber.wait_for("cup", value),
                    subscriber.events.receive(value),
                ):
                    with pytest.raises(ValueError, match="_s is "):
                        await waits

    asyncio.run(ask())


@pytest.mark.parametrize("long_s", LONG)
def test_a_long_wait_waits(publisher: Publisher, ipc: str, long_s: float) -> None:
    def send() -> None:
        publisher.wait_for_subscriber(threading.Event())
        for _ in range(6):
            publisher.send(outgoing())
            time.sleep(0.01)

    sender = threading.Thread(target=send)
    with Subscriber(ipc, timeout_s=long_s) as subscriber:
        sender.start()
        assert subscriber.latest(WAIT_S, timeout_s=long_s) is not None
        assert subscriber.require(long_s, timeout_s=long_s).camera == "front"
        sender.join()
        publisher.send(outgoing())
        assert subscriber.wait(long_s)
        assert next(iter(subscriber))[0].camera == "front"
        with subscriber.on_stale(long_s, print) as guard:
            assert guard.watching


@pytest.mark.parametrize("long_s", LONG)
def test_a_long_wait_waits_in_asyncio(publisher: Publisher, ipc: str, long_s: float) -> None:
    async def ask() -> None:
        async with AsyncSubscriber(ipc, timeout_s=long_s) as subscriber:
            waiting = asyncio.create_task(subscriber.latest(WAIT_S, timeout_s=long_s))
            events = asyncio.create_task(subscriber.events.receive(long_s))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            assert not events.done()
            events.cancel()
            publisher.send(outgoing())
            assert await asyncio.wait_for(waiting, WAIT_S) is not None
            publisher.send(outgoing())
            await asyncio.wait_for(subscriber.receive(long_s), WAIT_S)

    asyncio.run(ask())


@pytest.mark.parametrize("long_s", LONG)
def test_a_long_wait_ends_with_the_recording(jsonl: Path, long_s: float) -> None:
    with RecordedLabels(jsonl) as labels:
        labels.on_stale(long_s, print)
        assert labels.require(long_s, timeout_s=long_s).seq == 0
        assert labels.receive(long_s)[0].seq == 1
        assert not labels.advance(1.0)
        assert labels.latest(0.5, timeout_s=long_s) is None
        with pytest.raises(NodeGoneError):
            labels.require(1.0, timeout_s=long_s)
        assert not labels.advance(long_s)


def test_a_request_waits_no_longer_than_asked(ipc: str) -> None:
    with Control(ipc, timeout_s=math.inf) as control:
        started = time.monotonic()
        with pytest.raises(NoAnswerError):
            control.ask("status", timeout_s=0.05)
        assert time.monotonic() - started < WAIT_S / 2
        with pytest.raises(ValueError, match="timeout_s is -1"):
            control.ask("status", timeout_s=-1)


def test_no_poll_is_longer_than_an_integer_of_c() -> None:
    assert all(0 < poll_ms(seconds("s", value)) < 2**31 for value in LONG)
    assert poll_ms(0.0) == poll_ms(-1.0) == 1
