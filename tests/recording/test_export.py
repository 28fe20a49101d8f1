"""Recordings for other tools, each read back by the tool's own library, and the report in a real
browser."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import ROOT, Run, run_in_process
from rosbags.highlevel import AnyReader
from support import foreign
from torchvision.datasets import ImageFolder

from node.recording.encode import frame_entries, message_entries
from node.recording.export.media import Choice, write_image_folder
from node.recording.export.ros2 import make, typestore
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from perception_client.subscriber import Label, LabelsMessage, Status


@pytest.fixture(scope="module")
def bottles(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real video of bottles, recorded with what a detector finds."""
    folder = tmp_path_factory.mktemp("bottles")
    done = run_in_process(
        "record", "--source", shared_data / "video" / "bottle-detection.mp4",
        "--model", shared_data / "models" / "yolox_nano.onnx", "--endpoint", f"ipc://{folder}/x",
        "--output", folder, "--duration", 4, "--set", "track.enabled=true",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.mcap")
    return file


def test_a_video_shows_each_frame(in_process: Run, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "rear.mp4"
    done = in_process("export", "video", recording, out, "--camera", "rear")
    assert done.returncode == 0, done.stderr
    frames = [frame for frame in Recording([recording]).frames() if frame.camera == "rear"]
    capture = cv2.VideoCapture(str(out))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20, abs=1.5)
    _, drawn = capture.read()
    difference = np.abs(drawn.astype(int) - frames[0].image()).mean(axis=2)
    assert difference[:30, :120].mean() > 3 * difference[120:, 160:].mean()  # text in the corner


def test_a_video_of_several_cameras_names_its_camera_and_the_others(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    done = in_process("export", "video", recording, tmp_path / "x.avi")
    assert done.returncode == 0, done.stderr
    assert "of camera 'front'; --camera NAME writes another: rear" in done.stderr


def test_what_is_no_recording_says_whether_it_exists(in_process: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, why in (("none", "there is no such file or folder"), ("empty", "is neither a rec")):
        done = in_process("report", tmp_path / name)
        assert done.returncode == 3
        assert why in done.stderr
        assert ";" in done.stderr  # a fix follows


def test_a_recording_without_labels_is_named_as_the_reason(in_process: Run, tmp_path: Path) -> None:
    channel = foreign.Channel("/nose/image", "foxglove.CompressedImage", "protobuf")
    records = foreign.records(channel, foreign.still("protobuf"), 3)
    file = foreign.write(tmp_path / "drive.mcap", records)
    for to in ("coco", "imagefolder", "jsonl"):
        done = in_process("export", to, file, tmp_path / to)
        assert done.returncode == 0, done.stderr
        assert "contains no labels of a node; 'perception-node replay' labels" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("ctl", "status", "--endpoint", "x"), "perception-node ctl --endpoint ... status"),
        (("export", "video", "a", "b", "--set", "x"), "perception-node export --set ... video"),
    ],
)
def test_an_option_of_a_group_behind_its_command_is_said_to_stand_before(
    in_process: Run, arguments: tuple[str, ...], where: str
) -> None:
    done = in_process(*arguments)
    assert done.returncode == 2
    assert f"stands before the command: {where}" in done.stderr


def test_a_video_that_cannot_be_written_says_why(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    for name, why in (("no/x.mp4", f"there is no folder {tmp_path}/no"), ("x.doc", "name it .mp4")):
        done = in_process("export", "video", recording, tmp_path / name)
        assert done.returncode == 1
        assert why in done.stderr


def test_json_lines_are_the_messages(in_process: Run, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = in_process("export", "jsonl", recording, out, "--kind", "labels", "--kind", "events")
    assert done.returncode == 0, done.stderr
    kinds = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(kinds) == sum(1 for _ in Recording([recording]).messages("labels", "events"))
    assert any("kind" in kind for kind in kinds)


def test_a_folder_for_each_label(in_process: Run, recording: Path, tmp_path: Path) -> None:
    done = in_process(
        "export", "imagefolder", recording, tmp_path / "set", "--label", "espresso",
        "--label", "Egyptian cat", "--min-score", 0.3, "--every", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dataset = ImageFolder(str(tmp_path / "set"))
    assert set(dataset.classes) <= {"espresso", "Egyptian cat"}
    assert "espresso" in dataset.classes
    assert len(dataset) > 5


def test_a_coco_dataset_has_the_chosen_frames(
    in_process: Run, bottles: Path, tmp_path: Path
) -> None:
    done = in_process(
        "export", "coco", bottles, tmp_path / "coco", "--label", "bottle", "--min-score", 0.5
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    assert {category["name"] for category in content["categories"]} == {"bottle"}
    assert {annotation["image_id"] for annotation in content["annotations"]} == {
        image["id"] for image in content["images"]
    }
    assert all(
        annotation["score"] >= 0.5 and len(annotation["bbox"]) == 4
        for annotation in content["annotations"]
    )
    expected = [
        message for _, message in Recording([bottles]).messages("labels")
        if isinstance(message, LabelsMessage)
        and any(label.score >= 0.5 for label in message.of_class("bottle"))
    ]  # fmt: skip
    assert len(content["images"]) == len(expected) > 2
    picture = cv2.imread(str(tmp_path / "coco" / "images" / content["images"][0]["file_name"]))
    assert picture.shape[1] == content["images"][0]["width"]


def test_a_ros_2_bag_is_read_back(in_process: Run, bottles: Path, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    done = in_process("export", "ros2", bottles, bag)
    assert done.returncode == 0, done.stderr
    labels = {
        message.stamp_ns: message
        for _, message in Recording([bottles]).messages("labels")
        if message.detections
    }
    images = boxes = 0
    with AnyReader([bag], default_typestore=typestore()) as reader:
        topics = {connection.topic: connection.msgtype for connection in reader.connections}
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic.endswith("/image/compressed"):
                images += 1
                assert cv2.imdecode(message.data, cv2.IMREAD_COLOR) is not None
                continue
            stamp = message.header.stamp
            recorded = labels.get(stamp.sec * 1_000_000_000 + stamp.nanosec)
            for mine, theirs in zip(
                recorded.detections if recorded else (), message.detections, strict=True
            ):
                assert theirs.bbox.center.position.x == mine.box.cx
                assert theirs.bbox.size_y == mine.box.h
                assert theirs.results[0].hypothesis.class_id == mine.name
                assert theirs.id == ("" if mine.track is None else str(mine.track))
                boxes += 1
    assert topics == {
        "/camera/image/compressed": "sensor_msgs/msg/CompressedImage",
        "/camera/detections": "vision_msgs/msg/Detection2DArray",
    }
    assert images == sum(1 for _ in Recording([bottles]).frames())
    assert boxes > 3
    again = in_process("export", "ros2", bottles, bag)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_the_report_shows_it_all_in_a_browser(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    page = tmp_path / "report.html"
    done = in_process("report", recording, "--output", page)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(page)
    text = page.read_text()
    assert "http" not in text.replace("http-equiv", "")  # it holds all that it shows
    shown = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/p",
         "--window-size=1100,2200", f"--screenshot={tmp_path}/report.png", "--dump-dom",
         "--enable-logging=stderr", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in shown.stderr
    for word in ("front", "rear", "espresso", "Latency", "Events and changes", "frames missing"):
        assert word in shown.stdout
    picture = cv2.imread(f"{tmp_path}/report.png")
    assert picture is not None
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000  # thumbnails are pictures


def test_the_bridge_publishes_vision_msgs_and_diagnostics(bottles: Path) -> None:
    """With ROS 2's own type definitions; the ROS node stands for one that is not here."""
    sys.path.insert(0, str(ROOT / "scripts" / "clients"))
    from ros2_bridge import Bridge

    published: dict[str, list[object]] = {}

    class Ros:
        def create_publisher(self, kind: type, topic: str, depth: int) -> object:
            sent = published.setdefault(topic, [])
            return SimpleNamespace(publish=sent.append)

        def get_clock(self) -> object:
            stamp = make("builtin_interfaces/msg/Time", sec=1, nanosec=0)
            return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: stamp))

    def find(name: str) -> Callable[..., object]:
        if name.startswith("diagnostic_msgs"):
            stamp = make("std_msgs/msg/Header", stamp=None, frame_id="")
            return lambda **fields: SimpleNamespace(header=stamp, **fields)
        return lambda **fields: make(name, **fields)

    bridge = Bridge(Ros(), find)
    labels = [message for _, message in Recording([bottles]).messages("labels")]
    for message in labels:
        bridge.handle(message)
    seen = [message for message in labels if message.status == "ok"]
    sent = published["/perception/camera/detections"]
    assert len(sent) == len(seen)
    for message, converted in zip(seen, sent, strict=True):
        raw = typestore().serialize_cdr(converted, "vision_msgs/msg/Detection2DArray")
        back = typestore().deserialize_cdr(raw, "vision_msgs/msg/Detection2DArray")
        assert [detection.bbox.size_x for detection in back.detections] == [
            detection.box.w for detection in message.detections
        ]
    texts = [diagnostics.status[0].message for diagnostics in published["/diagnostics"]]
    assert "ok" in texts[texts.index("no_camera") :]


def test_a_dataset_never_mixes_with_another(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    """Frames of two recordings have the same names."""
    for kind in ("imagefolder", "coco"):
        to = tmp_path / kind
        to.mkdir()
        (to / "mine.txt").touch()
        done = in_process("export", kind, recording, to)
        assert done.returncode == 1
        assert f"{to} is there already" in done.stderr
        assert [path.name for path in to.iterdir()] == ["mine.txt"]


def test_a_dataset_without_a_frame_is_said(
    in_process: Run, recording: Path, tmp_path: Path
) -> None:
    done = in_process("export", "imagefolder", recording, tmp_path / "set", "--label", "espreso")
    assert done.returncode == 2
    assert "has no class of this name; did you mean 'espresso'?" in done.stderr
    assert not (tmp_path / "set").exists()
    done = in_process("export", "imagefolder", recording, tmp_path / "set", "--label", "vulture")
    assert done.returncode == 0, done.stderr
    assert "no frame matches --label" in done.stderr


def test_a_dataset_of_another_task_names_the_format_that_fits(
    in_process: Run, recording: Path, bottles: Path, tmp_path: Path
) -> None:
    cases = (("coco", recording, "imagefolder"), ("imagefolder", bottles, "coco"))
    for kind, source, fitting in cases:
        done = in_process("export", kind, source, tmp_path / kind)
        assert done.returncode == 1
        assert f"'perception-node export {fitting}'" in done.stderr
        assert not (tmp_path / kind).exists()


def test_labels_of_a_dataset_name_no_folder_elsewhere(recording: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.mcap"
    file = RecordingFile(evil, {})
    frame = next(Recording([recording]).frames()).frame()
    file.write(frame_entries(frame, 1, quality=90, lost_before=0))
    message = LabelsMessage(
        node="n", camera=frame.camera, session="s", seq=0, status=Status.OK, published_ns=2,
        frame_id=frame.frame_id, labels=(Label(1, "../../evil", 0.9),),
    )  # fmt: skip
    file.write(message_entries(message, 2))
    file.close()
    assert write_image_folder(Recording([evil]), tmp_path / "set", Choice()) == 1
    assert [path.parent.parent for path in tmp_path.rglob("*.jpg")] == [tmp_path / "set"]
