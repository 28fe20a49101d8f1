"""Keys: without the right one no label is received and control refuses; over real CURVE sockets."""

import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from conftest import COMMAND, ROOT, Run, run_in_process

from node.errors import ConfigError
from node.transport.curve import make_server, secured
from perception_client.keys import read_pair
from perception_client.subscriber import Control, Keys, NoAnswerError, NodeGoneError, Subscriber

WAIT_S = 30.0
REFUSED_S = 0.4
TOLD_S = 2.0
"""Within which the handshake that fails has told the client why, on a busy computer too."""


class Guarded:
    """A node that other computers can reach, with keys, and its clients' folders."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.keys = folder / "keys"
        arguments = ("--client", "planner", "--client", "watcher")
        assert run("keys", self.keys, *arguments).returncode == 0
        both = ("--client", "pilot", "--allow", "labels", "--allow", "control")
        assert run("keys", self.keys, *both).returncode == 0
        assert run("keys", self.keys, "--client", "boss", "--allow", "control").returncode == 0
        ports = []
        for _ in range(2):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        self.labels, self.control = (f"tcp://127.0.0.1:{port}" for port in ports)
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--endpoint", f"tcp://0.0.0.0:{ports[0]}", "--set",
             f"control.endpoint=tcp://0.0.0.0:{ports[1]}", "--set", f"wire.keys={self.keys}"],
            cwd=ROOT,
        )  # fmt: skip

    def of(self, client: str) -> Keys:
        return Keys.read(self.keys / "clients" / client)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"), run_in_process)
    with Subscriber(made.labels, keys=made.of("planner")) as subscriber:
        subscriber.require(1.0, timeout_s=WAIT_S)
    yield made
    made.process.terminate()
    assert made.process.wait(10) == 0


@pytest.mark.parametrize("client", ["planner", "pilot"])
def test_who_is_on_the_list_receives_labels_and_events(guarded: Guarded, client: str) -> None:
    with Subscriber(guarded.labels, keys=guarded.keys / "clients" / client) as subscriber:
        assert subscriber.require(1.0, timeout_s=WAIT_S).labels
        assert subscriber.alive


@pytest.mark.parametrize("client", ["pilot", "boss"])
def test_who_is_on_the_other_list_controls(guarded: Guarded, client: str) -> None:
    with Control(guarded.control, keys=guarded.of(client), timeout_s=WAIT_S) as control:
        assert control.status()["model"]["name"] == "efficientnet_lite0"


def test_without_the_right_key_nothing_is_received_and_nothing_is_done(guarded: Guarded) -> None:
    public, secret = zmq.curve_keypair()
    planner = guarded.of("planner")
    stranger = Keys(planner.server, public, secret)
    other_server = Keys(zmq.curve_keypair()[0], planner.public, planner.secret)
    for keys in (None, stranger, other_server, guarded.of("boss")):
        with (
            Subscriber(guarded.labels, keys=keys) as subscriber,
            pytest.raises(NodeGoneError),
        ):
            subscriber.require(60.0, timeout_s=REFUSED_S)
    for keys in (None, stranger, guarded.of("planner"), guarded.of("watcher")):
        with (
            Control(guarded.control, keys=keys, timeout_s=TOLD_S) as control,
            pytest.raises(NoAnswerError, match=r"asks for keys|refuses this client's key"),
        ):
            control.pause()
    with Subscriber(guarded.labels, keys=planner) as subscriber:
        assert subscriber.require(1.0, timeout_s=WAIT_S).status == "ok", "nobody paused it"


def test_watch_says_why_a_node_with_keys_sends_nothing(
    guarded: Guarded, perception_node: Run
) -> None:
    done = perception_node("watch", "--endpoint", guarded.labels, "--timeout", 3)
    assert done.returncode == 1
    assert done.stdout == ""
    *at_once, at_the_end = done.stderr.splitlines()
    assert at_once
    assert all("WARNING" in line for line in at_once)
    assert at_the_end.startswith("error: ")
    assert all("the node asks for keys (wire.keys)" in line for line in (*at_once, at_the_end))


def test_what_travels_cannot_be_read_on_the_way(guarded: Guarded) -> None:
    """A listener between the two sees no label and no topic."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        between = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        with Subscriber(between, keys=guarded.of("planner")) as subscriber:
            listener.settimeout(WAIT_S)
            inward, _ = listener.accept()
            host, port = guarded.labels.removeprefix("tcp://").split(":")
            outward = socket.create_connection((host, int(port)))
            seen = b""
            for end in (inward, outward):
                end.settimeout(0.02)
            deadline = time.monotonic() + WAIT_S
            while subscriber.latest(60.0) is None:
                assert time.monotonic() < deadline
                for source, target in ((inward, outward), (outward, inward)):
                    try:
                        data = source.recv(65536)
                    except TimeoutError:
                        continue
                    seen += data
                    target.sendall(data)
            inward.close()
            outward.close()
    assert b"CURVE" in seen
    assert b"labels" not in seen
    assert b"espresso" not in seen


def test_keys_are_for_their_owner_only_and_names_are_not_taken_twice(
    tmp_path: Path, in_process: Run
) -> None:
    folder = tmp_path / "keys"
    done = in_process("keys", folder, "--client", "arm")
    assert done.returncode == 0, done.stderr
    assert f'keys = "{folder}"' in done.stdout
    assert "move it to the client" in done.stdout
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "server.key", "server.key_secret", "labels/arm.key", "clients/arm/arm.key_secret",
        "clients/arm/server.key",
    }  # fmt: skip
    before = (folder / "server.key_secret").read_text()
    again = in_process("keys", folder, "--client", "arm")
    assert again.returncode == 2
    assert "this client has its keys already" in again.stderr
    assert (folder / "server.key_secret").read_text() == before
    assert in_process("keys", folder, "--client", "../x").returncode == 2


def test_one_more_access_keeps_the_keys_that_a_client_has(tmp_path: Path, in_process: Run) -> None:
    folder = tmp_path / "keys"
    assert in_process("keys", folder, "--client", "arm").returncode == 0
    moved = (folder / "clients" / "arm").rename(tmp_path / "arm")  # to its computer
    done = in_process("keys", folder, "--client", "arm", "--allow", "control")
    assert done.returncode == 0, done.stderr
    assert "may have control as well" in done.stdout
    labels, control = folder / "labels" / "arm.key", folder / "control" / "arm.key"
    assert labels.read_bytes() == control.read_bytes()
    assert not (folder / "clients" / "arm").exists()
    assert stat.S_IMODE(control.stat().st_mode) == 0o600
    again = in_process("keys", folder, "--client", "arm", "--allow", "labels", "--allow", "control")
    assert again.returncode == 2
    assert str(labels) in again.stderr
    assert Keys.read(moved).public == read_pair(control)[0]


def test_without_the_keeper_of_the_list_nobody_is_let_in(tmp_path: Path) -> None:
    make_server(tmp_path)
    server, _ = read_pair(tmp_path / "server.key")
    context = zmq.Context()
    with context.socket(zmq.XPUB) as xpub:
        with secured(context, xpub, tmp_path, "labels"):
            port = xpub.bind_to_random_port("tcp://127.0.0.1")
        for _ in range(5):  # the first may still find a keeper that is going
            with context.socket(zmq.SUB) as stranger:
                Keys(server, *zmq.curve_keypair()).put_on(stranger)
                stranger.subscribe(b"")
                stranger.connect(f"tcp://127.0.0.1:{port}")
                assert not xpub.poll(int(REFUSED_S * 1000) // 4), "a stranger subscribed"
    context.destroy(linger=0)


def test_an_open_address_is_refused_without_keys_or_a_word(in_process: Run, tmp_path: Path) -> None:
    for setting in ("wire.endpoint=tcp://0.0.0.0:5999", "control.endpoint=tcp://*:5998"):
        done = in_process("run", "--set", setting)
        assert done.returncode == 2
        assert "can be reached from other computers" in done.stderr
        assert "perception-node keys FOLDER" in done.stderr
    done = in_process("run", "--set", f"wire.keys={tmp_path}/none")
    assert done.returncode == 2
    assert "server.key_secret: there is no such file" in done.stderr


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, in_process: Run) -> None:
    assert in_process("keys", tmp_path).returncode == 0
    secret = tmp_path / "server.key_secret"
    secret.chmod(0o644)
    done = in_process("run", "--set", f"wire.keys={tmp_path}")
    assert (done.returncode, f"chmod 600 {secret}" in done.stderr) == (2, True)
    secret.chmod(0o600)
    secret.write_text("[curve]\n")
    assert in_process("run", "--set", f"wire.keys={tmp_path}").returncode == 2
    with pytest.raises(ConfigError, match=r"0 files NAME.key_secret"):
        Keys.read(tmp_path)
