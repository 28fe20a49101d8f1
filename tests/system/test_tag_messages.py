"""Tags from a camera to control code: through a real node, a real subscriber and a recording; and
what other programs and earlier versions make of them."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import msgpack
import numpy as np
import pytest
from conftest import ROOT, Run, Start
from support.tags import CALIBRATION, FACING, SIZE_M, added, background, photographed

from node.recording.encode import annotations
from node.recording.export.overlay import draw
from node.replay.golden import Comparison
from perception_client import Detection, LabelsMessage, MessageError, Pose, Subscriber
from perception_client.control import Control
from perception_client.messages import ros2
from perception_client.messages.codec import decode, encode, from_map, from_plain, to_map
from perception_client.messages.kinds import Box, ModelInfo, Status
from perception_client.testing.recorded import RecordedLabels

TAG = "apriltag36h11:17"
SHIFT = (0.1, -0.05, 1.6)
CORNERS = ((10.0, 10.5), (50.0, 10.0), (50.0, 50.0), (10.0, 50.0))
POSE = Pose((0.1, -0.05, 1.6), (1.0, 0.0, 0.0, 0.0), 0.1, 0.05)
SEEN = Detection(17, TAG, 1.0, Box(30.0, 30.0, 40.0, 40.0), None, (), CORNERS, POSE)
MESSAGE = LabelsMessage(
    node="robot", camera="front", session="5e55", seq=7, status=Status.OK, published_ns=2_000,
    model=ModelInfo("apriltag36h11", "detect", "opencv", "fp32", "cpu", "d16e57"),
    detections=(SEEN, replace(SEEN, id=3, name="apriltag36h11:3", corners=(), pose=None)),
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures: a tag, and in every third none."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(6):
        picture = background()
        if number % 3 != 2:
            added(picture, "DICT_APRILTAG_36h11", 17, FACING, np.array(SHIFT))
        cv2.imwrite(str(folder / f"{number}.png"), photographed(picture, blur=0.6, seed=number))
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "tags.toml"
    content = ", ".join(
        f"{key} = {value}" for key, value in CALIBRATION.model_dump(exclude={"distortion"}).items()
    )
    file.write_text(
        '[model]\nname = "apriltag36h11"\n[detect]\ntag_size_m = 0.16\n'
        f'[[camera]]\nname = "front"\nfps = 20.0\nloop = true\ncalibration = {{ {content} }}\n'
    )
    return file


def check(detection: Detection, factor: float = 1.0) -> None:
    """The tag of the pictures. factor: its size by the true one."""
    assert (detection.id, detection.name, len(detection.corners)) == (17, TAG, 4)
    assert detection.pose is not None
    assert np.array(detection.pose.translation_m) / factor == pytest.approx(SHIFT, abs=0.01)


def test_tags_reach_control_code_and_a_recording(
    pictures: Path,
    config: Path,
    tmp_path: Path,
    start_node: Start,
    in_process: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    endpoint, control = f"ipc://{tmp_path}/labels", f"ipc://{tmp_path}/control"
    node = start_node(
        "run", "--config", config, "--source", pictures, "--endpoint", endpoint,
        "--set", "recording.enabled=true", "--set", f"recording.folder={tmp_path}/recordings",
        "--set", f"control.endpoint={control}", "--set", "track.enabled=true",
    )  # fmt: skip
    with Subscriber(endpoint) as subscriber, Control(control, timeout_s=20) as commands:
        message = subscriber.wait_for(TAG, 30)
        (tag,) = message.of_class(TAG)
        check(tag)
        assert message.model is not None
        assert (message.model.runtime, message.model.device) == ("opencv", "cpu")
        empty = next(item for item, _ in subscriber if item.status == "ok" and not item.detections)
        assert not empty.shows(TAG)
        assert subscriber.events.receive(20) is not None

        answer = commands.set({"detect.tag_size_m": 2 * SIZE_M})
        after = next(
            item for item, _ in subscriber
            if item.detections and item.seq >= answer.first_seq["front"]
        )  # fmt: skip
        check(after.detections[0], factor=2)

        commands.model("aruco4x4_50")  # and back
        other = next(item for item, _ in subscriber if item.model and item.model.name[:2] == "ar")
        assert (other.status, other.detections) == ("ok", ())
        commands.model("apriltag36h11")
        check(subscriber.wait_for(TAG, 10).detections[0], factor=2)
        page = (ROOT / "docs" / "models.md").read_text()
        example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[-1]
        example = example.replace("Subscriber()", f"Subscriber({endpoint!r})")
        exec(example, {})
        assert capsys.readouterr().out == f"{TAG}: +0.20 m to the right, 3.20 m ahead\n"
    node.terminate()
    assert node.wait(10) == 0

    (recording,) = (tmp_path / "recordings").glob("*.mcap")
    with RecordedLabels(recording) as played:
        recorded = played.wait_for(TAG, 60)
        check(recorded.detections[0])
    golden = tmp_path / "golden.jsonl"
    replay = ("replay", recording, "--speed", "max", "--set", "recording.enabled=false")
    done = in_process(*replay, "--jsonl", golden)
    assert done.returncode == 0, done.stderr
    assert in_process(*replay, "--expect", golden).returncode == 0
    lines = [json.loads(line) for line in golden.read_text().splitlines()]
    tags = [tag for line in lines for tag in line["detections"]]
    assert {(tag["name"], len(tag["corners"]), len(tag["pose"])) for tag in tags} == {(TAG, 4, 4)}


def test_offline_pictures_get_poses_too(
    pictures: Path, config: Path, tmp_path: Path, in_process: Run
) -> None:
    file = tmp_path / "labels.jsonl"
    done = in_process("label", pictures, "--config", config, "--jsonl", file)
    assert done.returncode == 0, done.stderr
    messages = [from_map("labels", json.loads(line)) for line in file.read_text().splitlines()]
    found = [message.detections for message in messages if isinstance(message, LabelsMessage)]
    assert [len(detections) for detections in found] == [1, 1, 0, 1, 1, 0]
    for detections in found:
        for detection in detections:
            check(detection)
    assert f"{TAG} 1.000" in in_process("label", pictures / "0.png", "--config", config).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("tune",), 3, "tune measures engines of networks: model 'apriltag36h11' has no network; "),
        (("bench", "--source", "demo"), 3, "model 'apriltag36h11' has no network; write --profile"),
        (("run", "--runtime", "torch"), 2, "has no network, and runs in OpenCV on the CPU; write "),
    ],
)
def test_a_command_for_networks_says_so_in_one_line(
    in_process: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = in_process(*arguments, "--model", "apriltag36h11")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == code
    assert len(errors) == 1
    assert said in errors[0]


def test_the_list_of_models_names_the_families(in_process: Run) -> None:
    listed = in_process("models").stdout
    assert "apriltag36h11" in listed
    assert "no network" in listed
    done = in_process("models", "fetch", "aruco4x4_50")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to download" in done.stderr


def test_the_keys_survive_the_wire_and_what_is_no_pose_is_refused() -> None:
    assert decode(encode(MESSAGE)) == MESSAGE
    content = json.loads(json.dumps(to_map(MESSAGE)))
    assert content["detections"][0]["corners"] == [list(corner) for corner in CORNERS]
    assert content["detections"][0]["pose"] == {
        "translation_m": [0.1, -0.05, 1.6], "rotation": [1.0, 0.0, 0.0, 0.0],
        "reprojection_error_px": 0.1, "ambiguity": 0.05,
    }  # fmt: skip
    assert from_map("labels", content) == MESSAGE

    def refused(change: Callable[[dict[str, Any]], None]) -> str:
        changed = json.loads(json.dumps(content))
        change(changed["detections"][0])
        with pytest.raises(MessageError) as raised:
            from_map("labels", changed)
        return str(raised.value)

    assert "corners has 3 items, not 2" in refused(lambda tag: tag.update(corners=[[1, 2, 3]]))
    assert "rotation has 3 items" in refused(lambda tag: tag["pose"].update(rotation=[0, 0, 1]))
    assert "translation_m" in refused(lambda tag: tag["pose"].update(translation_m=[0, 0, "a"]))
    assert "ambiguity" in refused(lambda tag: tag["pose"].pop("ambiguity"))


@dataclass(frozen=True, slots=True)
class EarlierDetection:
    """`Detection` before tags."""

    id: int
    name: str
    score: float
    box: Box
    track: int | None = None


def test_a_reader_and_a_file_of_an_earlier_version_stay_as_they_were() -> None:
    content = msgpack.unpackb(encode(MESSAGE)[1])
    read = from_plain(EarlierDetection, "detection", content["detections"][0])
    assert read == EarlierDetection(17, TAG, 1.0, SEEN.box)
    for detection in content["detections"]:
        for key in ("corners", "pose"):
            del detection[key]
    plain = replace(SEEN, corners=(), pose=None)
    message = from_map("labels", content)
    assert isinstance(message, LabelsMessage)
    assert message.detections[0] == plain
    comparison = Comparison([content])
    comparison.add(to_map(message))
    assert comparison.verdict().same, "the keys that were added are no difference"


@pytest.mark.parametrize(
    ("changed", "tolerance", "kinds"),
    [
        (SEEN, 0.0, []),
        (replace(SEEN, corners=((10.1, 10.5), *CORNERS[1:])), 0.0, ["corners"]),
        (replace(SEEN, corners=((10.1, 10.5), *CORNERS[1:])), 0.02, []),
        (replace(SEEN, corners=CORNERS[::-1]), 0.02, ["corners"]),
        (replace(SEEN, pose=replace(POSE, ambiguity=0.06)), 0.0, ["pose"]),
        (replace(SEEN, pose=replace(POSE, translation_m=(0.1, -0.05, 1.61))), 0.02, []),
        (replace(SEEN, pose=replace(POSE, translation_m=(0.1, -0.05, 1.7))), 0.02, ["pose"]),
        (replace(SEEN, pose=None), 0.02, ["pose"]),
    ],
)
def test_a_golden_file_notices_a_tag_that_moved(
    changed: Detection, tolerance: float, kinds: list[str]
) -> None:
    comparison = Comparison([json.loads(json.dumps(to_map(MESSAGE)))], tolerance)
    comparison.add(to_map(replace(MESSAGE, detections=(changed, *MESSAGE.detections[1:]))))
    assert [item.kind for item in comparison.verdict().differences] == kinds


def test_viewers_draw_the_outline_of_a_tag() -> None:
    outline, box = annotations(MESSAGE).points
    assert [(point.x, point.y) for point in outline.points] == list(CORNERS)
    assert (box.points[0].x, box.points[0].y) == (10.0, 10.0)
    slanted = replace(SEEN, corners=((30.0, 60.0), (60.0, 90.0), (30.0, 120.0), (0.0, 90.0)))
    image = np.zeros((140, 200, 3), np.uint8)
    drawn = draw(image, replace(MESSAGE, detections=(slanted,)))
    assert drawn[75, 45].any()
    assert not drawn[118, 5:20].any(), "no corner of a box"


def test_ros_gets_the_pose() -> None:
    def make(kind: str, **values: Any) -> SimpleNamespace:
        return SimpleNamespace(kind=kind, **values)

    tag, other = ros2.of_labels(MESSAGE, make).detections
    pose = tag.results[0].pose.pose
    assert (pose.position.x, pose.position.y, pose.position.z) == POSE.translation_m
    turn = pose.orientation
    assert (turn.x, turn.y, turn.z, turn.w) == POSE.rotation
    assert tag.results[0].hypothesis.class_id == TAG
    unknown = other.results[0].pose.pose
    assert (unknown.position.z, unknown.orientation.w) == (0.0, 1.0)
