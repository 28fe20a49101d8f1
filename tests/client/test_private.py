"""What other users of this computer can do to a node: to its keys, its socket files, and what it
downloads."""

import os
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from conftest import NOBODY, run_in_process

from node.config.load import load_config
from node.config.schema import NodeConfig
from node.diagnostics.doctor import endpoint_finding
from node.errors import ConfigError, EndpointError, ModelError
from node.perception.models import download, http_download
from node.transport.control_server import ControlServer, Result
from node.transport.curve import make_client, make_server, server_pair
from node.transport.publisher import Publisher
from node.web.server import read_token
from perception_client.endpoint import address_of
from perception_client.subscriber import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A node's folder of keys, with one client."""
    folder = tmp_path / "above" / "keys"
    make_server(folder)
    make_client(folder, "arm", ["labels"])
    return folder


OPENED = ["keys", "keys/labels", "keys/labels/arm.key", "keys/server.key_secret", "."]


@pytest.mark.parametrize("path", OPENED)
def test_keys_that_everybody_can_write_to_are_refused(keys: Path, path: str) -> None:
    server_pair(keys)
    opened = keys.parent / path
    opened.chmod(0o777 if opened.is_dir() else 0o666)
    with pytest.raises(ConfigError, match=f"{opened.name}.*: other users can") as caught:
        Publisher(f"ipc://{keys}/wire", keys=keys)
    assert "chmod" in str(caught.value)


@pytest.mark.parametrize("path", ["keys/labels", "keys/server.key_secret", "."])
def test_keys_of_another_user_are_refused(keys: Path, path: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(keys.parent / path, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="belongs to another user"):
        Publisher(f"ipc://{keys}/wire", keys=keys)


def test_a_folder_that_only_owners_may_remove_from_may_be_above(keys: Path) -> None:
    keys.parent.chmod(0o1777)
    server_pair(keys)
    Keys.read(keys / "clients" / "arm")


@pytest.mark.parametrize("path", ["arm", "arm/server.key", "arm/arm.key_secret"])
def test_a_client_refuses_keys_that_others_can_change(keys: Path, path: str) -> None:
    folder = keys / "clients" / "arm"
    Keys.read(folder)
    opened = keys / "clients" / path
    opened.chmod(0o777 if opened.is_dir() else 0o666)
    with pytest.raises(ConfigError, match="other users can"):
        Keys.read(folder)


def test_a_token_in_a_folder_of_everybody_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "folder" / "token"
    token.parent.mkdir(0o700)
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    assert read_token(token) == "0123456789abcdef"
    token.parent.chmod(0o777)
    with pytest.raises(ConfigError, match=r"token_file .*folder: other users can write"):
        read_token(token)


def labels(endpoint: str) -> None:
    Publisher(endpoint).close()


def control(endpoint: str) -> None:
    answer: Future[Result] = Future()
    ControlServer(endpoint, lambda request: answer).close()


def checked(endpoint: str) -> None:
    finding = endpoint_finding("endpoint", endpoint)
    if finding.verdict == "wrong":
        assert finding.fix
        raise EndpointError(f"{finding.found}; {finding.fix}")


def run_node(endpoint: str) -> None:
    done = run_in_process("run", "--source", "demo", "--endpoint", endpoint)
    assert done.returncode == 2
    raise EndpointError(done.stderr)


@pytest.mark.parametrize("use", [labels, control, checked, run_node])
def test_a_path_that_ends_early_for_libzmq_names_no_other_file(use: object, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    with pytest.raises(EndpointError, match="zero byte"):
        use(f"ipc://{precious}\0.sock")  # type: ignore[operator]
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("use", [labels, control, checked, run_node])
@pytest.mark.parametrize("kind", ["file", "empty", "link to a file", "dead link", "folder", "fifo"])
def test_what_is_no_socket_is_left_alone(use: object, kind: str, tmp_path: Path) -> None:
    path, behind = tmp_path / "thing", tmp_path / "behind"
    behind.write_text("precious")
    match kind:
        case "file" | "empty":
            path.write_text("precious" if kind == "file" else "")
        case "link to a file" | "dead link":
            path.symlink_to(behind if kind == "link to a file" else tmp_path / "nowhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(EndpointError, match="exists and is no socket; choose another path"):
        use(f"ipc://{path}")  # type: ignore[operator]
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (
        before.st_ino, before.st_mode, before.st_size,
    )  # fmt: skip
    assert behind.read_text() == "precious"


@pytest.mark.parametrize("use", [labels, control, checked])
def test_the_socket_of_a_killed_process_is_no_hindrance(use: object, tmp_path: Path) -> None:
    path = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    use(f"ipc://{path}")  # type: ignore[operator]
    assert path.exists() is (use is checked), "only the doctor leaves it as it is"


@pytest.mark.parametrize("use", [labels, control, checked])
def test_a_socket_that_is_too_busy_to_be_asked_is_in_use(use: object, tmp_path: Path) -> None:
    path = tmp_path / "busy"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = []
        for _ in range(3):  # its queue is full then
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(path))
            waiting.append(client)
        inode = path.lstat().st_ino
        with pytest.raises(EndpointError, match="is in use"):
            use(f"ipc://{path}")  # type: ignore[operator]
        assert path.lstat().st_ino == inode
        for client in waiting:
            client.close()


def test_a_node_that_ends_leaves_the_socket_of_the_next_alone(tmp_path: Path) -> None:
    path = tmp_path / "wire"
    first = Publisher(f"ipc://{path}")
    path.unlink()  # somebody tidied up
    second = Publisher(f"ipc://{path}")
    first.close()
    assert path.is_socket()
    with pytest.raises(EndpointError, match="is in use"):
        Publisher(f"ipc://{path}")
    second.close()
    assert not path.exists()


def test_the_doctor_leaves_nothing_behind(tmp_path: Path) -> None:
    checked(f"ipc://{tmp_path}/labels")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EndpointError, match="is no folder that this user may write to"):
        checked(f"ipc://{tmp_path}/none/labels")


def test_localhost_is_this_computer_whatever_the_name_leads_to(
    tcp: str,
) -> None:
    """The sockets are bound to the number, so that no name is looked up."""
    port = tcp.rpartition(":")[2]
    assert address_of(f"tcp://localhost:{port}") == tcp
    for other in ("tcp://localhost.example:1", "ipc://localhost:1", "tcp://robot:1"):
        assert address_of(other) == other
    publisher = Publisher(f"tcp://localhost:{port}")
    try:
        with socket.socket() as there, pytest.raises(OSError, match="Address already in use"):
            there.bind(("127.0.0.1", int(port)))
    finally:
        publisher.close()
    assert isinstance(load_config(None, ['monitor.web="localhost:1"']), NodeConfig)
    with pytest.raises(ConfigError, match="other computers"):
        load_config(None, ['monitor.web="localhost.example:1"'])


class Redirecting:
    """A server, encrypted or not, that sends on whoever asks for /to?ADDRESS."""

    def __init__(self, certificate: Path | None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, to = self.path.partition("?")
                if path == "/to.pth":
                    self.send_response(302)
                    self.send_header("Location", to)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", "7")
                self.end_headers()
                self.wfile.write(b"weights")

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Redirecting, Redirecting]]:
    """One over https, one over http, and downloads that trust the first."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here, which makes the certificate")
    certificate = tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", certificate, "-out", tmp_path / "public.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    public = tmp_path / "public.pem"
    certificate.write_text(certificate.read_text() + public.read_text())
    trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(public)))
    opener = urllib.request.build_opener(http_download._StaysEncrypted, trust)
    monkeypatch.setattr(http_download, "_OPENER", opener)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    made = Redirecting(certificate), Redirecting(None)
    yield made
    for server in made:
        server.close()


def test_a_download_is_not_sent_on_from_https_to_http(
    servers: tuple[Redirecting, Redirecting],
) -> None:
    safe, plain = servers
    for url in (
        f"{safe.url}/to.pth?{plain.url}/x",
        f"{safe.url}/to.pth?{safe.url}/to.pth?{plain.url}/x",
        f"{safe.url}/to.pth?ftp://127.0.0.1/x",
    ):
        with pytest.raises(ModelError, match="from https to an address that is not"):
            download.fetched(url, "net")
        assert not download.is_here(url)
    file = download.fetched(f"{safe.url}/to.pth?{safe.url}/x", "net")
    assert file.read_bytes() == b"weights"


def test_a_download_has_an_end(
    servers: tuple[Redirecting, Redirecting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_download, "MOST_BYTES", 6)
    with pytest.raises(ModelError, match="7 bytes; at most 6 are taken"):
        download.fetched(f"{servers[1].url}/x.pth", "net")
