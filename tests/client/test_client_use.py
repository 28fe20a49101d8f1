"""What control code does wrong, and what a node refuses: each is a clear error of the client, over
real sockets, and never the end of the process."""

import asyncio
import contextlib
import copy
import dataclasses
import logging
import math
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import ROOT
from support.waiting import wait_until
from test_conformance import Live, dated, health, info, labels

import node.errors
import perception_client.errors
from node.transport.control_server import ControlServer, Request, Result
from node.transport.curve import make_client, make_server
from node.transport.publisher import Publisher
from node.transport.sequencing import Header
from perception_client import (
    AsyncSubscriber,
    ClientError,
    ClosedError,
    ConfigError,
    Control,
    ControlError,
    EndpointError,
    ForkedError,
    Gap,
    GuardError,
    Keys,
    LabelsMessage,
    NoAnswerError,
    NodeGoneError,
    NoMessageError,
    NotUsableError,
    PerceptionError,
    StaleGuard,
    Subscriber,
    WrongThreadError,
)
from perception_client.inbox import MOST_UNREAD, Inbox
from perception_client.messages.codec import encode
from perception_client.text import duration

WAIT_S = 10.0


@pytest.fixture
def live(ipc: str) -> Iterator[Live]:
    made = Live(ipc)
    yield made
    made.publisher.close()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    make_server(folder)
    make_client(folder, "arm", ("labels",))
    make_client(folder, "boss", ("control",))
    return folder


def raised_in_another_thread(call: Callable[[], object]) -> BaseException | None:
    ended: queue.Queue[BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run).start()
    return ended.get(timeout=WAIT_S)


# Messages that one call reads beside another.


def test_what_falls_out_of_the_queue_is_counted_by_the_gap() -> None:
    inbox = Inbox("ipc://x")
    header = Header(0, time.time_ns(), time.monotonic_ns())
    for seq in range(MOST_UNREAD + 10):
        message = dated(labels(seq), header)
        assert isinstance(message, LabelsMessage)
        inbox.open(encode(dataclasses.replace(message, dropped=1)))
    first = inbox.next()
    assert first is not None
    assert first[0].seq == 10
    assert first[1] == Gap(lost=10, dropped=9 + 1)  # nothing is known of before the first
    rest = [inbox.next() for _ in range(MOST_UNREAD)]
    assert [received[0].seq for received in rest if received] == list(range(11, MOST_UNREAD + 10))
    assert all(received[1] == Gap(dropped=1) for received in rest if received)


def test_health_that_reads_more_than_is_kept_says_so_in_the_gap(live: Live) -> None:
    with Subscriber(live.endpoint) as subscriber:
        live.joined(3)
        count = 10 * (MOST_UNREAD // 5)
        for seq in range(count):
            live.send(labels(seq), health(seq))
            if seq % 10 == 9:  # less than what ZeroMQ keeps for a slow reader
                while (newest := subscriber.newest_health) is None or newest.seq < seq:
                    subscriber.health(WAIT_S)
        message, gap = subscriber.receive(WAIT_S)
        assert gap.lost == message.seq == count - MOST_UNREAD
        seqs = [subscriber.receive(WAIT_S)[0].seq for _ in range(MOST_UNREAD - 1)]
        assert seqs == list(range(message.seq + 1, count))


def test_a_lossless_reader_that_waits_before_each_message_loses_nothing(ipc: str) -> None:
    live = Live.__new__(Live)
    live.endpoint, live.publisher = ipc, Publisher(ipc, lossless=True)
    count = 5 * MOST_UNREAD
    with Subscriber(ipc) as subscriber:
        live.publisher.wait_for_subscriber(threading.Event())
        sender = threading.Thread(target=lambda: [live.send(labels(n)) for n in range(count)])
        sender.start()
        seqs = []
        while len(seqs) < count and subscriber.wait(WAIT_S):
            seqs.append(subscriber.receive(WAIT_S)[0].seq)
        sender.join(WAIT_S)
    live.publisher.close()
    assert seqs == list(range(count))


def test_watch_says_which_cameras_there_are(live: Live) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "node", "watch", "--endpoint", live.endpoint, "--camera", "fron",
         "--timeout", "30"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        live.joined(3)
        live.send(health(), labels(0))
        _, stderr = watch.communicate(timeout=30)
    finally:
        watch.kill()
    assert watch.returncode == 2
    assert "no camera 'fron'; it has: front, rear" in stderr
    assert "Traceback" not in stderr


# Threads, processes, closing.


def test_a_subscriber_is_refused_to_a_second_thread(live: Live) -> None:
    with Subscriber(live.endpoint) as subscriber, Control(live.endpoint + "-control") as control:
        assert subscriber.latest(1.0) is None
        assert isinstance(subscriber.events.receive(0.0), type(None))
        with pytest.raises(NoAnswerError):
            control.ask("status", timeout_s=0.01)
        for call in (
            lambda: subscriber.latest(1.0),
            lambda: subscriber.receive(0.1),
            lambda: subscriber.events.receive(0.1),
            lambda: control.status(),
            subscriber.close,
        ):
            error = raised_in_another_thread(call)
            assert isinstance(error, WrongThreadError)
            assert "belongs to thread 'MainThread'" in str(error)
        assert subscriber.latest(1.0) is None  # and goes on in its own


def test_a_subscriber_may_be_made_in_one_thread_and_used_in_another(live: Live) -> None:
    with Subscriber(live.endpoint) as subscriber:
        live.joined(3)
        live.send(labels(0))
        assert raised_in_another_thread(lambda: subscriber.receive(WAIT_S)) is None
        live.send(labels(1))
        deadline = time.monotonic() + WAIT_S
        while True:  # the other thread has ended, or is about to
            with contextlib.suppress(WrongThreadError):
                assert subscriber.receive(WAIT_S)[0].seq == 1
                break
            assert time.monotonic() < deadline


def test_an_asyncio_subscriber_is_refused_to_a_second_loop(live: Live) -> None:
    async def make() -> AsyncSubscriber:
        subscriber = AsyncSubscriber(live.endpoint)
        assert await subscriber.latest(1.0) is None
        return subscriber

    subscriber = asyncio.run(make())
    with pytest.raises(WrongThreadError, match="another event loop"):
        asyncio.run(subscriber.latest(1.0))
    subscriber.close()


def test_closing_an_asyncio_subscriber_ends_a_task_that_waits(live: Live) -> None:
    async def run() -> None:
        subscriber = AsyncSubscriber(live.endpoint)
        waiting = [
            asyncio.create_task(subscriber.receive(WAIT_S)),
            asyncio.create_task(subscriber.require(1.0, timeout_s=WAIT_S)),
            asyncio.create_task(subscriber.events.receive(WAIT_S)),
        ]
        await asyncio.sleep(0.1)
        subscriber.close()
        for task in waiting:
            with pytest.raises(ClosedError):
                await asyncio.wait_for(task, WAIT_S)

    asyncio.run(run())


FORKS = """
import os, sys, time
from perception_client import ClientError, Control, ForkedError, Subscriber
endpoint = sys.argv[1]
subscriber, control = Subscriber(endpoint), Control(endpoint + "-control")
events = subscriber.events
subscriber.latest(1.0)
with subscriber, control:
    guard = subscriber.on_stale(60.0, print)
    child = os.fork()
    if child == 0:
        assert not guard.watching
        guard.close()
        for call in (lambda: subscriber.latest(1.0), lambda: subscriber.receive(1.0),
                     lambda: subscriber.wait(1.0), lambda: events.receive(1.0), control.status):
            try:
                call()
            except ForkedError as error:
                assert "made before this process was forked" in str(error), error
            else:
                raise SystemExit("no error")
        own = Subscriber(endpoint)  # a new one works
        own.latest(1.0)
        own.close()
if child == 0:
    print("child done", flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print("parent done")
"""


def test_a_subscriber_that_is_dropped_in_a_cycle_holds_nobody(ipc: str) -> None:
    """pyzmq's own finalizers would end the context before its sockets, and wait for ever."""
    code = (
        "import gc, sys; from perception_client import Control, Subscriber\n"
        "for _ in range(20):\n"
        "    one = Subscriber(sys.argv[1]); one.latest(1.0); one.events.take(); one.itself = one\n"
        "    two = Control(sys.argv[1]); two.itself = two; del one, two; gc.collect()\n"
        "print(len(__import__('os').listdir('/proc/self/fd')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ipc], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20


def test_after_a_fork_every_use_is_an_error_and_the_process_ends_well(ipc: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, ipc], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (0, "child done\nparent done\n"), done.stderr
    assert done.stderr == ""


def test_a_guard_without_a_thread_is_an_error_of_the_library(
    ipc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(GuardError, match="the stale guard cannot start: can't start new thread"):
        StaleGuard(ipc, 1.0, print)


def test_control_uses_no_heartbeats_and_finds_a_dead_peer_by_tcp(ipc: str) -> None:
    """With HEARTBEAT_IVL libzmq can end the process by an assertion."""
    with Control(ipc) as control:
        assert control._socket.getsockopt(zmq.HEARTBEAT_IVL) == 0
        assert control._socket.getsockopt(zmq.TCP_KEEPALIVE) == 1


# Everything is a ClientError.


def test_whatever_control_code_does_wrong_is_a_client_error(ipc: str, tmp_path: Path) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: Subscriber("nonsense"),
        lambda: Subscriber(None),  # type: ignore[arg-type]
        lambda: Subscriber(5570),  # type: ignore[arg-type]
        lambda: Subscriber(f"ipc://{tmp_path}/\udcff"),
        lambda: Subscriber(ipc, camera=3),  # type: ignore[arg-type]
        lambda: Subscriber(ipc, timeout_s=-1),
        lambda: Subscriber(ipc, timeout_s="1"),  # type: ignore[arg-type]
        lambda: Subscriber(ipc, keys=tmp_path),
        lambda: Subscriber(ipc, keys=3),  # type: ignore[arg-type]
        lambda: Subscriber(ipc, keys=Keys(b"short", b"x", b"y")),
        lambda: Control("nonsense"),
        lambda: Control(None),  # type: ignore[arg-type]
        lambda: Control(ipc, keys=tmp_path / "none"),
        lambda: Control(ipc, timeout_s=math.nan),
        lambda: Control(ipc).set({"a": object()}),
        lambda: Control(ipc, timeout_s=0.01).status(),
        lambda: StaleGuard(ipc, 1.0, lambda: None),  # type: ignore[arg-type]
    )
    for call in calls:
        with pytest.raises(ClientError):
            call()


def test_a_system_without_sockets_is_a_client_error(
    ipc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(context: object, kind: int, **options: object) -> None:
        raise zmq.ZMQError(zmq.EFSM)

    monkeypatch.setattr(zmq.Context, "socket", full)
    for make in (Subscriber, Control):
        with pytest.raises(EndpointError, match="no socket"):
            make(ipc)


def test_errors_that_python_has_a_kind_for_are_of_that_kind_too(ipc: str) -> None:
    with Subscriber(ipc) as subscriber:
        with pytest.raises(ValueError, match="max_age_s is -1"):
            subscriber.latest(-1)
        with pytest.raises(TypeError, match="give a number of seconds"):
            subscriber.latest("1")  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            subscriber.receive(0.0)
    assert issubclass(ForkedError, RuntimeError)
    assert issubclass(ControlError, ClientError)


@pytest.mark.parametrize(
    ("value_s", "text"),
    [(0.2, "0.2 s"), (119, "119 s"), (1e6, "12 days"), (3600, "60 min"), (10_000, "3 h"),
     (2.0**30, "34 years"), (math.inf, "ever"), (1e300, "ever")],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_a_person_would_choose(value_s: float, text: str) -> None:
    assert duration(value_s) == text


# Keys that do not fit.


def refusal(endpoint: str, keys: Path | Keys | None) -> str:
    """What `require` says, once the client knows why it is refused."""
    with Subscriber(endpoint, keys=keys) as subscriber:
        deadline = time.monotonic() + WAIT_S
        while True:
            with pytest.raises(NodeGoneError) as caught:
                subscriber.require(1.0, timeout_s=0.1)
            if "nothing from the node" not in str(caught.value):
                with pytest.raises(NoMessageError, match=r"keys?\b"):
                    subscriber.receive(0.05)
                return str(caught.value)
            assert time.monotonic() < deadline, caught.value


def test_a_client_is_told_why_its_keys_do_not_fit(ipc: str, keys: Path, tmp_path: Path) -> None:
    make_server(tmp_path / "other")
    arm = Keys.read(keys / "clients" / "arm")
    other = Keys.read(make_client(tmp_path / "other", "arm", ("labels",)))
    publisher = Publisher(ipc, keys=keys)
    try:
        assert "asks for keys" in refusal(ipc, None)
        assert "refuses this client's key" in refusal(ipc, keys / "clients" / "boss")
        stranger = dataclasses.replace(arm, public=other.public, secret=other.secret)
        assert "refuses this client's key" in refusal(ipc, stranger)
        wrong_node = dataclasses.replace(arm, server=other.server)
        assert "server.key in this client's folder of keys is of another" in refusal(
            ipc, wrong_node
        )
    finally:
        publisher.close()
    publisher = Publisher(ipc)
    try:
        assert "the node has no keys" in refusal(ipc, arm)
    finally:
        publisher.close()


def test_who_is_cut_off_before_it_reads_why_is_told_what_it_can_be(tcp: str) -> None:
    """A busy node with keys closes the connection before the client has read what it asks for."""
    port = int(tcp.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as node, contextlib.ExitStack() as stack:
        closes = threading.Thread(target=close_connections, args=(node,))
        closes.start()
        stack.callback(closes.join)
        stack.callback(node.shutdown, socket.SHUT_RDWR)
        assert "either the node asks for keys (wire.keys), and this client uses none" in refusal(
            tcp, None
        )


def close_connections(server: socket.socket) -> None:
    """Closes each connection, until the server is shut down."""
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def test_control_is_told_why_its_keys_do_not_fit(ipc: str, keys: Path) -> None:
    def nobody(request: Request) -> Result:
        raise AssertionError(request)

    server = ControlServer(ipc, nobody, keys)  # type: ignore[arg-type]
    try:
        for folder, why in ((None, "asks for keys"), ("arm", "not in the folder control")):
            own = None if folder is None else keys / "clients" / folder
            with Control(ipc, keys=own) as control, pytest.raises(NoAnswerError, match=why):
                control.ask("status", timeout_s=1.0)
    finally:
        server.close()


def test_a_client_that_was_refused_is_connected_once_the_node_admits_it(
    ipc: str, keys: Path
) -> None:
    """libzmq gives a refused connection up for good."""
    with Subscriber(ipc, keys=keys / "clients" / "boss") as subscriber:
        live = Live.__new__(Live)
        live.endpoint, live.publisher = ipc, Publisher(ipc, keys=keys)
        deadline = time.monotonic() + WAIT_S
        error: NotUsableError | None = None
        while "refuses" not in str(error):
            with pytest.raises(NodeGoneError) as caught:
                subscriber.require(1.0, timeout_s=0.1)
            error = caught.value
            assert time.monotonic() < deadline
        live.publisher.close()
        (keys / "labels" / "boss.key").write_text((keys / "control" / "boss.key").read_text())
        (keys / "labels" / "boss.key").chmod(0o600)
        live.publisher = Publisher(ipc, keys=keys)
        live.send(info(), health(), labels(0))
        while True:
            with contextlib.suppress(NodeGoneError):
                assert subscriber.require(WAIT_S, timeout_s=0.2).camera == "front"
                break
            assert time.monotonic() < deadline + WAIT_S
        live.publisher.close()


def test_the_node_logs_whom_it_refuses_and_not_for_each_try(
    tcp: str, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "node.transport.curve")
    public, secret = zmq.curve_keypair()
    stranger = Keys(Keys.read(keys / "clients" / "arm").server, public, secret)
    publisher = Publisher(tcp, keys=keys)
    try:
        for own in (keys / "clients" / "boss", stranger, keys / "clients" / "boss"):
            refusal(tcp, own)
    finally:
        publisher.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "labels: refused a client at 127.0.0.1, key 'boss', which is not on the list" in lines[0]
    assert f"127.0.0.1, key {public.decode()}, which is on no list" in lines[1]


def asked(subscriber: Subscriber) -> bool:
    """Asks for a message, without one. A client that read of the difference first is the one that
    closes, and connects again in a call."""
    with pytest.raises(NodeGoneError):
        subscriber.require(60.0, timeout_s=0.1)
    return False


def test_the_node_logs_that_a_client_has_no_keys_or_needs_none(
    tcp: str, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "node.transport.connections")
    cases = (
        (keys, None, "has no keys"),
        (None, keys / "clients" / "boss", "this node runs without"),
    )
    for nodes_keys, own, why in cases:
        publisher = Publisher(tcp, keys=nodes_keys)
        try:
            with Subscriber(tcp, keys=own) as subscriber:
                wait_until(lambda why=why, client=subscriber: asked(client) or why in caplog.text)
        finally:
            publisher.close()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == ["labels", "labels"]
    assert all("refused a client at 127.0.0.1" in line for line in lines)


def test_the_folder_of_keys_is_still_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        Subscriber(f"ipc://{tmp_path}/x", keys=tmp_path / "none")
    assert os.listdir(tmp_path) == []


class _AsyncCall:
    async def __call__(self, error: NotUsableError) -> None:
        pass


_ERRORS = [kind for kind in vars(node.errors).values() if isinstance(kind, type)] + [
    kind for kind in vars(perception_client.errors).values() if isinstance(kind, type)
]


@pytest.mark.parametrize("kind", sorted(set(_ERRORS) - {Any}, key=lambda kind: kind.__name__))
def test_an_error_has_its_fix_apart_and_crosses_processes(kind: type[PerceptionError]) -> None:
    newest = (None,) if issubclass(kind, NotUsableError) else ()
    error = kind("no key", *newest, fix="make one")
    for copied in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(copied) is kind
        assert (copied.problem, copied.fix, str(copied)) == (
            "no key", "make one", "no key; make one",
        )  # fmt: skip
        assert copied.exit_code == kind.exit_code
        assert getattr(copied, "message", None) is None
    assert str(kind("no key", *newest)) == "no key"


def test_a_callback_that_nothing_would_await_is_refused_or_reported(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    async def stop() -> None:
        pass

    with Subscriber(live.endpoint) as subscriber:
        with pytest.raises(ClientError, match="async"):
            subscriber.on_stale(0.1, _AsyncCall())
        guard = subscriber.on_stale(0.1, lambda error: stop())
        wait_until(lambda: "nothing awaits" in caplog.text)
        assert guard.watching
        guard.close()


def test_a_node_that_restarted_is_alive_whatever_the_one_before_announced() -> None:
    now = Header(0, time.time_ns(), time.monotonic_ns())
    inbox = Inbox("x")
    inbox.accept(dated(dataclasses.replace(health(), state="stopping", session="before"), now))
    assert not inbox.alive
    inbox.accept(dated(dataclasses.replace(labels(0), session="after"), now))
    assert inbox.alive


@pytest.mark.parametrize(
    "wait",
    [
        lambda subscriber: subscriber.receive(WAIT_S),
        lambda subscriber: subscriber.require(0.1, timeout_s=WAIT_S),
        lambda subscriber: subscriber.events.receive(WAIT_S),
    ],
)
def test_a_signal_that_closes_what_waits_is_a_clear_error(
    ipc: str, wait: Callable[[Subscriber], object]
) -> None:
    subscriber = Subscriber(ipc)  # nobody is there
    before = signal.signal(signal.SIGALRM, lambda *_: subscriber.close())
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(ClosedError):
            wait(subscriber)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_error_of_the_block_is_not_hidden_by_the_close(live: Live) -> None:
    waits, goes = threading.Event(), threading.Event()

    def use(subscriber: Subscriber) -> None:
        subscriber.wait(0.01)
        waits.set()
        goes.wait(WAIT_S)

    def raise_in_the_block(subscriber: Subscriber) -> None:
        with subscriber:
            user.start()
            assert waits.wait(WAIT_S)
            raise ValueError("of the block")

    made = Subscriber(live.endpoint)
    user = threading.Thread(target=use, args=(made,))
    with pytest.raises(ValueError, match="of the block"):
        raise_in_the_block(made)
    goes.set()
    user.join(WAIT_S)
    made.close()
