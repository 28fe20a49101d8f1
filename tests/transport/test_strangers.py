"""What a stranger on the network can do to the sockets: many connections, floods of subscriptions,
many requests. Real sockets; the strangers speak ZMTP by hand."""

import contextlib
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
import zmq
from conftest import ROOT
from support.processes import free_port
from support.waiting import wait_until

from node.pipeline.message_builder import MessageBuilder
from node.process.log_limit import LimitedLog, LogLimit, limit_library_logs
from node.transport import connections
from node.transport.connections import MOST_CONNECTIONS, PROTECTED
from node.transport.control_server import MOST_OPEN, ControlServer, Request, Result
from node.transport.curve import make_client, make_server
from node.transport.flood_guard import FloodGuard
from node.transport.publisher import LONGEST_TOPIC, MOST_TOPICS, Publisher
from perception_client.subscriber import Control, Keys, NoMessageError, Status, Subscriber

sys.path.insert(0, str(ROOT / "scripts" / "faults" / "hostile"))
import zmtp

WAIT_S = 20.0
SILENCE_S = 1.0
"""Beyond it others are kept from their messages; a busy computer alone takes a part of it. The
hostile campaign measures it against the bound."""
PERIOD_S = 0.01


class Speaker:
    """A publisher that says something a hundred times a second, and one who listens."""

    def __init__(self, keys: Path | None = None, mine: Keys | None = None) -> None:
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.publisher = Publisher(self.endpoint, keys=keys)
        self.longest_silence_s = 0.0
        self.count = 0
        self._mine = mine
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=target) for target in (self._speak, self._listen)]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.count > 0)

    def _speak(self) -> None:
        message_builder = MessageBuilder("node")
        while not self._stop.wait(PERIOD_S):
            self.publisher.send(message_builder.unavailable("front", Status.STALLED))

    def _listen(self) -> None:
        with Subscriber(self.endpoint, keys=self._mine) as subscriber:
            heard_at = None
            while not self._stop.is_set():
                with contextlib.suppress(NoMessageError):
                    subscriber.receive(0.1)
                    now = time.monotonic()
                    if heard_at is not None:
                        self.longest_silence_s = max(self.longest_silence_s, now - heard_at)
                    heard_at, self.count = now, self.count + 1

    def goes_on(self) -> None:
        """Waits for more messages at the listener."""
        before = self.count
        wait_until(lambda: self.count > before + 5)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        self.publisher.close()


@pytest.fixture
def speaker() -> Iterator[Speaker]:
    made = Speaker()
    yield made
    made.close()


def open_many(
    count: int, connect: Callable[[], socket.socket], stack: contextlib.ExitStack
) -> None:
    for _ in range(count):
        stack.enter_context(connect())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


CONNECT: dict[str, Callable[[int], socket.socket]] = {
    "silent": zmtp.silent,
    "greeted": zmtp.connected,
    "subscribed": lambda port: zmtp.connected(port, zmtp.join(b"labels/")),
}


@pytest.mark.parametrize("connect", CONNECT.values(), ids=CONNECT)
def test_many_connections_cost_no_subscriber_anything(
    speaker: Speaker, connect: Callable[[int], socket.socket]
) -> None:
    before = open_descriptors()
    count = MOST_CONNECTIONS + 150
    with contextlib.ExitStack() as stack:
        open_many(count, lambda: connect(speaker.port), stack)
        wait_until(lambda: open_descriptors() <= before + count + MOST_CONNECTIONS + 1)
        speaker.goes_on()
        with Subscriber(speaker.endpoint) as newcomer:
            assert newcomer.wait(WAIT_S), "who comes now gets a place"
    wait_until(lambda: open_descriptors() <= before)
    speaker.goes_on()
    assert speaker.longest_silence_s < SILENCE_S


def test_of_idle_connections_the_oldest_goes_first(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "GRACE_S", 0.0)
    before = speaker.publisher.subscriptions
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(zmtp.connected(speaker.port))
        useful = stack.enter_context(zmtp.connected(speaker.port, zmtp.join(b"labels/front/")))
        wait_until(lambda: speaker.publisher.subscriptions > before)
        open_many(MOST_CONNECTIONS, lambda: zmtp.connected(speaker.port), stack)
        assert zmtp.is_closed(first, WAIT_S)
        assert not zmtp.is_closed(useful, 0.2)


def test_who_was_there_first_stays_when_all_subscribe(
    speaker: Speaker, caplog: pytest.LogCaptureFixture
) -> None:

    def subscribed() -> socket.socket:
        return zmtp.connected(speaker.port, zmtp.join(b"labels/none/"))

    with contextlib.ExitStack() as stack:
        first = stack.enter_context(subscribed())
        open_many(PROTECTED, subscribed, stack)
        wait_until(lambda: speaker.publisher.subscriptions > PROTECTED)
        open_many(MOST_CONNECTIONS, subscribed, stack)
        wait_until(lambda: f"over {MOST_CONNECTIONS} connections" in caplog.text)
        assert not zmtp.is_closed(first, 0.5)


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_MS", 100)
    speaker = Speaker()
    try:
        with zmtp.silent(speaker.port) as silent:
            assert zmtp.is_closed(silent, WAIT_S)
    finally:
        speaker.close()


@pytest.mark.parametrize("kind", zmtp.FLOODS)
def test_a_flood_keeps_no_message_from_others_and_takes_no_memory(
    speaker: Speaker, kind: str
) -> None:
    rss = psutil.Process().memory_info().rss
    before = speaker.publisher.subscriptions
    speaker.longest_silence_s = 0.0
    assert zmtp.flood(speaker.port, 0.7, kind)
    speaker.goes_on()
    assert speaker.longest_silence_s < SILENCE_S
    assert psutil.Process().memory_info().rss - rss < 50 * 2**20
    wait_until(lambda: speaker.publisher.subscriptions <= before)


@pytest.mark.parametrize(
    "sent",
    [zmtp.join(b"x" * (LONGEST_TOPIC + 1)),
     b"".join(zmtp.join(b"%d/" % n) for n in range(MOST_TOPICS + 1)),
     (zmtp.join(b"x/") + zmtp.leave(b"x/")) * 500,
     zmtp.join(b"x" * 900)],
    ids=["a long topic", "many topics", "often", "a longer one"],
)  # fmt: skip
def test_who_asks_for_what_no_subscriber_needs_is_sent_away(speaker: Speaker, sent: bytes) -> None:
    with zmtp.connected(speaker.port, sent) as attacker:
        assert zmtp.is_closed(attacker, WAIT_S)


def test_while_the_sockets_thread_is_held_floods_and_newcomers_are_closed() -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        xpub = stack.enter_context(context.socket(zmq.XPUB))
        allowed = connections.Allowance(messages_s=1e6, burst=1e6, bytes_s=1e6, burst_bytes=1e6)
        known = connections.Connections(context, xpub, "labels", allowed, connections.idle_first)
        stack.callback(known.close)
        guard = FloodGuard(known)
        stack.callback(guard.close)
        xpub.bind(f"tcp://127.0.0.1:{port}")
        quiet = stack.enter_context(zmtp.connected(port, zmtp.join(b"labels/")))
        heavy = stack.enter_context(zmtp.connected(port))
        wait_until(lambda: (known.look_after(), len(tuple(known)) == 2)[1])
        guard.turn_begins()  # and waits for a processor, on a busy computer
        newcomer = stack.enter_context(zmtp.silent(port))
        assert not zmtp.is_closed(newcomer, 0.2)
        guard.turn_ends()
        heavy.sendall(zmtp.join(b"y" * 60) * 50)
        guard.turn_begins()  # and does not end: libzmq reads what the flood brings
        assert zmtp.is_closed(heavy, WAIT_S)
        assert zmtp.is_closed(stack.enter_context(zmtp.silent(port)), WAIT_S)
        assert not zmtp.is_closed(quiet, 0.2)
        guard.turn_ends()
        assert not zmtp.is_closed(stack.enter_context(zmtp.silent(port)), 0.2)


def test_as_many_and_as_long_topics_as_there_may_be_are_served(speaker: Speaker) -> None:
    topics = [(b"%03d/" % n).ljust(LONGEST_TOPIC, b"x") for n in range(MOST_TOPICS - 1)]
    requests = b"".join(zmtp.join(topic) for topic in (*topics, b"labels/"))
    before = speaker.publisher.subscriptions
    with zmtp.connected(speaker.port, requests) as greedy:
        wait_until(lambda: speaker.publisher.subscriptions == before + MOST_TOPICS)
        assert not zmtp.is_closed(greedy, 0.2)
    wait_until(lambda: speaker.publisher.subscriptions == before)


def test_a_subscriber_that_was_sent_away_is_not_taken_for_the_next_one(speaker: Speaker) -> None:
    """The next connection has the descriptor of the one before."""
    flood = (zmtp.join(b"x/") + zmtp.leave(b"x/")) * 500
    for _ in range(20):
        with zmtp.connected(speaker.port, flood) as attacker:
            assert zmtp.is_closed(attacker, WAIT_S)
        with Subscriber(speaker.endpoint) as subscriber:
            assert subscriber.wait(WAIT_S)


def test_with_keys_strangers_are_bounded_too(tmp_path: Path) -> None:
    make_server(tmp_path)
    make_client(tmp_path, "arm", ("labels",))
    mine = Keys.read(tmp_path / "clients" / "arm")
    speaker = Speaker(tmp_path, mine)
    try:
        before = open_descriptors()
        with contextlib.ExitStack() as stack:
            open_many(MOST_CONNECTIONS + 100, lambda: zmtp.connected(speaker.port), stack)
            speaker.goes_on()
        for kind in ("subscribe and unsubscribe", "pings"):
            zmtp.flood(speaker.port, 0.3, kind)
        speaker.goes_on()
        assert speaker.longest_silence_s < SILENCE_S
        wait_until(lambda: open_descriptors() <= before)
    finally:
        speaker.close()


# Control.


class Desk:
    """A control server; `status` is answered at once, all else when it is told to be."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[Request, Future[Result]]] = []
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self.server = ControlServer(self.endpoint, self.handle)

    def handle(self, request: Request) -> "Future[Result]":
        answer: Future[Result] = Future()
        if request.command == "status":
            answer.set_result(Result(1))
        elif request.command == "raise":
            raise ZeroDivisionError("nobody thought of it")
        else:
            self.asked.append((request, answer))
        return answer


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.server.close()


def request(command: str, number: int = 1) -> bytes:
    return zmtp.frame(
        b"\x82\xa2id" + bytes([number]) + b"\xa7command" + bytes([0xA0 + len(command)])
        + command.encode()
    )  # fmt: skip


def test_many_connections_hold_up_no_request(desk: Desk) -> None:

    def asking() -> socket.socket:
        return zmtp.connected(desk.port, request("status"), b"DEALER")

    with contextlib.ExitStack() as stack:
        open_many(MOST_CONNECTIONS + 50, asking, stack)
        open_many(MOST_CONNECTIONS, lambda: zmtp.silent(desk.port), stack)
        with Control(desk.endpoint, timeout_s=WAIT_S) as control:
            assert control.status() == {}


def test_requests_of_one_client_are_no_reason_to_refuse_anothers(desk: Desk) -> None:
    waiting = b"".join(request("pause", n) for n in range(MOST_OPEN + 10))
    with zmtp.connected(desk.port, waiting, b"DEALER") as greedy:
        wait_until(lambda: len(desk.asked) >= MOST_OPEN)
        with Control(desk.endpoint, timeout_s=WAIT_S) as control:
            control.status()
        assert len(desk.asked) == MOST_OPEN
        assert not zmtp.is_closed(greedy, 0.1)
    wait_until(lambda: all(answer.cancelled() for _, answer in desk.asked))
    assert all(request.client.gone.done() for request, _ in desk.asked)


def test_a_request_that_fails_in_a_new_way_costs_its_sender_only(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        zmtp.connected(desk.port, request("raise") * 50, b"DEALER"),
        Control(desk.endpoint, timeout_s=WAIT_S) as control,
    ):
        for _ in range(10):
            control.status()
    assert (
        len([record for record in caplog.records if "nobody thought of it" in record.getMessage()])
        == 1
    )
    assert "Traceback" not in caplog.text


SERVES = """
import sys
from concurrent.futures import Future
from node.transport.control_server import ControlServer, Result

def handle(request):
    answer = Future()
    answer.set_result(Result(1))
    return answer

server = ControlServer(sys.argv[1], handle)
print("ready", flush=True)
sys.stdin.read()
server.close()
"""


@contextlib.contextmanager
def serving() -> Iterator[tuple["subprocess.Popen[bytes]", int, str]]:
    """A control server in a process of its own, its port and its endpoint; ends well afterwards."""
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-c", SERVES, endpoint], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        server.stdout.readline()
        yield server, port, endpoint
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(WAIT_S) == 0


def test_who_fills_the_queue_and_goes_ends_no_process() -> None:
    """An assertion of libzmq's heartbeats did."""
    with serving() as (_, port, endpoint):
        for _ in range(10):
            zmtp.connected(port, request("status") * 2000, b"DEALER").close()
        deadline = time.monotonic() + 2.5  # longer than the heartbeats' period was
        with Control(endpoint, timeout_s=WAIT_S) as control:
            while time.monotonic() < deadline:
                control.status()


FEW_DESCRIPTORS = 200


def test_more_connections_than_descriptors_end_no_process() -> None:
    """An assertion of libzmq did, where its ipc endpoint found no descriptor."""
    with serving() as (server, port, endpoint):
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))
        with contextlib.ExitStack() as stack:
            open_many(FEW_DESCRIPTORS, lambda: zmtp.silent(port), stack)
            assert server.poll() is None
        with Control(endpoint, timeout_s=WAIT_S) as control:
            control.status()


# Logs.


def test_one_line_of_a_kind_is_written_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    limited = LimitedLog(logging.getLogger("limited"), 0.2)
    for _ in range(100):
        limited.warning("kind", "x" * 10_000)
        limited.warning("other", "another kind")
    assert len(caplog.records) == 2
    assert len(caplog.records[0].getMessage()) < 400
    wait_until(lambda: bool(limited.warning("kind", "again") or len(caplog.records) > 2))
    assert "again (" in caplog.records[-1].getMessage()
    assert "more like this in between)" in caplog.records[-1].getMessage()


def test_kinds_that_a_stranger_makes_up_take_no_memory() -> None:
    limit = LogLimit()
    for number in range(10_000):
        limit.admit(str(number))
    assert len(limit._kinds) <= 64


def test_a_librarys_stack_traces_become_short_lines(caplog: pytest.LogCaptureFixture) -> None:
    limit_library_logs("a.library")
    limit_library_logs("a.library")
    library = logging.getLogger("a.library")
    for number in range(50):
        try:
            raise ValueError("bad\n" * 100)
        except ValueError:
            library.exception("request %d failed", number)
    (record,) = caplog.records
    assert record.exc_info is None
    assert "request 0 failed: ValueError" in record.getMessage()
    assert "\n" not in record.getMessage()
