"""What a node needs of its computer, and its end: each step comes, whatever the others do."""

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import zmq

from node.config.load import load_config
from node.errors import EndpointError
from node.perception.perceiver import build_perceiver
from node.pipeline.live import run_live
from node.pipeline.message_builder import MessageBuilder, PerceptionHealth, Usage
from node.pipeline.resource_usage import ProcessMeter
from node.process.descriptors import raise_descriptor_limit
from node.process.ending import Ending
from node.recording.recorder import Recorder
from node.transport.control_server import ControlServer
from node.transport.publisher import Publisher
from node.transport.sequencing import Header
from perception_client.messages.codec import decode, encode
from perception_client.messages.kinds import HealthMessage
from perception_client.subscriber import NoMessageError, Subscriber

WAIT_S = 30.0


def fail(message: str) -> None:
    raise RuntimeError(message)


def end(*steps: Callable[[], object], error: Exception | None = None) -> None:
    with Ending() as ending:
        for number, step in enumerate(steps):
            ending.add(f"part {number}", step)
        if error is not None:
            raise error


def test_every_step_of_an_end_runs_and_the_first_error_is_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran: list[str] = []
    with pytest.raises(RuntimeError, match="second"):
        end(
            lambda: ran.append("last"), lambda: fail("third"), lambda: fail("second"),
            lambda: ran.append("first"),
        )  # fmt: skip
    assert ran == ["first", "last"]
    assert "closing the part 2 failed: second" in caplog.text
    assert "closing the part 1 failed: third" in caplog.text


def test_the_error_that_ended_a_run_is_the_one_that_is_raised() -> None:
    with pytest.raises(KeyError, match="first"):
        end(lambda: fail("later"), error=KeyError("first"))


def test_a_part_that_cannot_be_closed_leaves_no_other_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher lets go of its endpoint and the recording has its end."""
    endpoint = f"ipc://{tmp_path}/labels"
    close = ControlServer.close

    def broken(server: ControlServer, timeout_s: float = 1.0) -> None:
        close(server, timeout_s)
        raise OSError(24, "Too many open files")

    closed: list[bool] = []
    close_recorder = Recorder.close
    monkeypatch.setattr(ControlServer, "close", broken)
    monkeypatch.setattr(
        Recorder,
        "close",
        lambda recorder, timeout_s: closed.append(close_recorder(recorder, timeout_s)),
    )
    config = load_config(
        None, [f"wire.endpoint={endpoint}", f"control.endpoint=ipc://{tmp_path}/control"]
    )
    with pytest.raises(OSError, match="Too many open files"):
        run_live(
            config, lambda config: build_perceiver(config.model), threading.Event(), max_frames=1
        )
    assert closed == [True]
    Publisher(endpoint).close()  # raises where somebody serves there still


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, before[1]))
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    yield
    for descriptor in held:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def meter() -> Iterator[ProcessMeter]:
    made = ProcessMeter()
    yield made
    made.close()


def test_memory_and_processor_are_told_without_a_free_descriptor(
    meter: ProcessMeter, no_descriptors: None
) -> None:
    rss = meter.rss_bytes()
    assert rss is not None
    assert rss > 2**20
    assert meter.cpu() >= 0


def test_a_meter_that_fails_costs_its_number_only(tmp_path: Path) -> None:
    assert ProcessMeter(tmp_path / "none").rss_bytes() is None
    wrong = tmp_path / "statm"
    wrong.write_text("no number")
    assert ProcessMeter(wrong).rss_bytes() is None
    usage = Usage(None, 0.5, 1.0, 0)
    outgoing = MessageBuilder("node").health("running", (), None, usage, PerceptionHealth())
    message = outgoing.finalise(Header(0, 1, 1))
    read = decode(encode(message))
    assert isinstance(read, HealthMessage)
    assert read.rss_bytes is None


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    try:
        assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > lowered
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_last_word_does_not_wait_for_a_publisher_that_is_busy(tmp_path: Path) -> None:
    working, go_on = threading.Event(), threading.Event()

    def busy(message: object) -> None:
        working.set()
        assert go_on.wait(WAIT_S)

    publisher = Publisher(f"ipc://{tmp_path}/labels", observer=busy)
    health = MessageBuilder("node").health(
        "stopping", (), None, Usage(0, 0.0, 0.0, 0), PerceptionHealth()
    )
    try:
        assert publisher.offer(health, 0)
        assert working.wait(WAIT_S)
        while publisher.offer(health, 0):
            pass
        assert not publisher.offer(health, 0.01)
    finally:
        go_on.set()
        publisher.close()


def test_a_subscriber_of_the_last_word_hears_it(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/labels"
    config = load_config(None, [f"wire.endpoint={endpoint}"])
    stop = threading.Event()
    run = threading.Thread(
        target=run_live, args=(config, lambda config: build_perceiver(config.model), stop)
    )
    with Subscriber(endpoint) as subscriber:
        run.start()
        try:
            assert subscriber.wait(WAIT_S)
        finally:
            stop.set()
            run.join(WAIT_S)
        with contextlib.suppress(NoMessageError):
            while True:
                subscriber.receive(1.0)
        assert subscriber.newest_health is not None
        assert subscriber.newest_health.state == "stopping"


def a_publisher(endpoint: str) -> None:
    Publisher(endpoint)


def a_control_server(endpoint: str) -> None:
    ControlServer(endpoint, lambda request: Future())


@pytest.mark.parametrize("serve", [a_publisher, a_control_server])
@pytest.mark.parametrize("step", ["monitor", "connect", "bind"])
def test_a_socket_that_lacks_a_descriptor_at_the_start_is_an_error_and_no_wait(
    serve: Callable[[str], None], step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    monkeypatch.setattr(zmq.Socket, step, exhausted)
    raised: list[Exception] = []

    def attempt() -> None:
        try:
            serve(f"ipc://{tmp_path}/socket")
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(WAIT_S / 3)
    assert len(raised) == 1
    assert isinstance(raised[0], EndpointError)
    assert "open files" in str(raised[0])
