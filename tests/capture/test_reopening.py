"""A camera that was away: how soon its pictures are back, and what its absence costs."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.http_server import RawServer, answer, stream_head
from support.waiting import wait_until

from node.capture import reopening as reopening_module
from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.reopening import Reopening
from node.capture.sources.base import Source
from node.capture.sources.open import open_source
from node.capture.sources.presence import DevicePresence, Look, ServerPresence, presence_of
from node.config.schema import CameraConfig
from node.errors import AccessError, SourceError
from node.image.jpeg import encode_jpeg

RANDOM = np.random.default_rng(0)
JPEGS = [encode_jpeg(RANDOM.integers(0, 256, (48, 64, 3), np.uint8), 90) for _ in range(20)]
LATE_S = 0.5
"""From the return of a camera to its first picture; the goal of the node."""


def pictures(number: int, request: bytes) -> Iterable[bytes]:
    """A motion JPEG stream, 50 pictures a second."""
    yield stream_head()
    for index in range(10_000):
        jpeg = JPEGS[index % len(JPEGS)]
        yield b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg + b"\r\n"
        time.sleep(0.02)


class Server(RawServer):
    """A camera of which the power can be cut."""

    def __init__(self, reply: Callable[[int, bytes], Iterable[bytes]], port: int = 0) -> None:
        self._ended = threading.Event()

        def until_ended(number: int, request: bytes) -> Iterable[bytes]:
            for piece in reply(number, request):
                if self._ended.is_set():
                    return
                yield piece

        super().__init__(until_ended, port=port)

    def close(self) -> None:
        """Ends the answers, too."""
        self._ended.set()
        super().close()


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def attempts() -> list[float]:
    """When a source was opened, on the monotonic clock."""
    return []


@pytest.fixture
def capture(stop: threading.Event, attempts: list[float]) -> Iterator[Callable[[str], Grabber]]:
    grabbers: list[Grabber] = []

    def begin(url: str) -> Grabber:
        # How soon pictures are known to be current is another matter.
        config = CameraConfig(name="a", source=url, stall_timeout_s=0.1, discard_backlog=False)

        def open_camera() -> Source:
            attempts.append(time.monotonic())
            return open_source(config)

        grabber = Grabber(
            config, open_camera, LatestMailbox(["a"]), stop, retry_first=True,
            presence=lambda: presence_of(config),
        )  # fmt: skip
        grabber.start()
        grabbers.append(grabber)
        return grabber

    yield begin
    stop.set()
    for grabber in grabbers:
        grabber.join(5.0)


@pytest.mark.parametrize("outage_s", [0.5, 3.0])
def test_pictures_are_back_as_soon_as_their_camera_is(
    capture: Callable[[str], Grabber], attempts: list[float], outage_s: float
) -> None:
    server = Server(pictures)
    grabber = capture(server.url)
    wait_until(lambda: grabber.state.frames > 3)
    server.close()
    wait_until(lambda: not grabber.state.open)
    time.sleep(outage_s)
    assert len(attempts) <= 3, "a look at the port replaces attempts"
    assert "refuses the connection" in str(grabber.state.last_error)
    frames = grabber.state.frames
    returned_s = time.monotonic()
    with Server(pictures, server.port):
        wait_until(lambda: grabber.state.frames > frames)
        assert time.monotonic() - returned_s < 2 * LATE_S  # twice, on a busy computer
    assert grabber.state.reconnects == 1


def test_a_camera_that_answers_before_it_has_pictures_is_tried_often(
    capture: Callable[[str], Grabber],
) -> None:
    began_s = time.monotonic()

    def starting(number: int, request: bytes) -> Iterable[bytes]:
        if time.monotonic() < began_s + 2.0:
            return [answer(b"", status="404 Not Found")]
        return pictures(number, request)

    with Server(starting) as server:
        grabber = capture(server.url)
        wait_until(lambda: grabber.state.frames > 0)
        assert time.monotonic() < began_s + 2.0 + 2 * LATE_S


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "429 Too Many"])
def test_a_camera_that_refuses_this_user_is_asked_less_and_less(
    capture: Callable[[str], Grabber], attempts: list[float], status: str
) -> None:
    with Server(lambda number, request: [answer(b"", status=status)]) as server:
        capture(server.url)
        wait_until(lambda: server.connections == 5)
    assert attempts[4] - attempts[0] >= 0.1 + 0.2 + 0.4 + 0.8
    assert len(attempts) == 5, "no look in between"


def test_a_server_for_one_connection_is_reached_although_a_look_uses_it_up(
    capture: Callable[[str], Grabber], stop: threading.Event
) -> None:
    """As `while true; do ffmpeg ... -listen 1 http://...; done`."""

    def serve(listener: socket.socket) -> None:
        with listener:
            connection, _ = listener.accept()
        with connection:
            if connection.recv(1 << 16):
                for piece in pictures(0, b""):
                    if stop.is_set():
                        return
                    connection.sendall(piece)

    port = socket.create_server(("127.0.0.1", 0)).getsockname()[1]

    def serve_again_and_again() -> None:
        time.sleep(1.0)
        while not stop.is_set():
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            serve(listener)
            time.sleep(0.3)

    grabber = capture(f"http://127.0.0.1:{port}/")
    threading.Thread(target=serve_again_and_again, daemon=True).start()
    wait_until(lambda: grabber.state.frames > 0)


def test_a_host_that_is_silent_is_found_at_the_next_look() -> None:
    """A full listener drops requests, as a host that is switched off."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(address)
        presence = ServerPresence(*address, "camera 'a'")
        assert [presence.look(0.1) for _ in range(3)] == [Look.SILENT] * 3
        listener.listen(100)
        while presence.look(0.1) is not Look.THERE:
            listener.accept()[0].close()
        for connection in waiting:
            connection.close()
    assert presence.look(0.1) is Look.ABSENT
    presence.close()


def test_the_silence_of_a_host_is_reported_once_and_costs_no_attempt(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reopening_module, "_LOOK_S", (0.01, 0.01))
    looks = iter([Look.SILENT] * 5 + [Look.ABSENT, Look.ABSENT, Look.SILENT, Look.THERE])

    class Host:
        silence = ("camera 'a' does not answer", "check the network")

        def look(self, timeout_s: float) -> Look:
            return next(looks)

        def close(self) -> None:
            pass

    reports: list[str] = []
    reopening = Reopening(Host(), stop, lambda error: reports.append(str(error)))
    reopening.wait(SourceError("camera 'a': broke off"), 0.0, 0.0)
    assert list(looks) == [Look.ABSENT, Look.SILENT, Look.THERE], "refused: names a new reason"
    assert reports == ["camera 'a' does not answer; check the network"]


def test_attempts_cost_a_bounded_part_of_a_core(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(stop, "wait", waits.append)
    reopening = Reopening(None, stop, lambda error: None)
    failure = SourceError("camera 'a': away")
    for _ in range(3):
        reopening.wait(failure, 0.02, 0.02)
    assert waits == pytest.approx([0.1, 0.4, 0.4])
    monkeypatch.setattr(reopening_module, "SHORT_OUTAGE_S", -1.0)
    reopening.wait(failure, 0.02, 0.02)
    reopening.wait(failure, 0.1, 0.001)
    reopening.wait(failure, 0.1, 60.0)
    assert waits[3:] == pytest.approx([2.0, 1.0, 5.0])
    for _ in range(8):
        reopening.wait(AccessError("camera 'a': no"), 0.0, 0.0)
    assert waits[6:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_reasons_that_alternate_fill_no_log(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reopening_module, "_ATTEMPT_S", (0.001, 0.001))
    count = 0

    def fail() -> Source:
        nonlocal count
        count += 1
        raise SourceError(f"camera 'a': {'ab'[count % 2]} after {count} ms")

    with caplog.at_level(logging.WARNING, "node.capture.grabber"):
        grabber = Grabber(
            CameraConfig(name="a"), fail, LatestMailbox(["a"]), stop, retry_first=True
        )
        grabber.start()
        wait_until(lambda: count > 50)
        stop.set()
        grabber.join(5.0)
    assert len(caplog.records) == 2


def test_a_device_is_there_once_this_user_may_open_it(tmp_path: Path) -> None:
    device = tmp_path / "video7"
    presence = DevicePresence(CameraConfig(source=str(device)))
    assert presence.look(0.1) is Look.ABSENT
    device.touch()
    assert presence.look(0.1) is Look.THERE


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", DevicePresence),
        ("/dev/video9", DevicePresence),
        ("http://camera/", ServerPresence),
        ("HTTPS://user:secret@camera:8443/x", ServerPresence),
        ("rtsp://[fe80::1]:8554/x", ServerPresence),
        ("gst:videotestsrc ! appsink", type(None)),
        ("udp://0.0.0.0:5000", type(None)),
        ("srt://camera:9000", type(None)),
        ("tcp://camera:9000", type(None)),
        ("http://camera:99999/", type(None)),
        ("http:///path", type(None)),
    ],
)
def test_what_can_be_looked_for(source: str, kind: type) -> None:
    assert type(presence_of(CameraConfig(source=source))) is kind


def test_a_proxy_answers_for_its_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert presence_of(CameraConfig(source="http://camera/")) is None
    assert presence_of(CameraConfig(source="rtsp://camera/")) is not None
