"""The control socket: a real node in a process of its own, real sockets, real models."""

import contextlib
import functools
import gc
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
import torchvision
import zmq
from conftest import COMMAND, NOBODY, ROOT, Run, run_as

from node.capture.sources.image_files import read_image
from node.config.load import load_config
from node.pipeline.permitted_models import PermittedModels
from node.transport.control_server import (
    MAX_REQUEST_BYTES,
    ControlServer,
    Request,
    Result,
    decode_request,
)
from perception_client.subscriber import (
    Control,
    ControlError,
    LabelsMessage,
    NoAnswerError,
    Subscriber,
)

WAIT_S = 30.0


class Node:
    """A node with two cameras, and where it is reached."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/labels"
        self.control = f"ipc://{folder}/control"
        self.models = folder
        config = folder / "node.toml"
        config.write_text(
            f'[wire]\nendpoint = "{self.endpoint}"\n[control]\nendpoint = "{self.control}"\n'
            f'models = "{folder}"\n'
            '[[camera]]\nname = "left"\n[[camera]]\nname = "right"\nmax_fps = 10.0\n'
        )
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--config", str(config)], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    made = Node(tmp_path_factory.mktemp("node"))
    with Subscriber(made.endpoint) as subscriber:
        until(subscriber, lambda message: message.status == "ok")
    yield made
    made.process.terminate()
    assert made.process.wait(10) == 0


def until(subscriber: Subscriber, condition: object) -> list[LabelsMessage]:
    """All messages up to the first for which the condition holds."""
    seen: list[LabelsMessage] = []
    deadline = time.monotonic() + WAIT_S
    while not (seen and condition(seen[-1])):  # type: ignore[operator]
        assert time.monotonic() < deadline, seen[-5:]
        seen.append(subscriber.receive(WAIT_S)[0])
    return seen


@pytest.fixture
def control(node: Node) -> Iterator[Control]:
    with Control(node.control, timeout_s=WAIT_S) as made:
        yield made


def test_status_tells_health_model_and_settings(control: Control) -> None:
    status = control.status()
    assert status["model"]["name"] == "efficientnet_lite0"
    assert status["model"]["classes"] == 1000
    assert status["settings"]["max_fps"] == {"left": None, "right": 10.0}
    assert {camera["camera"] for camera in status["health"]["cameras"]} == {"left", "right"}


def test_settings_hold_from_the_message_that_the_answer_names(node: Node, control: Control) -> None:
    with Subscriber(node.endpoint, "left") as subscriber:
        until(subscriber, lambda message: message.status == "ok")
        for top_k in (2, 5, 1, 5):
            answer = control.set({"model.top_k": top_k, "smooth.time_constant_s": 0.0})
            seen = until(
                subscriber,
                lambda message, answer=answer: message.seq >= answer.first_seq["left"] + 3,
            )
            for message in seen:
                if message.seq >= answer.first_seq["left"]:
                    assert (len(message.labels), message.settings) == (top_k, answer.settings)
                else:
                    assert message.settings < answer.settings


def test_smoothing_can_be_turned_on_and_off(node: Node, control: Control) -> None:
    with Subscriber(node.endpoint, "left") as subscriber:
        control.set({"smooth.time_constant_s": 0.2})
        until(subscriber, lambda message: message.labels and message.labels[0].stable is not None)
        control.set({"smooth.time_constant_s": 0})
        until(subscriber, lambda message: message.labels and message.labels[0].stable is None)


def test_pause_is_said_at_once_and_no_label_comes_until_resume(
    node: Node, control: Control
) -> None:
    with Subscriber(node.endpoint) as subscriber:
        until(subscriber, lambda message: message.camera == "left" and message.status == "ok")
        answer = control.pause("left")
        seen = until(
            subscriber,
            lambda message: message.camera == "left" and message.seq >= answer.first_seq["left"],
        )
        assert {message.status for message in seen if message.camera == "right"} <= {"ok"}
        paused = [
            message.seq
            for message in seen
            if message.camera == "left" and message.status == "paused"
        ]
        assert paused[0] == answer.first_seq["left"]
        deadline = time.monotonic() + 1.3
        later = [seen[-1]]
        while time.monotonic() < deadline:
            later.append(subscriber.receive(WAIT_S)[0])
        assert {message.status for message in later if message.camera == "left"} == {"paused"}
        assert [
            message for message in later if message.camera == "right" and message.status == "ok"
        ]
        assert control.status()["paused"] == ["left"]
        answer = control.resume()
        resumed = until(
            subscriber, lambda message: message.camera == "left" and message.status == "ok"
        )
        assert resumed[-1].seq >= answer.first_seq["left"]


def test_a_pause_waits_for_no_snapshot(node: Node, control: Control) -> None:
    """Of a camera that is paused there is none for seconds."""
    control.pause("left")

    def ask() -> None:
        with Control(node.control, timeout_s=WAIT_S) as asking, pytest.raises(ControlError):
            asking.snapshot("left")

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    wait_for_threads = time.monotonic() + 0.5
    while time.monotonic() < wait_for_threads:
        control.status()
    started = time.monotonic()
    control.pause("right")
    assert time.monotonic() - started < 2.0
    assert all(thread.is_alive() for thread in asking)
    for thread in asking:
        thread.join(WAIT_S)
    control.resume()


def periods_s(subscriber: Subscriber, first_seq: int, count: int) -> list[float]:
    """Seconds between the frames of some messages, from a number on."""
    seen = until(subscriber, lambda message: message.seq >= first_seq + count)
    stamps = [
        message.stamp_mono_ns
        for message in seen
        if message.seq > first_seq and message.stamp_mono_ns is not None
    ]
    return [float(period_s) for period_s in np.diff(stamps) / 1e9]


def test_a_rate_is_changed_in_flight(node: Node, control: Control) -> None:
    with Subscriber(node.endpoint, "left") as subscriber:
        answer = control.set({"camera.left.max_fps": 2.0})
        slow = periods_s(subscriber, answer.first_seq["left"], 4)
        answer = control.set({"camera.left.max_fps": None})
        fast = periods_s(subscriber, answer.first_seq["left"], 12)
    assert 0.4 < np.median(slow) < 0.7
    assert np.median(fast) < 0.8 * np.median(slow)  # as fast as the model, and this computer, are


def test_a_model_is_changed_while_labels_go_on_and_back(node: Node, control: Control) -> None:
    torch.manual_seed(0)
    weights = node.models / "shufflenet.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), weights)
    with Subscriber(node.endpoint, "left") as subscriber:
        before = until(subscriber, lambda message: message.status == "ok")[-1]
        began = time.monotonic()
        answer = control.model("shufflenet_v2_x0_5", str(weights))
        took_s = time.monotonic() - began
        seen = until(subscriber, lambda message: message.seq >= answer.first_seq["left"] + 2)
        seen = [
            message for message in seen if message.status == "ok"
        ]  # a busy computer may say that it stalls
        for message in seen:
            new = message.seq >= answer.first_seq["left"]
            assert message.model is not None
            assert message.model.name == ("shufflenet_v2_x0_5" if new else "efficientnet_lite0")
        gaps = np.diff([message.stamp_mono_ns for message in (before, *seen)]) / 1e9  # type: ignore[arg-type]
        assert gaps.max() < 1 + took_s / 2, "labels are published while the other model loads"
        assert len(seen) > took_s
        control.model("efficientnet_lite0")
        until(
            subscriber, lambda message: message.model and message.model.name == "efficientnet_lite0"
        )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet1000", "no model has this name; the nearest"),
        ("none.onnx", "there is no such file"),
        ("/none.onnx", "is outside of control.models"),
        ("../none.onnx", "is outside of control.models"),
    ],
)
def test_a_model_that_cannot_be_had_changes_nothing(
    node: Node, control: Control, name: str, reason: str
) -> None:
    settings = control.set({"model.top_k": 5}).settings
    with pytest.raises(ControlError, match=reason):
        control.model(name)
    with Subscriber(node.endpoint, "left") as subscriber:
        message = until(
            subscriber, lambda message: message.status == "ok" and not message.retained
        )[-1]
    assert message.settings == settings
    assert message.model is not None
    assert message.model.name == "efficientnet_lite0"


def test_a_model_that_fails_on_its_first_frames_is_rolled_back(
    node: Node, control: Control
) -> None:
    class FailsOnLight(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean((1, 2, 3)).unsqueeze(1)  # black is -1
            return torch.cat([mean / torch.where(mean < -0.99, 1.0, 0.0), mean], 1)

    file = node.models / "fails.onnx"
    torch.onnx.export(
        FailsOnLight(), (torch.zeros(1, 3, 32, 32),), str(file), dynamo=False,
        input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
    )  # fmt: skip
    card = 'name = "fails"\ntask = "classify"\nlabels = ["a", "b"]\n'
    card += "[input]\nsize = [32, 32]\n"
    file.with_suffix(".toml").write_text(card + "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n")
    with pytest.raises(ControlError, match=r"failed on a frame of camera .*"):
        control.model(str(file))
    with Subscriber(node.endpoint, "left") as subscriber:
        message = until(subscriber, lambda message: message.status == "ok")[-1]
    assert message.model is not None
    assert message.model.name == "efficientnet_lite0"


def test_a_snapshot_is_a_frame_with_its_message(
    node: Node, control: Control, tmp_path: Path
) -> None:
    picture = control.snapshot("right")
    file = tmp_path / "snapshot.jpg"
    file.write_bytes(picture.jpeg)
    image = read_image(file)
    assert picture.message.camera == "right"
    assert picture.message.image is not None
    assert image.shape[:2] == (picture.message.image.height, picture.message.image.width)
    assert picture.message.labels


DEEP = functools.reduce(lambda inner, _: [inner], range(500), list[object]())


@pytest.mark.parametrize(
    ("command", "arguments", "reason"),
    [
        ("fly", {}, "command 'fly': unknown; commands: status, pause"),
        ("pause", {"camera": "up"}, "no camera 'up'; cameras: left, right"),
        ("pause", {"kamera": "left"}, "unknown argument 'kamera'; it takes: camera"),
        ("set", {}, "give settings, a map"),
        ("set", {"settings": {"wire.endpoint": "tcp://*:1"}}, "cannot be changed while"),
        ("set", {"settings": {"detect.score": 7}}, "detect.score = 7: should be less than"),
        ("set", {"settings": {"detect.scoer": 0.7}}, "unknown key .* did you mean score"),
        ("set", {"settings": {"detect.classes": 1}}, "detect.classes = 1"),
        ("set", {"settings": {"detect.score": DEEP}}, "nested too deeply"),
        ("model", {"name": 5}, "name = 5: give a text"),
        ("snapshot", {"quality": 0}, "quality = 0; give 1 to 100"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    control: Control, command: str, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(ControlError, match=reason) as caught:
        control.ask(command, **arguments)
    assert "\n" not in str(caught.value)


def test_all_settings_hold_or_none(node: Node, control: Control) -> None:
    before = control.status()["settings"]
    with pytest.raises(ControlError):
        control.set({"model.top_k": 3, "smooth.enter": 0.1, "smooth.leave": 0.5})
    assert control.status()["settings"] == before


BAD = {
    "nothing": [b""],
    "random": [bytes(range(256))],
    "a list": [msgpack.packb([1, 2])],
    "no command": [msgpack.packb({"id": 1})],
    "too long": [msgpack.packb({"id": 1, "command": "x" * MAX_REQUEST_BYTES})],
    "deep": [msgpack.packb({"command": 1}) * 3],
    "parts": [b"a", b"b", b"c"],
    "schema": [msgpack.packb({"schema": 9, "id": 1, "command": "status"})],
    "ext": [msgpack.packb({"id": 1, "command": "status", "x": msgpack.ExtType(1, b"1")})],
}


@pytest.mark.parametrize("parts", BAD.values(), ids=BAD)
def test_what_is_no_request_gets_an_error_answer(node: Node, parts: list[bytes]) -> None:
    context = zmq.Context()
    with context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(node.control)
        dealer.send_multipart(parts)
        assert dealer.poll(int(WAIT_S * 1000))
        answer = msgpack.unpackb(dealer.recv_multipart()[-1])
        assert answer["ok"] is False
        assert "request" in answer["error"]
    context.term()


def test_a_req_socket_is_answered_too(node: Node) -> None:
    context = zmq.Context()
    with context.socket(zmq.REQ) as req:
        req.linger = 0
        req.connect(node.control)
        req.send(msgpack.packb({"id": 7, "command": "status"}))
        assert req.poll(int(WAIT_S * 1000))
        answer = msgpack.unpackb(req.recv())
        assert (answer["id"], answer["ok"]) == (7, True)
    context.term()


def test_the_command_line_does_the_same(node: Node, in_process: Run, tmp_path: Path) -> None:
    done = in_process("ctl", "--endpoint", node.control, "set", "model.top_k=4")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["first_seq"]) == {"left", "right"}
    unset = ("model.top_k=5", "detect.classes=null", "camera.right.max_fps=null")
    assert in_process("ctl", "--endpoint", node.control, "set", *unset).returncode == 0
    status = json.loads(in_process("ctl", "--endpoint", node.control, "status").stdout)
    assert status["settings"]["max_fps"]["right"] is None
    file = tmp_path / "right.jpg"
    done = in_process("ctl", "--endpoint", node.control, "snapshot", file, "--camera", "right")
    assert json.loads(done.stdout)["camera"] == "right"
    assert file.read_bytes()[:2] == b"\xff\xd8"
    png = in_process("ctl", "--endpoint", node.control, "snapshot", tmp_path / "right.png")
    assert (png.returncode, (tmp_path / "right.png").exists()) == (2, False)
    assert f"name it {file}" in png.stderr
    for verb, paused in (("pause", ["left"]), ("resume", [])):
        done = in_process("ctl", "--endpoint", node.control, verb, "--camera", "left")
        assert done.returncode == 0, done.stderr
        status = json.loads(in_process("ctl", "--endpoint", node.control, "status").stdout)
        assert status["paused"] == paused
    done = in_process("ctl", "--endpoint", node.control, "pause", "left", "--camera", "right")
    assert "left and --camera right are two cameras" in done.stderr
    done = in_process("ctl", "--endpoint", node.control, "pause", "up")
    assert (done.returncode, done.stderr) == (1, "error: no camera 'up'; cameras: left, right\n")
    done = in_process("ctl", "--endpoint", f"{node.control}x", "--timeout", "0.2", "status")
    assert done.returncode == 1
    assert "is the node running, with control.endpoint set to this" in done.stderr


def test_a_client_that_never_reads_its_answers_holds_nobody(node: Node, control: Control) -> None:
    context = zmq.Context()
    with context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.rcvhwm = 1
        dealer.connect(node.control)
        for number in range(500):
            dealer.send(msgpack.packb({"id": number, "command": "status"}))
        assert control.status()["model"]["name"] == "efficientnet_lite0"
    context.term()


def test_no_answer_is_an_error_of_its_own(tmp_path: Path) -> None:
    with Control(f"ipc://{tmp_path}/nobody", timeout_s=0.1) as nobody:
        for ask in (nobody.status, lambda: nobody.model("resnet18"), lambda: nobody.record("stop")):
            with pytest.raises(NoAnswerError, match=r"no answer for 0.1 s"):
                ask()


def test_a_request_whose_answer_was_given_up_is_not_carried_out_later(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/control"
    context = zmq.Context()
    with Control(endpoint, timeout_s=0.1) as control, context.socket(zmq.ROUTER) as node_to_come:
        with pytest.raises(NoAnswerError):
            control.pause()
        node_to_come.bind(endpoint)
        with pytest.raises(NoAnswerError):
            control.ask("status", timeout_s=1.0)
        assert node_to_come.poll(int(WAIT_S * 1000), zmq.POLLIN)
        assert decode_request(node_to_come.recv_multipart()[-1]).command == "status"
    context.term()


def test_settings_that_are_changed_while_a_model_is_loaded_hold_with_it(
    node: Node, control: Control
) -> None:
    context = zmq.Context()
    with context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(node.control)
        model = {"name": "efficientnet_lite0"}
        for number, (command, arguments) in enumerate(
            (("model", model), ("set", {"settings": {"model.top_k": 2}}))
        ):
            dealer.send(msgpack.packb({"id": number, "command": command, "arguments": arguments}))
        order = []
        while len(order) < 2:
            assert dealer.poll(int(WAIT_S * 1000), zmq.POLLIN)
            answer = msgpack.unpackb(dealer.recv())
            assert answer["ok"], answer
            order.append(answer["id"])
    context.term()
    assert order == [1, 0], "the setting was changed while the model was loaded"
    assert control.status()["settings"]["model.top_k"] == 2
    with Subscriber(node.endpoint, "left") as subscriber:
        seen = until(subscriber, lambda message: message.status == "ok" and not message.retained)
    assert len(seen[-1].labels) == 2
    control.set({"model.top_k": 5})


def test_a_request_is_what_it_says() -> None:
    request = decode_request(msgpack.packb({"id": 3, "command": "pause", "arguments": {"a": 1}}))
    assert (request.id, request.command, dict(request.arguments)) == (3, "pause", {"a": 1})
    assert sys.getsizeof(request) < 200


ASK = """
with Control({endpoint!r}, timeout_s=0.5) as control:
    try:
        print("answered", control.ask("status").result)
    except NoAnswerError as error:
        print("silence", error)
"""


def answer_ok(request: Request) -> "Future[Result]":
    answer: Future[Result] = Future()
    answer.set_result(Result(7))
    return answer


def ask_as(uid: int | None, endpoint: str) -> str:
    imports = "from node.client import Control, NoAnswerError"
    return run_as(uid, imports, ASK.format(endpoint=endpoint))


@pytest.fixture(params=["tcp", "tcp6", "localhost", "ipc", "abstract"])
def without_keys(request: pytest.FixtureRequest, tmp_path: Path, tcp: str) -> str:
    """A control endpoint that asks for no keys."""
    tmp_path.chmod(0o755)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o011)
    port = tcp.rpartition(":")[2]
    return {
        "tcp": tcp,
        "tcp6": f"tcp://[::1]:{port}",
        "localhost": f"tcp://localhost:{port}",
        "ipc": f"ipc://{tmp_path}/control",
        "abstract": f"ipc://@control-{tmp_path.name}-{os.getpid()}",
    }[str(request.param)]


def test_without_keys_only_the_nodes_own_user_is_answered(
    without_keys: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = ControlServer(without_keys, answer_ok)
    try:
        if without_keys.startswith("ipc:///"):
            file = Path(without_keys.removeprefix("ipc://"))
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert ask_as(None, without_keys).startswith("answered")
        assert "its own user and root only" in ask_as(NOBODY, without_keys)
        assert ask_as(None, without_keys).startswith("answered"), "it goes on"
        if without_keys.startswith("tcp"):
            assert "uid 65534 is not the node's user" in caplog.text
            assert "perception-node keys" in caplog.text
    finally:
        server.close()
    with Control(without_keys, timeout_s=0.1) as control, pytest.raises(NoAnswerError):
        control.status()


def test_insecure_lets_every_user_control(tcp: str) -> None:
    server = ControlServer(tcp, answer_ok, insecure=True)
    try:
        assert ask_as(NOBODY, tcp).startswith("answered")
    finally:
        server.close()


def test_strangers_cost_the_owner_nothing(tcp: str) -> None:
    """Neither those who are refused, nor those who connect and say nothing, nor those who send and
    do not read."""
    host, port = "127.0.0.1", int(tcp.rpartition(":")[2])
    server = ControlServer(tcp, answer_ok)
    flood = (
        "import time; end = time.monotonic() + 2; n = 0\n"
        "while time.monotonic() < end:\n"
        f" s = socket.create_connection(('{host}', {port})); n += 1\n"
        " s.setblocking(False)\n"
        "print(n)"
    )
    try:
        with (
            ThreadPoolExecutor(1) as workers,
            contextlib.ExitStack() as stack,
            Control(tcp, timeout_s=5.0) as control,
        ):
            for _ in range(20):
                stack.enter_context(socket.create_connection((host, port)))
            refused = workers.submit(run_as, NOBODY, "import encodings.idna, socket", flood)
            slowest_s = 0.0
            while not refused.done():
                began = time.monotonic()
                assert control.ask("status").settings == 7
                slowest_s = max(slowest_s, time.monotonic() - began)
            assert int(refused.result()) > 100
            assert slowest_s < 4.0  # the hostile campaign measures it against its bound
    finally:
        server.close()


def test_a_large_answer_waits_for_one_who_does_not_read(tcp: str) -> None:
    """And is whole: what passes through the gate is bounded, not cut."""

    def large(request: Request) -> "Future[Result]":
        answer: Future[Result] = Future()
        answer.set_result(Result(1, result={"x": bytes(8_000_000)}))
        return answer

    server = ControlServer(tcp, large)
    try:
        with Control(tcp, timeout_s=5.0) as control, Control(tcp, timeout_s=5.0) as other:
            control._socket.poll(5000, zmq.POLLOUT)
            control._socket.send(msgpack.packb({"id": 9, "command": "status"}))
            assert len(other.ask("status").result["x"]) == 8_000_000
            assert control._socket.poll(5000)
            assert len(control._socket.recv()) > 8_000_000
    finally:
        server.close()


def test_a_client_that_never_reads_its_answers_takes_a_bounded_memory(tcp: str) -> None:
    """And others have theirs, large ones too."""
    size = 12_000_000
    references: list[weakref.ref[Future[Result]]] = []

    def large(request: Request) -> "Future[Result]":
        answer: Future[Result] = Future()
        answer.set_result(Result(1, result={"x": bytes(size)}))
        references.append(weakref.ref(answer))
        return answer

    server = ControlServer(tcp, large)
    try:
        with (
            zmq.Context() as context,
            context.socket(zmq.DEALER) as greedy,
            Control(tcp, timeout_s=WAIT_S) as other,
        ):
            greedy.rcvhwm = 1  # or its own memory would take them all
            greedy.linger = 0
            greedy.connect(tcp)
            gc.disable()  # what is kept in a circle stays
            for number in range(20):
                greedy.send(msgpack.packb({"id": number, "command": "status"}))
            deadline = time.monotonic() + WAIT_S
            while len(references) < 20:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert len(other.ask("status").result["x"]) == size
            assert sum(reference() is not None for reference in references) <= 1
            answers = []
            while greedy.poll(1000):
                answers.append(msgpack.unpackb(greedy.recv()))
            assert len(answers) == 20
            # What the kernel and the relay hold on the way counts as read.
            assert 1 <= sum(answer["ok"] for answer in answers) <= 12
            assert all("not read yet" in answer["error"] for answer in answers if not answer["ok"])
            greedy.send(msgpack.packb({"id": 20, "command": "status"}))
            assert greedy.poll(int(WAIT_S * 1000))
            assert msgpack.unpackb(greedy.recv())["ok"], "it reads again"
    finally:
        gc.enable()
        server.close()


def test_a_folder_that_is_made_while_a_control_socket_is_bound_can_be_used(tmp_path: Path) -> None:
    """A recording's, for one: the mask is the process's."""
    modes: list[int] = []
    stop = threading.Event()

    def make() -> None:
        while not stop.is_set():
            folder = tmp_path / f"made-{len(modes)}"
            folder.mkdir()
            modes.append(stat.S_IMODE(folder.stat().st_mode))

    with ThreadPoolExecutor(1) as workers:
        making = workers.submit(make)
        for number in range(40):
            ControlServer(f"ipc://{tmp_path}/control-{number}", answer_ok).close()
        stop.set()
        making.result(WAIT_S)
    assert all(mode & 0o700 == 0o700 for mode in modes)


def test_a_request_names_models_of_the_catalogue_and_of_the_folder_only(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    for folder in (models, outside):
        folder.mkdir()
        (folder / "a.onnx").touch()
        (folder / "a.pth").touch()
    (models / "out.onnx").symlink_to(outside / "a.onnx")
    (tmp_path / "models2").mkdir()
    own = [f"model.name={outside}/own.onnx", f"control.models={models}"]
    permitted = PermittedModels(load_config(None, own))
    for name in ("resnet18", "efficientnet_lite0", f"{outside}/own.onnx"):
        assert permitted.model(name) == name
    for name in ("a.onnx", f"{models}/a.onnx", "../models/a.onnx"):
        assert permitted.model(name) == str(models / "a.onnx")
    assert permitted.weights("a.pth") == str(models / "a.pth")
    for name in (
        "out.onnx", "../outside/a.onnx", f"{outside}/a.onnx", "/a.ONNX",
        f"{tmp_path}/models2/a.onnx", "~/a.onnx\0.onnx", f"{models}/../outside/a.xml",
    ):  # fmt: skip
        with pytest.raises(ControlError, match=r"outside of control\.models"):
            permitted.model(name)
    with pytest.raises(ControlError, match=r"outside of control\.models"):
        permitted.weights(f"{outside}/a.pth")
    without = PermittedModels(load_config(None, []))
    for refuse in (without.model, without.weights):
        with pytest.raises(ControlError, match="name the folder of your own in control"):
            refuse(f"{models}/a.onnx")
