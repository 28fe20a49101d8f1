"""A subscriber that did not read for a while over TCP, on real sockets: it reads again at once."""

import asyncio
import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from test_client import outgoing, wait_until

from node.transport.publisher import Publisher
from perception_client.aio import AsyncSubscriber
from perception_client.catch_up import CatchUp, newest
from perception_client.inbox import RECEIVE_HIGH_WATER_MARK, connect, reconnect
from perception_client.messages.kinds import Box, Detection
from perception_client.subscriber import (
    LabelsMessage,
    NodeGoneError,
    NoMessageError,
    NotUsableError,
    Subscriber,
    TooOldError,
)

SUBSCRIPTIONS = 3
"""Of one subscriber: labels, health and info. They arrive one after another."""
WAIT_S = 10.0
AGAIN_S = 2.0
"""How soon a subscriber that rested must read what is new, on a computer that is busy with other
tests; alone it takes a tenth of that."""
REST_S = 1.0
"""In which the kernel asks for the window at 0.2 and 0.6 s, and next at 1.4."""
THINGS = tuple(Detection(n, "x" * 4000, 0.5, Box(1.0, 2.0, 3.0, 4.0)) for n in range(10))
PILED_UP = 600
"""Messages of 40 kB that fill every buffer on the way."""


class Feed:
    """A node that labels thirty frames a second, on TCP."""

    def __init__(self, endpoint: str, lossless: bool = False) -> None:
        self.publisher = Publisher(endpoint, lossless=lossless)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(1 / 30):
            self.publisher.send(outgoing(detections=THINGS))

    def pile_up(self) -> None:
        for _ in range(PILED_UP):
            self.publisher.send(outgoing(detections=THINGS))

    def close(self) -> None:
        self._done.set()
        self.publisher.close()
        self._thread.join(WAIT_S)


class Relay:
    """Passes connections on to an endpoint; those of before `slow` as a kernel does that probes a
    closed window: in bits, a fifth of a second apart."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").partition(":")
        self._to = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # of the listener, once it is closed
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(self._to)
                slow = threading.Event()
                self._connections.append((here, there, slow))
                for ends in ((here, there, None), (there, here, slow)):
                    self._threads.append(threading.Thread(target=self._pass, args=ends))
                    self._threads[-1].start()

    def _pass(
        self, here: socket.socket, there: socket.socket, slow: threading.Event | None
    ) -> None:
        with contextlib.suppress(OSError):  # an end has gone
            while data := here.recv(65536):
                if slow is not None and slow.is_set():
                    time.sleep(0.2)
                there.sendall(data)
        for end in (here, there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def slow(self) -> None:
        for _, _, slow in self._connections:
            slow.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for here, there, _ in self._connections:
            for end in (here, there):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
        for here, there, _ in self._connections:
            here.close()
            there.close()


@pytest.fixture
def relay(feed: "Feed", tcp: str) -> Iterator[Relay]:
    made = Relay(tcp)
    yield made
    made.close()


@pytest.fixture
def feed(tcp: str) -> Iterator[Feed]:
    made = Feed(tcp)
    yield made
    made.close()


@contextmanager
def rested(feed: Feed, endpoint: str) -> Iterator[Subscriber]:
    """A subscriber that read, and then did not for a while in which more came than is kept."""
    with Subscriber(endpoint) as subscriber:
        assert subscriber.latest(1.0, timeout_s=WAIT_S) is not None
        feed.pile_up()
        time.sleep(REST_S)
        yield subscriber


def test_it_reads_again_within_half_a_second(feed: Feed, tcp: str) -> None:
    with Subscriber(tcp) as neighbour, rested(feed, tcp) as subscriber:
        neighbour.latest(1.0)  # it rested as long, and reads first
        latest = subscriber.latest(0.2, timeout_s=AGAIN_S)
        assert latest is not None
        message, gap = subscriber.receive(WAIT_S)
        assert (message.seq - latest.seq, bool(gap)) == (1, False)
        assert subscriber.require(0.2, timeout_s=0.1)
        assert neighbour.require(0.2, timeout_s=AGAIN_S)


TRIES = 3
"""On a busy computer little may pile up, and what is new needs no new connection."""


def fall_behind(feed: Feed, relay: Relay) -> None:
    """As a reader that rested for long: its queue and the buffers on the way are full."""
    feed.pile_up()
    time.sleep(0.5)
    relay.slow()


def test_what_is_new_is_not_behind_what_is_old(feed: Feed, relay: Relay) -> None:
    with Subscriber(relay.endpoint) as subscriber:
        assert subscriber.latest(1.0, timeout_s=WAIT_S) is not None
        for _ in range(TRIES):
            fall_behind(feed, relay)
            assert subscriber.latest(0.2, timeout_s=AGAIN_S) is not None
            assert subscriber.require(0.2, timeout_s=0.1)
            if relay.connections > 1:
                break
        assert relay.connections == 2
        assert all(not subscriber.receive(WAIT_S)[1].lost for _ in range(10))


def test_what_is_new_is_not_behind_what_is_old_in_asyncio(feed: Feed, relay: Relay) -> None:
    async def ask() -> None:
        async with AsyncSubscriber(relay.endpoint) as subscriber:
            assert await subscriber.latest(1.0, timeout_s=WAIT_S) is not None
            for _ in range(TRIES):
                fall_behind(feed, relay)
                assert await subscriber.require(0.2, timeout_s=AGAIN_S)
                if relay.connections > 1:
                    break
            assert relay.connections == 2

    asyncio.run(ask())


def test_what_is_read_in_order_keeps_its_connection(feed: Feed, relay: Relay) -> None:
    with Subscriber(relay.endpoint) as subscriber:
        assert subscriber.latest(1.0, timeout_s=WAIT_S) is not None
        feed.pile_up()
        time.sleep(0.5)
        relay.slow()
        read = [subscriber.receive(WAIT_S) for _ in range(RECEIVE_HIGH_WATER_MARK)]
        assert not any(gap.lost for _, gap in read[1:])
        assert relay.connections == 1


def test_it_is_not_told_that_the_node_is_gone(feed: Feed, tcp: str) -> None:
    with rested(feed, tcp) as subscriber:
        until = time.monotonic() + AGAIN_S
        message: LabelsMessage | None = None
        while message is None and time.monotonic() < until:  # as a control loop asks
            try:
                message = subscriber.require(0.2)
            except TooOldError:  # and none of another kind
                time.sleep(0.02)
        assert message is not None


def test_waiting_in_asyncio_is_as_soon_over(feed: Feed, tcp: str) -> None:
    async def ask() -> None:
        async with AsyncSubscriber(tcp) as subscriber:
            assert await subscriber.latest(1.0, timeout_s=WAIT_S) is not None
            feed.pile_up()
            time.sleep(REST_S)  # the whole loop rests
            assert await subscriber.latest(0.2, timeout_s=AGAIN_S) is not None
            assert await subscriber.require(0.2, timeout_s=AGAIN_S)

    asyncio.run(ask())


def test_in_order_comes_what_is_old_and_then_the_gap(feed: Feed, tcp: str) -> None:
    with rested(feed, tcp) as subscriber:
        last = subscriber.receive(AGAIN_S)[0].seq
        lost = 0
        until = time.monotonic() + WAIT_S
        while (received := subscriber.receive(WAIT_S))[0].age_s > 0.3 and time.monotonic() < until:
            assert received[0].seq == last + 1 + received[1].lost
            last, lost = received[0].seq, lost + received[1].lost
        assert received[0].age_s <= 0.3


def test_a_node_that_is_gone_is_told_after_a_rest(tcp: str) -> None:
    feed = Feed(tcp)
    with rested(feed, tcp) as subscriber:
        feed.close()
        until = time.monotonic() + WAIT_S
        last_error: NotUsableError | None = None
        while not isinstance(last_error, NodeGoneError) and time.monotonic() < until:
            try:
                subscriber.require(0.2)
            except NotUsableError as error:
                last_error = error
            time.sleep(0.02)
        assert isinstance(last_error, NodeGoneError)


def test_what_is_lossless_and_read_in_order_loses_nothing(tcp: str) -> None:
    publisher = Publisher(tcp, lossless=True)
    with Subscriber(tcp, timeout_s=WAIT_S) as subscriber:
        wait_until(lambda: publisher.subscriptions == SUBSCRIPTIONS)
        sender = threading.Thread(
            target=lambda: [publisher.send(outgoing(detections=THINGS)) for _ in range(PILED_UP)]
        )
        sender.start()
        time.sleep(1.0)
        assert [subscriber.receive(WAIT_S)[0].seq for _ in range(PILED_UP)] == list(range(PILED_UP))
        sender.join(WAIT_S)
    publisher.close()


@pytest.fixture
def lossless(tcp: str) -> Iterator[Publisher]:
    made = Publisher(tcp, lossless=True)
    yield made
    made.close()


def send_many(publisher: Publisher, count: int) -> None:
    """Small messages, more than a queue holds and fewer than the kernel does, all of them sent."""
    for _ in range(count):
        publisher.send(outgoing())
    publisher.finish(threading.Event())


def test_one_question_after_a_rest_is_answered_by_the_newest(lossless: Publisher, tcp: str) -> None:
    with Subscriber(tcp) as subscriber:
        wait_until(lambda: lossless.subscriptions == SUBSCRIPTIONS)
        send_many(lossless, 900)
        assert subscriber.wait(WAIT_S)
        message = subscriber.latest(WAIT_S)  # at once, as a loop asks that turns once in seconds
        assert message is not None
        assert message.seq == 899


def test_one_question_in_asyncio_is_answered_by_the_newest(lossless: Publisher, tcp: str) -> None:
    async def ask() -> None:
        async with AsyncSubscriber(tcp) as subscriber:
            wait_until(lambda: lossless.subscriptions == SUBSCRIPTIONS)
            send_many(lossless, 900)
            message = await subscriber.latest(WAIT_S, timeout_s=WAIT_S)
            assert message is not None
            assert message.seq == 899

    asyncio.run(ask())


def test_whoever_only_asks_for_life_makes_no_new_connection(lossless: Publisher, tcp: str) -> None:
    relay = Relay(tcp)
    with contextlib.closing(relay), Subscriber(relay.endpoint) as subscriber:
        wait_until(lambda: lossless.subscriptions == SUBSCRIPTIONS)
        send_many(lossless, RECEIVE_HIGH_WATER_MARK)
        assert subscriber.wait(WAIT_S)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with contextlib.suppress(NoMessageError):  # this one sends no health
                subscriber.health(0.05)
            assert subscriber.alive
        assert relay.connections == 1


def test_a_new_connection_goes_where_the_first_went() -> None:
    context = zmq.Context()
    ends = context.socket(zmq.SUB)
    connect(ends, "tcp://localhost:1", None)
    first = ends.getsockopt(zmq.LAST_ENDPOINT)
    reconnect(ends, "tcp://localhost:1")
    assert ends.getsockopt(zmq.LAST_ENDPOINT) == first == b"tcp://127.0.0.1:1"
    ends.close()
    context.term()


def test_of_a_full_queue_the_newest_of_each_topic_is_read() -> None:
    queued = [[f"labels/{n % 3}/".encode(), bytes([n])] for n in range(200)]
    assert [parts[1][0] for parts in newest(queued)] == [197, 198, 199]
    catch_up = CatchUp()
    assert catch_up.take(queued[:100]) == queued[:100]
    assert not catch_up.is_under_way
    assert len(catch_up.take(queued[: RECEIVE_HIGH_WATER_MARK // 2])) == 3
    assert catch_up.is_under_way
    wait_until(lambda: catch_up.is_due)
    catch_up.found_fresh()
    assert not catch_up.is_due
    assert catch_up.left_s(7.0) == 7.0


def test_a_reader_that_keeps_up_makes_no_new_connection(feed: Feed, tcp: str) -> None:
    with Subscriber(tcp) as subscriber:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            subscriber.latest(0.001, timeout_s=0.02)  # nothing is ever so young
        assert feed.publisher.subscriptions == 3  # labels, health and info, of one connection
        assert dataclasses.asdict(subscriber.receive(WAIT_S)[1])["lost"] == 0
