"""The quick readers accept what the strict ones accept, and give the same."""

import math
from random import Random
from typing import Any

import msgpack
import pytest

from node.errors import MessageError
from perception_client.messages import codec
from perception_client.messages.calibration import Calibration
from perception_client.messages.codec import decode, encode, from_map
from perception_client.messages.events import EventMessage
from perception_client.messages.health import CameraHealth, HealthMessage, Latency
from perception_client.messages.info import InfoMessage
from perception_client.messages.kinds import (
    Area,
    Box,
    Detection,
    ImageSize,
    Label,
    LabelsMessage,
    Mask,
    Message,
    ModelInfo,
    Pose,
    Status,
    Timing,
)
from perception_client.messages.quick_reader import quick_reader

MODEL = ModelInfo("m", "classify", "torch", "fp32", "cpu", "d16e57")
BOX = Box(1.0, 2.5, 3.0, 4.0)
POSE = Pose((0.1, 0.2, 1.5), (0.0, 0.0, 0.0, 1.0), 0.2, 0.1)
EVERY_KIND: dict[str, Message] = {
    "labels": LabelsMessage(
        node="robot", camera="vornä", session="5e55", seq=7, status=Status.OK, frame_id=9,
        degraded=("slow",), stamp_ns=1_000, published_ns=2_000, timing_ns=Timing(1, 2, 3, 4, 5),
        model=MODEL, image=ImageSize(640, 480), labels=(Label(967, "espresso", 0.9, True, 12),),
        detections=(
            Detection(1, "cup", 0.5, BOX, 3, (Label(1, "red", 0.2),)),
            Detection(7, "tag:7", 1.0, BOX, corners=((1.0, 2.0), (3.0, 4.0)), pose=POSE),
        ),
        areas=(Area(0, "road", 0.25),), masks=(Mask(0, "road", 2, 2, BOX, (1, 3)),),
    ),
    "health": HealthMessage(
        node="robot", session="5e55", seq=1, published_ns=5, state="running", rss_bytes=None,
        cameras=(
            CameraHealth(
                camera="front", status=Status.STALLED, fps=30.0, width=640, height=None,
                pixel_format="MJPG", newest_frame_age_s=0.5, frames=3, dropped=0, reconnects=0,
                last_error=None,
            ),
        ),
        latency_ns=Latency(p50=1, p99=2, maximum=3), cpu=0.5, uptime_s=12.0, subscribers=2,
    ),
    "info": InfoMessage(
        node="robot", session="5e55", seq=1, published_ns=5, model=MODEL, names=("a", "b"),
        calibrations=(Calibration("front", 640, 480, 500.0, 500.0, 320.0, 240.0, (0.1, 0.2)),),
    ),
    "events": EventMessage(
        node="robot", camera="front", session="5e55", seq=1, kind="appeared", key="k", id=3,
        name="cup", score=0.5, box=BOX, since_ns=3, frame_id=4, stamp_ns=None, clock=None,
        published_ns=9,
    ),
}  # fmt: skip
ODD = (
    None, True, False, 0, 1, -1, 2**63, 2**64, -(2**70), 0.0, 1.5, math.nan, math.inf, "", "ok",
    "Käse", "\ud800", b"ok", [], ["a"], [1], {}, {"id": 1}, (1, 2),
)  # fmt: skip


def damaged(content: Any, random: Random) -> Any:
    """The same map with one value, at any depth, replaced, removed or added."""
    if isinstance(content, dict) and content and random.random() < 0.9:
        key, how = random.choice(list(content)), random.random()
        if how < 0.1:
            return {name: value for name, value in content.items() if name != key}
        if how < 0.2:
            return {**content, "unknown": random.choice(ODD)}
        return {**content, key: damaged(content[key], random)}
    if isinstance(content, list) and content and random.random() < 0.7:
        index = random.randrange(len(content))
        return [*content[:index], damaged(content[index], random), *content[index + 1 :]]
    return random.choice(ODD)


def read(kind: str, content: Any) -> str:
    try:
        return repr(from_map(kind, content))
    except MessageError as error:
        return f"refused: {error}"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_quick_reader_reads_as_the_strict_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(kind)
    usual = msgpack.unpackb(encode(EVERY_KIND[kind])[1])
    maps = [usual, *(damaged(usual, random) for _ in range(3000))]
    codec._class_reader.cache_clear()
    quick = [read(kind, content) for content in maps]
    monkeypatch.setattr(codec, "quick_reader", lambda cls, hints, reader_of, strict: strict)
    codec._class_reader.cache_clear()
    try:
        strict = [read(kind, content) for content in maps]
    finally:
        codec._class_reader.cache_clear()
    assert quick == strict
    assert quick[0] == repr(EVERY_KIND[kind])
    refused = sum(result.startswith("refused") for result in quick)
    assert 300 < refused < 2900, "both ways are tested"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_what_a_node_sends_is_read_quickly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unusual: list[object] = []

    def watched(cls: type, hints: dict[str, Any], reader_of: Any, strict: Any) -> Any:
        def noted(raw: Any) -> Any:
            unusual.append(raw)
            return strict(raw)

        return quick_reader(cls, hints, reader_of, noted)

    monkeypatch.setattr(codec, "quick_reader", watched)
    codec._class_reader.cache_clear()
    try:
        read(kind, msgpack.unpackb(encode(EVERY_KIND[kind])[1]))
    finally:
        codec._class_reader.cache_clear()
    assert unusual == []


def test_a_model_that_changes_is_read_anew() -> None:
    content = msgpack.unpackb(encode(EVERY_KIND["labels"])[1])
    first, again = (from_map("labels", content) for _ in range(2))
    assert isinstance(first, LabelsMessage)
    assert isinstance(again, LabelsMessage)
    assert first.model is again.model == MODEL
    other = from_map("labels", {**content, "model": {**content["model"], "precision": "bf16"}})
    assert isinstance(other, LabelsMessage)
    assert other.model is not None
    assert other.model.precision == "bf16"
    assert read("labels", {**content, "model": {**content["model"], "name": b"m"}}).startswith(
        "refused: labels.model.name is b'm', not str"
    )


@pytest.mark.parametrize("levels", [300, 1010, 1020, 2000])
@pytest.mark.parametrize("path", [("node",), ("status",), ("labels",), ("model", "name")])
def test_a_value_nested_too_deeply_is_refused(path: tuple[str, ...], levels: int) -> None:
    topic, body = with_nested(path, levels)
    with pytest.raises(MessageError):
        decode([topic, body])


@pytest.mark.parametrize("path", [("unknown",), ("model", "unknown")])
def test_an_unknown_field_is_ignored_however_deeply_nested(path: tuple[str, ...]) -> None:
    for _ in range(3):
        message = decode(with_nested(path, 1010))
        assert isinstance(message, LabelsMessage)
        assert message.model == MODEL


def with_nested(path: tuple[str, ...], levels: int) -> list[bytes]:
    """A labels message with lists within lists at a path."""
    topic, body = encode(EVERY_KIND["labels"])
    content = msgpack.unpackb(body)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "here"
    nested = b"\x91" * levels + b"\xc0"
    return [topic, msgpack.packb(content).replace(msgpack.packb("here"), nested)]


def test_a_map_that_its_owner_changes_is_read_anew() -> None:
    content = msgpack.unpackb(encode(EVERY_KIND["labels"])[1])
    names = []
    for name in ("first", "second"):
        content["model"]["name"] = name
        message = from_map("labels", content)
        assert isinstance(message, LabelsMessage)
        assert message.model is not None
        names.append(message.model.name)
    assert names == ["first", "second"]
