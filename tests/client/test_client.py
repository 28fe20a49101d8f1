"""Subscriber and publisher over real sockets: what control code can rely on."""

import asyncio
import dataclasses
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from conftest import ROOT
from support.waiting import wait_until

from node.errors import EndpointError
from node.transport.publisher import SEND_HIGH_WATER_MARK, Publisher
from node.transport.sequencing import Header, Outgoing
from perception_client.aio import AsyncSubscriber
from perception_client.messages.codec import encode
from perception_client.messages.kinds import LabelsMessage, Message, Status, boot_id, topic
from perception_client.subscriber import Gap, NoMessageError, Subscriber

WAIT_S = 10.0


def outgoing(camera: str = "front", **changes: object) -> Outgoing:
    """A labelled frame of now."""

    def finalise(envelope: Header) -> LabelsMessage:
        message = LabelsMessage(
            node="robot",
            camera=camera,
            session="5e55",
            seq=envelope.seq,
            status=Status.OK,
            frame_id=envelope.seq,
            stamp_ns=envelope.published_ns,
            clock="host",
            stamp_mono_ns=envelope.published_mono_ns,
            boot_id=boot_id(),
            published_ns=envelope.published_ns,
            published_mono_ns=envelope.published_mono_ns,
        )
        return dataclasses.replace(message, **changes)

    return Outgoing(topic("labels", camera), finalise)


SUBSCRIPTIONS = 3
"""Of one subscriber: labels, health and info. They arrive one after another."""


@pytest.fixture
def publisher(ipc: str) -> Iterator[Publisher]:
    made = Publisher(ipc)
    yield made
    made.close()


@pytest.fixture
def joined(publisher: Publisher, ipc: str) -> Iterator[Subscriber]:
    with Subscriber(ipc, timeout_s=WAIT_S) as subscriber:
        wait_until(lambda: publisher.subscriptions == SUBSCRIPTIONS)
        yield subscriber


@pytest.fixture
def raw(ipc: str) -> Iterator[Callable[[list[bytes]], None]]:
    """A socket that sends any bytes, once the subscriber is there."""
    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.bind(ipc)

    def send(parts: list[bytes]) -> None:
        while socket.poll(0):
            socket.recv()
        socket.send_multipart(parts)

    def wait_for_subscriber() -> None:
        assert socket.poll(int(WAIT_S * 1000))

    send.wait = wait_for_subscriber  # type: ignore[attr-defined]
    yield send
    socket.close(linger=0)
    context.term()


def test_the_client_loads_in_a_fifth_of_a_second_and_nothing_heavy() -> None:
    code = (
        "import time; t = time.perf_counter(); import node.client; "
        "print(time.perf_counter() - t); import sys; "
        "print(*{'torch', 'cv2', 'pydantic', 'numpy', 'asyncio'} & set(sys.modules))"
    )
    took = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        )
        seconds, heavy = done.stdout.splitlines()
        assert heavy == ""
        took.append(float(seconds))
    assert min(took) < 0.2


def test_every_message_arrives_in_order_without_gaps(
    publisher: Publisher, joined: Subscriber
) -> None:
    for _ in range(50):
        publisher.send(outgoing())
    received = [joined.receive(WAIT_S) for _ in range(50)]
    assert [message.seq for message, _ in received] == list(range(50))
    assert not any(gap for _, gap in received)


def test_latest_is_the_newest_and_never_too_old(publisher: Publisher, joined: Subscriber) -> None:
    for _ in range(20):
        publisher.send(outgoing())
    wait_until(lambda: (message := joined.latest(60)) is not None and message.seq == 19)
    seen = joined.latest(60)
    assert seen is not None
    wait_until(lambda: seen.age_s > 0.05)
    assert joined.latest(0.05) is None
    publisher.send(outgoing())
    fresh = joined.latest(5, timeout_s=WAIT_S)
    assert fresh is not None
    started = time.monotonic()
    assert joined.latest(0.0, timeout_s=0.2) is None
    assert 0.1 < time.monotonic() - started < 2.0


def test_every_wait_ends(ipc: str) -> None:
    with Subscriber(ipc, timeout_s=0.1) as subscriber:
        with pytest.raises(NoMessageError, match="is the node running"):
            subscriber.receive(0.1)
        with pytest.raises(TimeoutError):
            next(iter(subscriber))
        assert subscriber.latest(1.0, timeout_s=0.1) is None


def test_a_camera_is_not_taken_for_one_with_a_longer_name(publisher: Publisher, ipc: str) -> None:
    with Subscriber(ipc, "front") as subscriber:
        wait_until(lambda: publisher.subscriptions == SUBSCRIPTIONS)
        publisher.send(outgoing("front2"))
        publisher.send(outgoing("front"))
        assert subscriber.receive(WAIT_S)[0].camera == "front"


def test_a_late_joiner_gets_the_newest_and_the_others_nothing_twice(
    publisher: Publisher, joined: Subscriber, ipc: str
) -> None:
    for _ in range(3):
        publisher.send(outgoing())
    assert [joined.receive(WAIT_S)[0].seq for _ in range(3)] == [0, 1, 2]
    with Subscriber(ipc) as late:
        message, gap = late.receive(WAIT_S)
        assert (message.seq, message.retained) == (2, True)
        assert not gap
        with pytest.raises(NoMessageError):
            joined.receive(0.3)
        publisher.send(outgoing())
        for subscriber in (joined, late):
            message, gap = subscriber.receive(WAIT_S)
            assert (message.seq, message.retained, bool(gap)) == (3, False, False)


def test_gaps_say_what_is_missing(raw: Callable[[list[bytes]], None], ipc: str) -> None:
    def sent(session: str, seq: int, frame_id: int, dropped: int) -> list[bytes]:
        finalise = outgoing(session=session, frame_id=frame_id, dropped=dropped).finalise
        return encode(finalise(Header(seq, time.time_ns(), time.monotonic_ns())))

    with Subscriber(ipc) as subscriber:
        raw.wait()  # type: ignore[attr-defined]
        for parts in (
            sent("a", 0, 0, 0),
            sent("a", 1, 4, 3),  # three frames dropped for a newer one
            sent("a", 4, 9, 1),  # two messages lost, and the drops that they told of
            sent("a", 4, 9, 1),  # the same again is not news
            sent("b", 0, 0, 0),  # started anew
        ):
            raw(parts)
        gaps = [subscriber.receive(WAIT_S)[1] for _ in range(4)]
    assert gaps == [Gap(), Gap(dropped=3), Gap(dropped=2, lost=2), Gap(restarted=True)]
    assert [bool(gap) for gap in gaps] == [False, True, True, True]


def test_what_cannot_be_read_is_left_out_and_counted(
    raw: Callable[[list[bytes]], None], ipc: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = encode(outgoing().finalise(Header(0, time.time_ns(), time.monotonic_ns())))
    with Subscriber(ipc) as subscriber:
        raw.wait()  # type: ignore[attr-defined]
        for _ in range(3):
            raw([b"labels/front/", os.urandom(50)])
        raw([b"labels/front/", b"\x81\xa6schema\x09"])
        raw(good)
        message, gap = subscriber.receive(WAIT_S)
        assert message.seq == 0
        assert not gap
        assert subscriber.rejected == 4
        assert "schema 9, newer than the 1" in str(subscriber.last_rejection)
    assert ipc in caplog.text


def test_watch_says_why_it_can_read_nothing(raw: Callable[[list[bytes]], None], ipc: str) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "node", "watch", "--endpoint", ipc, "--timeout", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    raw.wait()  # type: ignore[attr-defined]
    raw([b"labels/front/", b"\x81\xa6schema\x09"])
    stdout, stderr = watch.communicate(timeout=30)
    assert watch.returncode == 1
    assert stdout == ""
    assert "update perception-node on this computer" in stderr
    assert "Traceback" not in stderr


def test_a_node_that_comes_back_is_found_again(ipc: str) -> None:
    first = Publisher(ipc)
    with Subscriber(ipc) as subscriber:
        wait_until(lambda: first.subscriptions == SUBSCRIPTIONS)
        first.send(outgoing(session="a"))
        assert subscriber.receive(WAIT_S)[0].session == "a"
        first.close()
        second = Publisher(ipc)
        try:
            second.send(outgoing(session="b"))  # kept for who joins later
            message, gap = subscriber.receive(WAIT_S)
            assert (message.session, gap) == ("b", Gap(restarted=True))
        finally:
            second.close()


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://nobody", "udp://127.0.0.1:3"])
def test_an_endpoint_that_is_none_is_said(endpoint: str) -> None:
    with pytest.raises(EndpointError, match="cannot be connected to"):
        Subscriber(endpoint)


async def test_the_asyncio_form_does_the_same(publisher: Publisher, ipc: str) -> None:
    async with AsyncSubscriber(ipc, timeout_s=WAIT_S) as subscriber:
        with pytest.raises(NoMessageError):
            await subscriber.receive(0.05)
        await asyncio.to_thread(wait_until, lambda: publisher.subscriptions == SUBSCRIPTIONS)
        for _ in range(5):
            publisher.send(outgoing())
        seqs = []
        async for message, gap in subscriber:
            assert not gap
            seqs.append(message.seq)
            if len(seqs) == 3:
                break
        assert seqs == [0, 1, 2]
        newest = await subscriber.latest(60, timeout_s=WAIT_S)
        assert newest is not None
        assert newest.seq >= 2
        assert await subscriber.latest(0.0, timeout_s=0.1) is None


@pytest.mark.parametrize("kind", ["ipc", "tcp"])
def test_an_endpoint_in_use_stays_with_its_owner(kind: str, request: pytest.FixtureRequest) -> None:
    endpoint = request.getfixturevalue(kind)
    owner = Publisher(endpoint)
    try:
        with pytest.raises(EndpointError, match="is in use"):
            Publisher(endpoint)
        with Subscriber(endpoint) as subscriber:
            wait_until(lambda: owner.subscriptions == SUBSCRIPTIONS)
            owner.send(outgoing())
            assert subscriber.receive(WAIT_S)[0].seq == 0
    finally:
        owner.close()


def test_the_ipc_file_goes_with_the_publisher(ipc: str) -> None:
    path = Path(ipc.removeprefix("ipc://"))
    publisher = Publisher(ipc)
    assert path.exists()
    publisher.close()
    assert not path.exists()


@pytest.mark.parametrize("endpoint", ["ipc:///no/such/folder/x", "tcp://203.0.113.7:5570"])
def test_an_endpoint_that_cannot_be_bound_is_said(endpoint: str) -> None:
    with pytest.raises(EndpointError, match="cannot be bound"):
        Publisher(endpoint)


def test_a_subscriber_that_stops_reading_holds_nobody(
    publisher: Publisher, joined: Subscriber, ipc: str
) -> None:
    with Subscriber(ipc):  # never reads
        wait_until(lambda: publisher.subscriptions > 1)
        for seq in range(20 * SEND_HIGH_WATER_MARK):
            publisher.send(outgoing(node="x" * 2000))
            if seq % 50 == 49:
                wait_until(
                    lambda seq=seq: (
                        (message := joined.latest(60)) is not None and message.seq == seq
                    )
                )


def test_a_lossless_publisher_waits_for_a_slow_reader(ipc: str) -> None:
    publisher = Publisher(ipc, lossless=True)
    many = 10 * SEND_HIGH_WATER_MARK

    def send_all() -> None:
        for _ in range(many):
            publisher.send(outgoing(node="x" * 2000))

    with Subscriber(ipc) as subscriber:
        publisher.wait_for_subscriber(threading.Event())
        sender = threading.Thread(target=send_all)
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()  # held by the reader that has not begun
        received = [subscriber.receive(WAIT_S) for _ in range(many)]
        sender.join(WAIT_S)
    publisher.close()
    assert [message.seq for message, _ in received] == list(range(many))


def test_a_reader_that_rests_for_seconds_loses_nothing_and_is_not_ended(ipc: str) -> None:
    """Heartbeats took one whose queue is full for dead: libzmq reads no answers meanwhile."""
    publisher, many, stop = (
        Publisher(ipc, lossless=True),
        4 * SEND_HIGH_WATER_MARK,
        threading.Event(),
    )

    def send_all() -> None:
        for _ in range(many):
            publisher.send(outgoing(node="x" * 2000))
        publisher.finish(stop)

    with Subscriber(ipc) as subscriber:
        publisher.wait_for_subscriber(stop)
        sender = threading.Thread(target=send_all)
        sender.start()
        time.sleep(7.0)  # longer than a heartbeat waits, and the one after it
        received = [subscriber.receive(WAIT_S) for _ in range(many)]
        sender.join(WAIT_S)
    publisher.close()
    assert not sender.is_alive()
    assert [message.seq for message, _ in received] == list(range(many))
    assert not any(gap for _, gap in received)


def test_what_is_lossless_waits_at_its_end_until_it_is_told_to_stop(ipc: str) -> None:
    publisher, stop = Publisher(ipc, lossless=True), threading.Event()
    with Subscriber(ipc) as subscriber:
        publisher.wait_for_subscriber(stop)
        for _ in range(2 * SEND_HIGH_WATER_MARK - 50):  # half of it waits behind the reader's queue
            publisher.send(outgoing(node="x" * 20_000))
        finishing = threading.Thread(target=publisher.finish, args=(stop,))
        finishing.start()
        finishing.join(2.5)  # longer than anything that is not lossless waits
        assert finishing.is_alive()
        subscriber.receive(WAIT_S)
        stop.set()
        finishing.join(WAIT_S)
        assert not finishing.is_alive()
    publisher.close()


def test_closing_does_not_wait_for_a_reader_that_never_reads(ipc: str) -> None:
    publisher = Publisher(ipc, lossless=True)
    with Subscriber(ipc):
        publisher.wait_for_subscriber(threading.Event())
        sender = threading.Thread(
            target=lambda: [publisher.send(outgoing(node="x" * 2000)) for _ in range(20_000)]
        )
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()
        started = time.monotonic()
        publisher.close(timeout_s=0.3)
        assert time.monotonic() - started < 2.0
        sender.join(WAIT_S)
        assert not sender.is_alive()


def test_an_observer_that_fails_is_said_to_the_sender(ipc: str) -> None:
    def observe(message: Message) -> None:
        raise OSError("disk full")

    publisher = Publisher(ipc, observer=observe)

    def failed() -> bool:
        try:
            publisher.send(outgoing())
        except OSError as error:
            return "disk full" in str(error)
        return False

    wait_until(failed)
    with pytest.raises(OSError, match="disk full"):
        publisher.finish(threading.Event())
    publisher.close()


def test_many_threads_send_without_holes(publisher: Publisher, joined: Subscriber) -> None:
    def send_many(camera: str) -> None:
        for _ in range(30):
            publisher.send(outgoing(camera))

    threads = [
        threading.Thread(target=functools.partial(send_many, camera)) for camera in ("a", "b", "a")
    ]
    for thread in threads:
        thread.start()
    received = [joined.receive(WAIT_S) for _ in range(90)]
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(gap for _, gap in received)
    for camera, count in (("a", 60), ("b", 30)):
        assert [message.seq for message, _ in received if message.camera == camera] == list(
            range(count)
        )
