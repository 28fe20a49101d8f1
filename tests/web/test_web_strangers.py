"""The page's server and who sends it what no browser does: real sockets, no node."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import pytest

from node.errors import EndpointError
from node.web import access as gate
from node.web.live_state import LiveState
from node.web.metrics import Metrics
from node.web.preview import Preview
from node.web.server import WebServer

WAIT_S = 20.0
TOKEN = "a-token-of-some-length"
HEAD = b"Host: 127.0.0.1\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\n" + HEAD + b"\r\n"
LIVE = (
    b"GET /live HTTP/1.1\r\n" + HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Site:
    """A server, what it was asked, and how to talk to it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any], str]] = []
        self.jpeg = b""
        self.answers: list[Future[Mapping[str, Any]]] = []
        live = LiveState(["front"])
        self.server = WebServer(
            "127.0.0.1:0", live, Metrics(live), Preview(lambda camera: Future(), 5, 320),
            token=TOKEN, command=self._command,
        )  # fmt: skip

    def _command(
        self, command: str, arguments: Mapping[str, Any], client: str
    ) -> "Future[Mapping[str, Any]]":
        self.asked.append((command, arguments, client))
        answer: Future[Mapping[str, Any]] = Future()
        if command == "pause":
            raise RecursionError("nobody thought of it")
        if command == "resume":
            self.answers.append(answer)
        else:
            answer.set_result({"jpeg": self.jpeg} if command == "snapshot" else {})
        return answer

    def connect(self, sent: bytes = b"") -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.server.port), WAIT_S)
        made.sendall(sent)
        return made

    def status(self, sent: bytes) -> int:
        """The status of the answer to what is sent; 0 where the connection is closed without."""
        with self.connect(sent) as asking, contextlib.suppress(ConnectionResetError):
            line = asking.recv(4096).split(b"\r\n")[0]
            return int(line.split(b" ")[1]) if line else 0
        return 0


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.close()


def post(body: bytes, *headers: bytes, kind: bytes = b"application/json") -> bytes:
    lines = [b"POST /control HTTP/1.1", b"Content-Type: " + kind, *headers]
    lines += [b"Content-Length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n" + HEAD + b"\r\n" + body


BAD = {
    "nested lists": post(b"[" * 60_000),
    "nested maps": post(b'{"a":' * 10_000),
    "a huge number": post(b'{"command":' + b"9" * 6000 + b"}"),
    "no UTF-8": post(b"\xff\xfe{}"),
    "an unknown encoding": post(b"{}", kind=b"application/json; charset=none"),
    "broken gzip": post(b"{}", b"Content-Encoding: gzip"),
    "no object": post(b"null"),
    "no command": post(b"{}"),
    "arguments": post(b'{"command":"pause","arguments":[1]}'),
    "a length": b"POST /control HTTP/1.1\r\n" + HEAD + b"Content-Length: many\r\n\r\n",
    "a chunk": b"POST /control HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a URL": b"GET http://[::1 HTTP/1.1\r\n" + HEAD + b"\r\n",
    "TLS": b"\x16\x03\x01" + bytes(300) + b"\r\n\r\n",
    "a long header": b"GET / HTTP/1.1\r\n" + HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + HEAD + b"X: x\r\n" * 3000 + b"\r\n",
}


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
def test_what_cannot_be_understood_is_a_bad_request_and_no_stack_trace(
    site: Site, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert site.status(sent) in (0, 400)
    assert site.status(METRICS) == 200
    assert not site.asked
    assert not any(record.exc_info for record in caplog.records)


def test_a_token_that_is_no_text_is_a_wrong_token(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for header in (b"Authorization: Bearer \xff\xfe", b"Cookie: perception_token=\xff\xfe"):
        sent = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + header + b"\r\n\r\n"
        assert site.status(sent) == 401
    assert not caplog.records


def test_many_bad_requests_write_few_lines(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        for sent in BAD.values():
            site.status(sent)
        assert site.status(post(b'{"command":"pause"}')) == 500
    assert len(caplog.records) <= 10
    assert sum(len(record.getMessage()) for record in caplog.records) < 5000
    assert "nobody thought of it" in caplog.text
    assert "Traceback" not in caplog.text


def test_nested_json_of_a_live_view_costs_nobody_the_view(site: Site) -> None:
    text = b"[" * 4000
    with site.connect(LIVE) as viewer:
        viewer.recv(4096)
        viewer.sendall(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
        heard = b""
        deadline = time.monotonic() + WAIT_S
        while heard.count(b'"kind": "state"') < 3:
            assert time.monotonic() < deadline
            heard += viewer.recv(65536)


SLOW: dict[str, bytes] = {
    "nothing": b"",
    "half a line": b"GET /metr",
    "half a head": b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a body": post(b"{}")[:-1],
    "a whole request": METRICS,
}


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_a_connection_without_a_whole_request_is_closed(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "IDLE_S", 0.3)
    monkeypatch.setattr(gate, "SWEEP_S", 0.05)
    site = Site()
    try:
        with site.connect(sent) as slow, contextlib.suppress(ConnectionResetError):
            while slow.recv(65536):
                pass
    finally:
        site.server.close()


def test_who_reads_a_large_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "IDLE_S", 0.3)
    monkeypatch.setattr(gate, "SWEEP_S", 0.05)
    site = Site()
    site.jpeg = bytes(12_000_000)  # more than the kernel takes at once
    request = post(b'{"command":"snapshot","arguments":{"camera":"front"}}', b"Connection: close")
    try:
        with socket.socket() as phone:
            phone.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            phone.connect(("127.0.0.1", site.server.port))
            phone.sendall(request)
            began, read = time.monotonic(), 0
            while piece := phone.recv(200_000):
                read += len(piece)
                due = began + read / 6e6  # two seconds for all
                time.sleep(max(0.0, due - time.monotonic()))
        assert read > len(site.jpeg)
    finally:
        site.server.close()


def test_a_view_that_never_reads_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "IDLE_S", 0.3)
    monkeypatch.setattr(gate, "SWEEP_S", 0.05)
    site = Site()
    try:
        made = [site.connect(LIVE) for _ in range(9)]
        deadline = time.monotonic() + WAIT_S
        while site.status(LIVE) == 503:  # until the heartbeats find that nobody is there
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for connection in made:
            connection.close()
    finally:
        site.server.close()


def test_many_idle_connections_keep_nobody_out(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(site.connect())
        for _ in range(3 * gate.MOST_CONNECTIONS):
            stack.enter_context(site.connect())
        assert site.status(METRICS) == 200
        first.settimeout(WAIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert first.recv(1) == b"", "the oldest idle one went"


def test_who_has_gone_wants_no_answer(site: Site) -> None:
    with site.connect(post(b'{"command":"resume"}')):
        deadline = time.monotonic() + WAIT_S
        while not site.answers:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    deadline = time.monotonic() + WAIT_S
    while not site.answers[0].cancelled():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_connection_of_the_page_is_a_client_of_its_own(site: Site) -> None:
    for _ in range(2):
        assert site.status(post(json.dumps({"command": "status"}).encode())) == 200
    assert len({client for _, _, client in site.asked}) == 2


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_an_address_that_is_no_name_is_told(host: str) -> None:
    live = LiveState(["front"])
    with pytest.raises(EndpointError, match=r"monitor\.web .* cannot be bound"):
        WebServer(
            f"{host}:8080", live, Metrics(live), Preview(lambda camera: Future(), 5, 320),
            token=TOKEN, command=None,
        )  # fmt: skip


def worked(seconds: float) -> float:
    """Uses the processor for so long; how long that was."""
    began_s = time.thread_time()
    while time.thread_time() - began_s < seconds:
        pass
    return seconds


def test_a_flood_of_requests_gets_a_share_of_the_processor() -> None:
    brake = gate.Brake(share=0.2, burst_s=0.02, rest_s=0.05)
    began_s, used_s = time.monotonic(), 0.0
    while time.monotonic() - began_s < 1.0:
        used_s += worked(0.002)
        brake.rest()
    assert used_s < 0.02 + 0.2 * (time.monotonic() - began_s) + 0.01


def test_a_request_after_much_other_work_rests_shortly() -> None:
    """The live views wait for it too."""
    brake = gate.Brake(share=0.2, burst_s=0.02, rest_s=0.05)
    worked(0.3)
    slept_s = time.monotonic() - time.thread_time()
    brake.rest()
    assert 0.04 < time.monotonic() - time.thread_time() - slept_s < 1.0
