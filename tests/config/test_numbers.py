"""Numbers: each is refused in one line, or everything that is made of it can be made."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import msgpack
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import run_in_process
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from node.capture.cadence import Cadence
from node.capture.frozen import period_s
from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.rate import MediaClock, RateLimit
from node.capture.sources.base import SourceFacts
from node.capture.sources.device import timeout_ms
from node.cli.options import Number
from node.config.load import load_config
from node.config.polygon import check_polygon
from node.config.schema import NodeConfig
from node.errors import ConfigError, MessageError, ModelError
from node.perception.models.model_card import read_card
from node.perception.temporal.smoothing import Smoother
from node.pipeline.message_builder import MessageBuilder
from perception_client.messages.calibration import Calibration
from perception_client.messages.codec import from_map
from perception_client.messages.kinds import Label

CALIBRATED = (
    "camera.0.calibration={width = 1280, height = 720, fx = 900.0, fy = 900.0, cx = 640.0, "
    "cy = 360.0, distortion = [0.1, -0.2]}"
)
STEPPED = ["camera.0.deadline_s=0.1", "degrade.steps=[{every = 2}]"]


def numeric_keys(section: type[BaseModel] = NodeConfig, before: str = "") -> Iterator[str]:
    """Every key that is a number, or holds some, dotted."""
    for name, field in section.model_fields.items():
        for hint in _parts(field.annotation):
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                index = "0." if section is NodeConfig and name == "camera" else ""
                if name not in ("regions", "steps", "black_box_events"):
                    yield from numeric_keys(hint, f"{before}{name}.{index}")
            elif hint in (int, float):
                yield before + name


def _parts(hint: Any) -> list[Any]:
    inner = get_args(hint)
    if not inner or get_origin(hint) is dict:
        return [hint]
    return [part for argument in inner for part in _parts(argument)]


KEYS = sorted(set(numeric_keys()) - {"camera.0.roi", "camera.0.calibration.distortion"})
EXTREMES = [
    "nan", "inf", "-inf", "1e308", "-1e308", "1e-300", "5e-324", "-0.0", "0", "-1", "1", "true",
    "1180591620717411303424", "1e-9", "60", "1000", "0x" + "f" * 5000, "9" * 5000, "[1]", '"1"',
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(EXTREMES),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
)


def test_there_are_keys() -> None:
    assert len(KEYS) > 40
    assert {"camera.0.max_fps", "model.top_k", "camera.0.calibration.cx"} <= set(KEYS)


def made_of(config: NodeConfig) -> None:
    """Makes what a node makes of its numbers."""
    (camera,) = config.camera
    limit = RateLimit(camera.max_fps)
    assert limit.wants(10**18)
    grabber = Grabber(
        camera, lambda: pytest.fail("opened"), LatestMailbox(["a"]), threading.Event(),
        retry_first=False, limit=limit,
    )  # fmt: skip
    assert 0 < grabber.stall_after_s <= 200
    assert 0 < timeout_ms(camera) < 2**31
    assert camera.deadline_s is None or int(camera.deadline_s * 1e9) > 0
    MessageBuilder("n", {"a": camera.deadline_s or 1.0})
    if camera.calibration is not None:
        calibration = Calibration("a", **camera.calibration.model_dump())
        assert calibration.bearing(640, 360, 1280, 720)
        msgpack.packb(camera.calibration.model_dump())
    if config.smooth.time_constant_s:
        smoother = Smoother(("a",), config.smooth)
        labels = (Label(0, "a", 0.5),)
        for at_s in (0.0, 1e-9, 1.0):
            smoother.update(labels, np.array([0.5]), at_s, 0)
    assert 0 <= round(config.track.lost_s * 30) <= 1800
    for seconds in (config.recording.black_box_s, config.recording.split_s):
        assert 0 <= int(seconds * 1e9) < 2**63
    assert 0 < 1 / config.monitor.picture_fps <= 10
    threading.Event().wait(min(config.model.inference_timeout_s, 1e-9))
    json.dumps(config.model_dump(mode="json"), allow_nan=False)


@settings(max_examples=400, deadline=None)
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_number_in_any_key_is_refused_in_one_line_or_can_be_worked_with(
    key: str, value: str
) -> None:
    try:
        config = load_config(None, [CALIBRATED, *STEPPED, f"{key}={value}"])
    except ConfigError as error:
        problem = str(error)
        assert "\n" not in problem
        assert len(problem) < 300
        assert key.split(".")[-1] in problem
        return
    made_of(config)


@pytest.mark.parametrize("key", KEYS)
def test_every_number_has_a_range_and_a_refusal_names_it(key: str) -> None:
    for value in ("1e308", "-1e308"):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [CALIBRATED, *STEPPED, f"{key}={value}"])
        problem = str(caught.value)
        assert key.replace(".0.", ".") in problem.replace(".0.", ".")
        assert "allowed: " in problem, problem


def test_numbers_inside_of_lists_and_maps_have_a_range_too() -> None:
    for setting in (
        "camera.0.calibration.distortion=[1e308]",
        "camera.0.calibration.distortion=[nan]",
        "detect.class_scores={cat = 1e-300}",
        "camera.0.roi=[[0.0, 0.0], [1e308, 0.0], [0.0, 1.0]]",
    ):
        with pytest.raises(ConfigError, match=r"should be (less|greater|a finite)"):
            load_config(None, [CALIBRATED, setting])


def test_texts_that_are_too_long_or_too_deep_are_said_in_one_line(tmp_path: Path) -> None:
    for text in ("name = " + "9" * 5000, "x = " + "[" * 5000, "[model]\ntop_k = 0x" + "f" * 5000):
        file = tmp_path / "node.toml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        assert len(str(caught.value)) < 400
        card = tmp_path / "model.onnx"
        (tmp_path / "model.toml").write_text(text)
        with pytest.raises(ModelError):
            read_card(card)


def test_a_claim_of_a_source_is_believed_within_reason() -> None:
    assert period_s(Cadence(), SourceFacts(fps=5e-324), None) == 60.0


@pytest.mark.parametrize("value", ["1e-300", "nan", "1e308", "inf", "0"])
@pytest.mark.parametrize("key", ["scale", "std"])
def test_numbers_of_a_model_card_have_ranges(tmp_path: Path, key: str, value: str) -> None:
    entry = value if key == "scale" else f"[1.0, {value}, 1.0]"
    (tmp_path / "m.toml").write_text(
        f'name = "m"\ntask = "classify"\nlabels = ["a"]\n[input]\nsize = [8, 8]\n{key} = {entry}\n'
    )
    with pytest.raises(ModelError, match=f"input.{key}"):
        read_card(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (("watch", "--timeout"), ("nan", "-1", "0")),  # a wait may be for ever
        (("ctl", "--timeout"), ("nan", "-1")),
        (("record", "--duration"), ("nan", "inf", "-1", "1e308", "0")),
        (("replay", "x.mp4", "--speed"), ("nan", "inf", "-1", "1e308", "0")),
        (("bench", "--seconds"), ("nan", "inf", "-1", "1e308", "0")),
    ],
)
def test_numbers_of_options_have_ranges(command: tuple[str, ...], values: tuple[str, ...]) -> None:
    after = ("status",) if command[0] == "ctl" else ()
    for value in values:
        done = run_in_process(*command, value, *after)
        assert done.returncode == 2, done
        assert "Traceback" not in done.stderr
        assert command[-1] in done.stderr


def test_a_number_is_finite() -> None:
    @click.command()
    @click.option("--x", type=Number(0, 1))
    def command(x: float) -> None:
        click.echo(f"{x}")

    assert CliRunner().invoke(command, ["--x", "0.5"]).output == "0.5\n"
    assert (
        "not a number that can be used here" in CliRunner().invoke(command, ["--x", "nan"]).output
    )


def test_a_wait_for_the_end_of_time_is_a_wait() -> None:
    stop = threading.Event()
    clock = MediaClock(0.001, stop)
    clock.wait_until(0)
    waiting = threading.Thread(target=clock.wait_until, args=(2**63,))
    waiting.start()
    stop.set()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_calibration_of_a_stranger_divides_by_nothing() -> None:
    good = {
        "camera": "a", "width": 8, "height": 8, "fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0,
        "distortion": [],
    }  # fmt: skip
    info = {
        "schema": 1, "node": "n", "session": "s", "seq": 0, "published_ns": 0, "names": [],
        "model": dict.fromkeys(["name", "task", "runtime", "precision", "device", "digest"], "m"),
    }  # fmt: skip
    from_map("info", {**info, "calibrations": [good]})
    for wrong in ({"fx": 0.0}, {"width": 0}, {"height": -1}, {"distortion": [0.0] * 9}):
        with pytest.raises(MessageError, match="is no calibration"):
            from_map("info", {**info, "calibrations": [{**good, **wrong}]})
    with pytest.raises(ValueError, match="the distortion maps nothing"):
        Calibration("a", 8, 8, 1.0, 1.0, 0.0, 0.0, (-1.0, 0.0, 0.0, 0.0)).bearing(1, 0, 8, 8)
    with pytest.raises(ValueError, match="the distortion maps nothing"):
        Calibration("a", 8, 8, 1.0, 1.0, 0.0, 0.0, (0, 0, 1e6, 1e6)).bearing(8, 8, 8, 8)


# Polygons.

NO_AREA: list[list[tuple[float, float]]] = [
    [(0, 0), (1, 1), (0.5, 0.5)],
    [(0.2, 0.2)] * 3,
    [(0.2, 0.2), (0.2, 0.2), (0.4, 0.9)],
    [(0.3, 0.0), (0.3, 1.0), (0.3, 0.5), (0.3, 0.2)],
    [(0, 0), (1, 0), (1, 0.0001), (0, 0.0001)],
]


@pytest.mark.parametrize("polygon", NO_AREA)
@pytest.mark.parametrize("key", ["roi", "regions"])
def test_a_polygon_without_area_is_refused(key: str, polygon: list[tuple[float, float]]) -> None:
    corners = json.dumps([[float(coordinate) for coordinate in corner] for corner in polygon])
    value = corners if key == "roi" else f'[{{name = "dock", polygon = {corners}}}]'
    with pytest.raises(ConfigError, match="no area") as caught:
        load_config(None, [f"camera.0.{key}={value}"])
    assert f"camera.0.{key}" in str(caught.value)


def test_a_polygon_that_crosses_itself_is_refused_and_others_are_taken() -> None:
    for bad in (
        [(0, 0), (1, 1), (1, 0), (0, 1)],
        [(0, 0), (1, 0), (0.2, 0.9), (0.5, -0.0), (0.9, 0.9)],
    ):
        with pytest.raises(ValueError, match=r"crosses itself|no area"):
            check_polygon(bad)
    square = [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)]
    for good in (
        square,
        square[::-1],
        [*square, square[0]],  # closed
        [square[0], *square],
        [(0, 0), (0.5, 0), (1, 0), (1, 1), (0, 1)],  # a corner on a side
        [(0, 0), (1, 0), (0.5, 0.2), (1, 1), (0, 1)],  # hollow
    ):
        check_polygon(good)
