"""What stands between a fault and the robot: damaged keys are said at the start, a dead node is not
taken for a living one, and a guard can be closed from within its callback."""

import errno
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from conftest import ROOT

from node.errors import ConfigError, EndpointError
from node.pipeline.message_builder import MessageBuilder, PerceptionHealth, Usage
from node.transport.control_server import ControlServer, Request, Result
from node.transport.curve import make_client, make_server
from node.transport.publisher import Publisher
from perception_client.inbox import ALIVE_S
from perception_client.subscriber import (
    CannotSeeError,
    Keys,
    NodeGoneError,
    NoMessageError,
    NotLookingError,
    StaleGuard,
    Status,
    Subscriber,
)

WAIT_S = 10.0
SPEAKS = """
import sys, time
from node.pipeline.message_builder import MessageBuilder, PerceptionHealth, Usage
from perception_client.messages.kinds import Status
from node.transport.publisher import Publisher

message_builder, publisher = MessageBuilder("node"), Publisher(sys.argv[1])
began = time.monotonic()
while True:
    publisher.send(message_builder.unavailable("front", Status.STALLED))
    for _ in range(5):
        usage = Usage(0, 0.0, time.monotonic() - began, 0)
        publisher.send(message_builder.health("running", (), None, usage, PerceptionHealth()))
        time.sleep(0.02)
"""


class Node:
    """A publisher on a real socket, and what a node says through it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.publisher = Publisher(endpoint)
        self.message_builder = MessageBuilder("node")
        self.began = time.monotonic()

    def unavailable(self, status: Status, camera: str = "front") -> None:
        self.publisher.send(self.message_builder.unavailable(camera, status))

    def health(self) -> None:
        usage = Usage(0, 0.0, time.monotonic() - self.began, 0)
        self.publisher.send(
            self.message_builder.health("running", (), None, usage, PerceptionHealth())
        )


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(f"ipc://{tmp_path}/wire")
    yield made
    made.publisher.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process that speaks like a node, mostly through its health."""
    endpoint = f"ipc://{tmp_path}/child"
    process = subprocess.Popen([sys.executable, "-c", SPEAKS, endpoint], cwd=ROOT)
    yield endpoint, process
    process.kill()
    process.wait(WAIT_S)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    make_server(folder)
    make_client(folder, "arm", ("labels", "control"))
    return folder


def refuse(request: Request) -> Result:
    raise AssertionError(f"nobody asks: {request}")


def publish(endpoint: str, keys: Path | None) -> None:
    Publisher(endpoint, keys=keys).close()


def control(endpoint: str, keys: Path | None) -> None:
    ControlServer(endpoint, refuse, keys).close()  # type: ignore[arg-type]


def failure_of(start: Callable[[], object]) -> Exception | None:
    """What a call raised, which has to come in time."""
    ended: queue.Queue[Exception | None] = queue.Queue()

    def run() -> None:
        try:
            start()
        except Exception as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, daemon=True).start()
    return ended.get(timeout=WAIT_S)


def damage(file: Path, mark: str, with_what: str = "") -> None:
    """Puts something else in the place of the first three characters of a key."""
    before, after = file.read_text().split(f'{mark} = "')
    file.write_text(f'{before}{mark} = "{with_what}{after[3:]}')


@pytest.mark.parametrize("start", [publish, control])
@pytest.mark.parametrize("with_what", ["", "'''", "###"])  # ### is more than 32 bits
def test_a_damaged_secret_is_said_at_the_start(
    start: Callable[[str, Path], None], with_what: str, keys: Path
) -> None:
    damage(keys / "server.key_secret", "secret-key", with_what)
    error = failure_of(lambda: start(f"ipc://{keys}/wire", keys))
    assert isinstance(error, ConfigError)
    assert f"{keys}/server.key_secret: is damaged" in str(error)
    assert "make new ones with perception-node keys" in str(error)


@pytest.mark.parametrize(("access", "start"), [("labels", publish), ("control", control)])
def test_a_damaged_key_on_an_allow_list_is_said_at_the_start(
    access: str, start: Callable[[str, Path], None], keys: Path
) -> None:
    damage(keys / access / "arm.key", "public-key")
    error = failure_of(lambda: start(f"ipc://{keys}/wire", keys))
    assert isinstance(error, ConfigError)
    assert f"{keys}/{access}/arm.key: is damaged" in str(error)


@pytest.mark.parametrize(
    ("file", "mark"),
    [("server.key", "public-key"), ("arm.key_secret", "public-key"),
     ("arm.key_secret", "secret-key")],
)  # fmt: skip
def test_a_client_says_which_of_its_keys_is_damaged(file: str, mark: str, keys: Path) -> None:
    folder = keys / "clients" / "arm"
    assert Keys.read(folder).public
    damage(folder / file, mark)
    with pytest.raises(ConfigError, match=f"{file}: is damaged"):
        Keys.read(folder)


@pytest.mark.parametrize("start", [publish, control])
def test_whatever_fails_before_binding_is_said(
    start: Callable[[str, Path | None], None], tmp_path: Path
) -> None:
    error = failure_of(lambda: start(f"ipc://{tmp_path}/\udcff", None))
    assert isinstance(error, EndpointError)
    assert "cannot be served: UnicodeEncodeError" in str(error)


@pytest.mark.parametrize("start", [publish, control])
def test_libzmq_that_refuses_a_socket_is_said(
    start: Callable[[str, Path | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(zmq.Context, "socket", full)
    error = failure_of(lambda: start(f"ipc://{tmp_path}/wire", None))
    assert isinstance(error, EndpointError)
    assert "Too many open files" in str(error)


@pytest.mark.parametrize("reads_before", [True, False])
def test_what_a_killed_node_left_in_the_queue_is_no_sign_of_life(
    child: tuple[str, subprocess.Popen[bytes]], reads_before: bool
) -> None:
    endpoint, process = child
    with Subscriber(endpoint) as subscriber:
        assert subscriber.wait(WAIT_S)
        if reads_before:
            with pytest.raises(CannotSeeError):
                subscriber.require(1.0, timeout_s=0.3)
            assert subscriber.health(WAIT_S).uptime_s < WAIT_S
        with Subscriber(endpoint) as other:  # sees that there is what is not read
            for _ in range(5):
                other.receive(WAIT_S)
        process.kill()
        process.wait(WAIT_S)
        time.sleep(ALIVE_S + 0.2)  # its health is dated by the labels that followed, a little late
        with pytest.raises(NodeGoneError, match=r"nothing from the node for (2\.[5-9]|3\.\d) s"):
            subscriber.require(1.0)
        assert not subscriber.alive
        assert subscriber.newest_health is not None
        with pytest.raises(NoMessageError):
            subscriber.health()


def test_health_alone_keeps_a_node_alive_whatever_the_wall_clock_does(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    with Subscriber(node.endpoint) as subscriber:
        node.unavailable(Status.PAUSED)
        for step_s in (0, -3600, 3600, 0, -7200, 7200, 0):
            monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: real() + step_s * 10**9)
            node.health()
            assert subscriber.health(WAIT_S).state == "running"
            time.sleep(ALIVE_S / 5)
            assert subscriber.alive
        with pytest.raises(NotLookingError):
            subscriber.require(1.0)


def test_a_node_that_was_not_read_for_long_and_lives_is_alive(
    child: tuple[str, subprocess.Popen[bytes]],
) -> None:
    endpoint, _ = child
    with Subscriber(endpoint) as subscriber:
        assert subscriber.wait(WAIT_S)
        time.sleep(ALIVE_S + 0.2)
        assert not subscriber.alive  # as far as received: a property receives nothing
        assert subscriber.health().uptime_s > ALIVE_S
        assert subscriber.alive


def test_the_newest_is_what_came_last_though_the_wall_clock_was_set_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    with Subscriber(node.endpoint) as subscriber:
        for camera in ("right", "left"):
            node.unavailable(Status.STALLED, camera)
            assert subscriber.receive(WAIT_S)[0].camera == camera
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
        node.unavailable(Status.PAUSED, "right")
        assert subscriber.receive(WAIT_S)[0].status is Status.PAUSED
        with pytest.raises(NotLookingError, match="'right' is paused"):
            subscriber.require(1.0)


def test_a_callback_may_close_its_guard_and_goes_on(tmp_path: Path) -> None:
    stopped = threading.Event()
    made: queue.Queue[StaleGuard] = queue.Queue()

    def stop(_: object) -> None:
        made.get(timeout=WAIT_S).close()
        stopped.set()

    guard = StaleGuard(f"ipc://{tmp_path}/nobody", 0.05, stop)
    made.put(guard)
    assert stopped.wait(WAIT_S)
    guard.close()
    assert "stale-guard" not in {thread.name for thread in threading.enumerate()}
