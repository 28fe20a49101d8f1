"""Other languages: the schema file against a real node's messages, and the subscribers in C++ and
JavaScript, built and run against it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import msgpack
import pytest
import zmq
from conftest import COMMAND, ROOT, stop

from perception_client.subscriber import Control, Status, Subscriber

CLIENTS = ROOT / "scripts" / "clients"
SCHEMA = ROOT / "config" / "messages.schema.json"
WAIT_S = 60.0


class Robot:
    """A node that can be controlled."""

    def __init__(self, folder: Path) -> None:
        self.labels, self.control = f"ipc://{folder}/labels", f"ipc://{folder}/control"
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--source", "demo", "--endpoint", self.labels,
             "--set", f'control.endpoint="{self.control}"', "--set", "smooth.time_constant_s=0.2"],
            cwd=ROOT,
        )  # fmt: skip


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    robot = Robot(tmp_path_factory.mktemp("robot"))
    with Subscriber(robot.labels, timeout_s=WAIT_S) as subscriber:
        while subscriber.receive(WAIT_S)[0].status is not Status.OK:
            pass
    yield robot
    stop(robot.process)


def schema_of(kind: str) -> dict[str, object]:
    document = json.loads(SCHEMA.read_text())
    return {"$schema": document["$schema"], **document["$defs"][kind]}


def received(robot: Robot, enough: set[str]) -> dict[str, list[dict[str, object]]]:
    """Messages as they are on the wire, by kind, until there is one of each that is wanted."""
    by_kind: dict[str, list[dict[str, object]]] = {}
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(b"")
        socket.connect(robot.labels)
        while not enough <= set(by_kind):
            assert socket.poll(WAIT_S * 1000), f"only {set(by_kind)} came"
            topic, body = socket.recv_multipart()
            by_kind.setdefault(topic.decode().partition("/")[0], []).append(msgpack.unpackb(body))
    return by_kind


def test_the_schema_file_is_what_the_messages_are() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "schema.py", "--check"], timeout=60, check=False
    )
    assert done.returncode == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))


def test_real_messages_keep_to_the_schema(robot: Robot) -> None:
    by_kind = received(robot, {"labels", "events", "health", "info"})
    with Control(robot.control) as control:
        control.pause()
        by_kind["labels"] += received(robot, {"labels"})["labels"]
        control.resume()
    assert {message["status"] for message in by_kind["labels"]} == {"ok", "paused"}
    whole = json.loads(SCHEMA.read_text())
    for kind, messages in by_kind.items():
        for message in messages:
            jsonschema.validate(message, schema_of(kind))
            jsonschema.validate(message, whole)
            for key in message:  # the file knows all that is sent
                assert key in schema_of(kind)["properties"], (kind, key)


@pytest.mark.parametrize(
    ("key", "value"), [("status", "blind"), ("seq", "7"), ("labels", None), ("camera", ...)]
)
def test_the_schema_refuses_what_is_no_message(robot: Robot, key: str, value: object) -> None:
    (message, *_) = received(robot, {"labels"})["labels"]
    message[key] = value
    if value is ...:
        del message[key]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(message, schema_of("labels"))


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The subscriber in C++, built."""
    headers = [Path("/usr/include", name) for name in ("zmq.hpp", "msgpack.hpp")]
    if not (
        shutil.which("cmake") and shutil.which("g++") and all(header.exists() for header in headers)
    ):
        pytest.skip("no toolchain (apt-get install g++ cmake cppzmq-dev libmsgpack-cxx-dev)")
    build = tmp_path_factory.mktemp("cpp")
    for arguments in (["-S", CLIENTS / "cpp", "-B", build], ["--build", build]):
        done = subprocess.run(
            ["cmake", *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return [str(build / "subscriber")]


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The subscriber in JavaScript, with its packages."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no Node.js with npm here")
    folder = tmp_path_factory.mktemp("js")
    for file in ("package.json", "package-lock.json", "subscriber.mjs"):
        shutil.copy(CLIENTS / "js" / file, folder)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.skip(f"npm cannot install the packages here: {done.stderr[-300:]!r}")
    return ["node", str(folder / "subscriber.mjs")]


@pytest.mark.parametrize("language", ["cpp", "javascript"])
def test_a_subscriber_in_another_language(
    language: str, robot: Robot, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    command = request.getfixturevalue(language)

    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    lonely = subprocess.Popen(
        [*command, f"ipc://{tmp_path}/nobody", "", "1"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = told(robot.labels, "camera", "5")
    assert seen.returncode == 0, seen.stderr
    lines = [line for line in seen.stdout.splitlines() if "  ok  " in line]
    assert len(lines) >= 5
    ages_ms = [float(line.partition("  ok  ")[2].partition(" ms")[0]) for line in lines]
    assert all(0 < age < 5000 for age in ages_ms)
    assert any(name in seen.stdout for name in ("espresso", "tripod", "moped", "cat"))

    with Control(robot.control) as control:
        control.pause()
        blind = told(robot.labels, "camera", "2")
        control.resume()
    assert "camera  not looking" in blind.stdout
    assert "nothing seen" not in blind.stdout

    out, error = lonely.communicate(timeout=WAIT_S)
    assert lonely.returncode == 1
    assert "stop: no fresh message" in out
    assert "is the node running" in error

    wrong = told(robot.labels, "camera", "few")
    assert (wrong.returncode, wrong.stderr.strip()) == (2, "COUNT few is no number of messages")
