"""The message schema: what is written can be read, and nothing else can."""

import dataclasses
import json
import subprocess
import sys
import time

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import MessageError
from node.image.frame import Frame, Stamp
from node.pipeline.message_builder import MessageBuilder
from node.transport.sequencing import LocalSink
from perception_client.messages import clock
from perception_client.messages import labels as messages
from perception_client.messages.codec import decode, encode, to_json, to_map
from perception_client.messages.kinds import (
    MAX_MESSAGE_BYTES,
    ImageSize,
    Label,
    LabelsMessage,
    Message,
    ModelInfo,
    Status,
    Timing,
    topic,
)


def looked(**changes: object) -> LabelsMessage:
    message = LabelsMessage(
        node="robot",
        camera="front",
        session="5e55",
        seq=7,
        status=Status.OK,
        frame_id=9,
        stamp_ns=1_000,
        clock="host",
        stamp_mono_ns=500,
        boot_id="b007",
        published_ns=2_000,
        published_mono_ns=1_500,
        timing_ns=Timing(1, 2, 3, 4, 5),
        dropped=2,
        model=ModelInfo("m", "classify", "torch", "fp32", "cpu", "d16e57"),
        image=ImageSize(640, 480),
        labels=(Label(967, "espresso", 0.9), Label(968, "cup", 0.1)),
    )
    return dataclasses.replace(message, **changes)


def on_the_wire(**changes: object) -> list[bytes]:
    content = to_map(looked())
    for key, value in changes.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    return [topic("labels", "front"), msgpack.packb(content)]


def test_a_message_comes_back_as_it_was() -> None:
    assert decode(encode(looked())) == looked()


def test_json_has_the_fields_of_the_wire() -> None:
    wire = msgpack.unpackb(encode(looked())[1])
    assert json.loads(to_json(looked())) == wire
    assert list(json.loads(to_json(looked(), file="a.jpg")).keys()) == [*wire, "file"]


def test_a_topic_never_matches_a_longer_name() -> None:
    assert topic("labels", "front") == b"labels/front/"
    assert not topic("labels", "front2").startswith(topic("labels", "front"))


def test_unknown_keys_are_ignored() -> None:
    assert decode(on_the_wire(invented_later=[1, 2])) == looked()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": 2}, "schema 2, newer than the 1 read here"),
        ({"schema": ...}, "without a schema number"),
        ({"schema": True}, "without a schema number"),
        ({"seq": ...}, "labels.seq is missing"),
        ({"seq": "7"}, "labels.seq is '7', not int"),
        ({"seq": True}, "labels.seq is True, not int"),
        ({"status": "fine"}, "labels.status is 'fine', none of ok"),
        ({"labels": {"id": 3}}, "labels.labels is dict, not a list"),
        ({"labels": [{"id": 3}]}, "labels.labels.name is missing"),
        ({"labels": [{"id": 3, "name": "x", "score": float("nan")}]}, "labels.labels.score is nan"),
        ({"image": 3}, "labels.image is 3"),
        ({"camera": None}, "labels.camera is None, not str"),
    ],
)
def test_what_is_not_the_schema_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode(on_the_wire(**changes))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "parts",
    [[], [b"labels/front/"], [b"labels/front/", b"\xc1"], [b"labels/front/", b"\x01", b""],
     [b"other/x/", b"\x80"], [b"labels/front/", b"\x93\x01\x02\x03"],
     [b"labels/front/", b"x" * (MAX_MESSAGE_BYTES + 1)]],
)  # fmt: skip
def test_what_is_no_message_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(MessageError):
        decode(parts)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(body: bytes) -> None:
    for head in (b"labels/front/", b"health/robot/", b"info/robot/", body[:10]):
        with pytest.raises(MessageError):
            decode([head, body])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_message_with_one_byte_changed_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(encode(looked())[1])
    index = data.draw(st.integers(0, len(body) - 1))
    body[index] ^= data.draw(st.integers(1, 255))
    try:
        message = decode([b"labels/front/", bytes(body)])
    except MessageError:
        return
    assert isinstance(message, LabelsMessage)


def test_age_is_exact_on_the_same_boot_whatever_the_wall_clock_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    message = looked(
        stamp_ns=time.time_ns() - 10**9,
        stamp_mono_ns=time.monotonic_ns() - 10**9,
        boot_id=messages.boot_id(),
    )
    assert messages.boot_id() is not None
    hour_on = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: hour_on)
    assert message.age_s == pytest.approx(1.0, abs=0.3)
    elsewhere = dataclasses.replace(message, boot_id="another computer")
    assert elsewhere.age_s == pytest.approx(3601.0, abs=1.0)


def suspended(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """As it is after a suspend: CLOCK_MONOTONIC stood still meanwhile."""
    real = messages.boottime_ns
    monkeypatch.setattr(messages, "boottime_ns", lambda: real() + round(seconds * 1e9))


def test_age_counts_the_time_in_which_the_computer_was_suspended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = Frame(np.zeros((4, 4, 3), np.uint8), "front", 0, Stamp.now(), None, 0)
    model = ModelInfo("m", "classify", "torch", "fp32", "cpu", "d")
    messages: list[Message] = []
    sink, message_builder = LocalSink(messages.append), MessageBuilder("robot")
    timing = Timing(0, 0, 0, 0, 0)
    sink.send(message_builder.labels(frame, dropped=0, timing=timing, model=model, labels=()))
    sink.send(message_builder.unavailable("front", Status.STALLED))
    for message in messages:
        assert isinstance(message, LabelsMessage)
        assert message.age_s == pytest.approx(0.0, abs=0.3)
    suspended(monkeypatch, 3600.0)
    for message in messages:
        assert isinstance(message, LabelsMessage)
        assert message.age_s == pytest.approx(3600.0, abs=0.3)
        assert message.deadline_ns is None
    before = dataclasses.replace(messages[0], stamp_boot_ns=None)
    assert before.age_s == pytest.approx(0.0, abs=0.3)  # of a node that does not say it


AGE = """
import sys, time
from perception_client.messages.kinds import LabelsMessage, Status, boot_id
from perception_client.messages.clock import boottime_ns
unix_ns, mono_ns, boot_ns = map(int, sys.argv[1:4])
message = LabelsMessage(
    node="n", camera="c", session="s", seq=0, status=Status.OK, published_ns=unix_ns,
    stamp_ns=unix_ns, clock="host", stamp_mono_ns=mono_ns, stamp_boot_ns=boot_ns,
    boot_id=sys.argv[4],
)
print(message.age_s)
"""


def test_a_time_namespace_of_its_own_has_clocks_of_its_own() -> None:
    """There CLOCK_MONOTONIC counts from elsewhere, with the same boot id of the kernel."""
    stamps = map(str, (time.time_ns(), time.monotonic_ns(), clock.boottime_ns()))
    command = ["unshare", "-T", "--fork", "--boottime", "5000", "--monotonic", "5000"]
    program = [sys.executable, "-c", AGE, *stamps, str(messages.boot_id())]
    try:
        done = subprocess.run([*command, *program], capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if "unshare" in done.stderr:
        pytest.skip(f"no time namespaces here: {done.stderr}")
    assert 0 <= float(done.stdout) < 20


def test_age_without_a_frame_counts_from_publishing() -> None:
    blind = looked(
        status=Status.NO_CAMERA,
        stamp_ns=None,
        clock=None,
        stamp_mono_ns=None,
        timing_ns=None,
        published_mono_ns=time.monotonic_ns() - 2 * 10**9,
        boot_id=messages.boot_id(),
        labels=(),
    )
    assert blind.age_s == pytest.approx(2.0, abs=0.3)
    assert blind.best is None


def test_age_in_a_replay_is_that_of_the_work() -> None:
    replayed = looked(
        clock="media",
        stamp_ns=0,
        stamp_mono_ns=None,
        boot_id=None,
        published_mono_ns=None,
        published_ns=time.time_ns() - 10**8,
        timing_ns=Timing(0, 0, 0, 10**9, 0),
    )
    assert replayed.age_s == pytest.approx(1.1, abs=0.3)
