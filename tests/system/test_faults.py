"""A short run of each campaign, and inputs that nobody would think of."""

import contextlib
import json
import string
import sys
import tempfile
from pathlib import Path

import msgpack
import pytest
import skimage
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from support import commands

from node.config.load import load_config
from node.config.schema import NodeConfig
from node.errors import ConfigError, MessageError, ModelError
from node.perception.models.model_card import read_card
from node.transport.control_server import decode_request
from perception_client.messages.codec import decode
from perception_client.messages.kinds import Message


def script(name: str, *arguments: str) -> object:
    """What a script prints with --json; it has to say that all held."""
    done = commands.run([sys.executable, f"scripts/{name}", "--json", *arguments], timeout_s=120)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def test_a_short_fault_campaign_holds() -> None:
    kinds = ("stream goes silent", "H.264 cut", "the control")
    only = [word for kind in kinds for word in ("--only", kind)]
    outcomes = script("faults.py", *only, "--messages", "1000")
    assert isinstance(outcomes, list)
    assert len(outcomes) == len(kinds)
    assert all(not outcome["wrong"] for outcome in outcomes)
    assert all(outcome["checked"] for outcome in outcomes)


def test_a_short_soak_with_faults_is_flat() -> None:
    lived = script("soak.py", "--minutes", "0.02")
    assert isinstance(lived, dict)
    assert lived["faults"] >= 1
    assert [slope["name"] for slope in lived["slopes"]][:3] == ["memory", "threads", "descriptors"]


# What arrives on a socket may be anything.

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9)
    | st.binary(max_size=9)
)  # fmt: skip
things = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = ("schema", "node", "camera", "session", "seq", "status", "labels", "detections", "masks",
        "areas", "published_ns", "timing_ns", "model", "image", "state", "cameras", "names", "kind",
        "key", "id", "name", "since_ns", "frame_id", "stamp_ns", "clock", "rss_bytes", "cpu",
        "uptime_s", "subscribers", "latency_ns", "score")  # fmt: skip
TOPICS = st.sampled_from([b"labels/a/", b"events/a/", b"health/a/", b"info/a/", b"x/", b""])


@given(TOPICS, st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_bytes_are_a_message_or_an_error(topic: bytes, body: bytes) -> None:
    _decoded([topic, body])


@given(TOPICS, st.dictionaries(st.sampled_from(KEYS), things, max_size=25))
@settings(max_examples=300, deadline=None)
def test_a_map_is_a_message_or_an_error(topic: bytes, content: dict[str, object]) -> None:
    content["schema"] = 1
    _decoded([topic, msgpack.packb(content)])


def _decoded(parts: list[bytes]) -> None:
    try:
        assert isinstance(decode(parts), Message)
    except MessageError as error:
        text = str(error)
    else:
        return
    assert "\n" not in text


@given(st.binary(max_size=200) | things.map(msgpack.packb))
@settings(max_examples=300, deadline=None)
def test_anything_is_a_request_or_an_error(body: bytes) -> None:
    try:
        decode_request(body)
    except MessageError as error:
        text = str(error)
    else:
        return
    assert "\n" not in text


sections = st.sampled_from([*NodeConfig.model_fields, "camera.0", "camera.x", "nothing", ""])
keys = st.sampled_from(
    ["name", "score", "source", "roi", "regions", "steps", "keys", "top_k", "enter", "calibration"]
) | st.text(string.printable, max_size=9)
values = st.text(string.printable, max_size=12) | st.sampled_from(
    ["1", "-1", "nan", "inf", "[]", "[[0.1, 0.2]]", "{}", "true", '""', "[1, [2, [3]]]", "1e400"]
)


@given(st.lists(st.tuples(sections, keys, values), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_setting_is_taken_or_one_line(changes: list[tuple[str, str, str]]) -> None:
    with contextlib.suppress(ConfigError):
        load_config(None, [f"{section}.{key}={value}" for section, key, value in changes])


@given(st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_file_is_a_configuration_or_one_line(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fuzz.toml"
        file.write_bytes(content)
        for read in (load_config, read_card):
            with contextlib.suppress(ConfigError, ModelError):
                read(file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line_that_says_what_is_there(in_process: Run, tmp_path: Path) -> None:
    picture = Path(skimage.__file__).parent / "data" / "coffee.png"
    done = in_process("label", picture, "--jsonl", "/dev/full")
    assert done.returncode == 1
    assert "/dev/full cannot be written: No space left on device; 0 lines are in it" in done.stderr
