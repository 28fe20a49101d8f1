"""`replay`, `label` and the commands that look things up, as a user runs them."""

import csv
import itertools
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from conftest import COMMAND, ROOT, Run
from PIL import Image
from support import commands

from node.replay.golden import OF_THIS_RUN
from perception_client.subscriber import Subscriber


@pytest.fixture(scope="module")
def pictures() -> Path:
    """Photographs that come with scikit-image."""
    import skimage

    return Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def golden(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The messages of a replay of the clip, as fast as it goes."""
    file = tmp_path_factory.mktemp("golden") / "golden.jsonl"
    done = commands.run([*COMMAND, "replay", clip, "--speed", "max", "--jsonl", file], timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert "40 frames read" in done.stderr
    return file


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def of_the_recording(message: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in message.items() if key not in OF_THIS_RUN}


def test_replay_labels_every_frame_the_same_at_any_speed(
    in_process: Run, clip: Path, golden: Path, tmp_path: Path
) -> None:
    out = tmp_path / "paced.jsonl"
    done = in_process("replay", clip, "--speed", "4", "--jsonl", out, "--expect", golden)
    assert done.returncode == 0, done.stdout
    assert "40 messages, the same as expected" in done.stdout
    fast, paced = lines(golden), lines(out)
    assert [message["seq"] for message in fast] == list(range(40))
    assert [message["frame_id"] for message in fast] == list(range(40))
    assert [message["media_ns"] for message in fast] == sorted(
        message["media_ns"] for message in fast
    )
    assert {message["clock"] for message in fast} == {"media"}
    assert fast[0]["labels"][0]["name"] == "espresso"
    assert [of_the_recording(message) for message in fast] == [
        of_the_recording(message) for message in paced
    ]


def test_replay_expect_tells_a_difference(
    in_process: Run, clip: Path, golden: Path, tmp_path: Path
) -> None:
    changed = lines(golden)
    changed[3]["labels"][0]["name"] = "teapot"
    expected = tmp_path / "changed.jsonl"
    expected.write_text("\n".join(json.dumps(message) for message in changed[:-1]))
    done = in_process("replay", clip, "--speed", "max", "--expect", expected)
    assert done.returncode == 1
    assert "1 vanished, 1 appeared, 1 frame added" in done.stdout
    again = in_process("replay", clip, "--speed", "max", "--expect", expected, "--json")
    assert again.returncode == 1
    report = json.loads(again.stdout)
    assert report["same"] is False
    assert {
        (difference["kind"], difference["line"], difference["frame_id"])
        for difference in report["differences"]
    } >= {("frame added", None, 39)}
    assert report["differing"] == 2


def test_replay_loses_nothing_to_a_subscriber(
    start_node: object, clip: Path, tiny_model: Path, ipc: str
) -> None:
    node = start_node(  # type: ignore[operator]
        "replay", clip, "--model", tiny_model, "--speed", "max", "--endpoint", ipc,
        "--wait-for-subscriber",
    )  # fmt: skip
    with Subscriber(ipc, timeout_s=60) as subscriber:
        received = [subscriber.receive(60.0) for _ in range(40)]
    assert [message.frame_id for message, _ in received] == list(range(40))
    assert not any(gap for _, gap in received)
    assert node.wait(timeout=10) == 0


def test_replay_of_the_labelled_video_equals_labelling_its_frames(
    in_process: Run, shared_data: Path, tmp_path: Path
) -> None:
    from node.config.schema import ModelConfig
    from node.perception.perceiver import build_perceiver

    frames = 300  # of ten photographs, 30 each
    video = shared_data / "video" / "labelled.mp4"
    out = tmp_path / "out.jsonl"
    done = in_process("replay", video, "--speed", "max", "--to", frames / 30, "--jsonl", out)
    assert done.returncode == 0, done.stderr
    messages = lines(out)
    assert [message["frame_id"] for message in messages] == list(range(frames))
    perceiver = build_perceiver(ModelConfig())
    capture = cv2.VideoCapture(str(video))
    right = 0
    with (shared_data / "video" / "labelled.csv").open() as file:
        truth = [int(row["imagenet_index"]) for row in csv.DictReader(file)][:frames]
    for number, (message, index) in enumerate(zip(messages, truth, strict=True)):
        _, image = capture.read()
        right += message["labels"][0]["id"] == index
        if number % 10:
            continue
        direct = perceiver.perceive(image).labels
        assert [(label["id"], label["score"]) for label in message["labels"]] == [
            (label.id, label.score) for label in direct
        ], f"frame {number}"
    assert right / frames > 0.8


def test_replay_says_what_it_read_of_a_video_whose_header_lies(
    in_process: Run, shared_data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    video = shared_data / "video" / "pedestrians.avi"
    done = in_process("replay", video, "--model", tiny_model, "--speed", "max", "--jsonl", out)
    assert done.returncode == 0, done.stderr
    assert "341 frames read; the header claims 682" in done.stderr
    messages = lines(out)
    assert len(messages) == 341
    positions = [message["media_ns"] for message in messages]
    assert all(earlier < later for earlier, later in itertools.pairwise(positions))


def test_label_is_right_about_photographs(
    in_process: Run, shared_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    done = in_process("label", shared_data / "photos", "--jsonl", out)
    assert done.returncode == 0, done.stderr
    with (shared_data / "photos" / "labels.csv").open() as file:
        truth = {row["file"]: int(row["imagenet_index"]) for row in csv.DictReader(file)}
    messages = lines(out)
    assert len(messages) == len(truth) == 200
    right = sum(
        message["labels"][0]["id"] == truth[Path(str(message["file"])).name] for message in messages
    )
    assert right / 200 >= 0.88


def test_label_names_pictures_and_leaves_out_what_is_broken(
    in_process: Run, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = Image.open(pictures / "coffee.png").convert("RGB")
    photo.save(folder / "a.jpg")
    photo.convert("L").save(folder / "grey.png")
    whole = (folder / "a.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "c.jpg").write_bytes(b"")
    out = tmp_path / "out.jsonl"
    done = in_process("label", folder, "--jsonl", out)
    assert done.returncode == 3
    assert "b.jpg: cannot be read: image file is truncated" in done.stderr
    assert "c.jpg is empty" in done.stderr
    assert "error: 2 labelled, 2 of 4 files skipped: " in done.stderr.splitlines()[-1]
    first, second = lines(out)
    assert Path(first["file"]).name == "a.jpg"
    assert first["labels"][0]["name"] == "espresso"
    assert first["stamp_ns"] is None
    assert Path(second["file"]).name == "grey.png"


def test_label_counts_the_frames_of_a_video(in_process: Run, clip: Path, pictures: Path) -> None:
    done = in_process("label", pictures / "coffee.png", clip, "--jsonl", "-")
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [message["frame_id"] for message in messages] == [0, *range(40)]
    assert messages[1]["file"] == str(clip)


def test_without_jsonl_label_prints_the_best(in_process: Run, pictures: Path) -> None:
    done = in_process("label", pictures / "coffee.png")
    assert done.returncode == 0
    assert "coffee.png: espresso 0.9" in done.stdout


BAD_INPUT = {
    "missing file": (["replay", "{tmp}/none.mp4"], 3, "none.mp4: there is no such file"),
    "not a video": (["replay", "{tmp}/text.mp4"], 3, "text.mp4 is a text, neither"),
    "empty file": (["replay", "{tmp}/empty.mp4"], 3, "empty.mp4 is empty (0 bytes)"),
    "empty folder": (["run", "--source", "{tmp}/folder"], 3, "folder holds no pictures"),
    "empty folder to label": (["label", "{tmp}/folder"], 3, "folder holds no pictures"),
    "missing picture": (["label", "{tmp}/none.jpg"], 3, "none.jpg: there is no such file"),
    "nothing readable": (["label", "{tmp}/empty.jpg"], 3, "nothing was labelled"),
    "missing camera": (["run", "--source", "93"], 3, "/dev/video93 does not exist; cameras here"),
    "no such model": (["run", "--model", "resnet19"], 3, "resnet18"),
    "weights that do not fit": (
        ["run", "--model", "resnet18", "--set", "model.weights={tmp}/wrong.pth"], 3, "resnet18",
    ),
    "weights that are none": (
        ["run", "--model", "resnet18", "--set", "model.weights={tmp}/text.mp4"], 3, "text.mp4",
    ),
    "endpoint not bindable": (
        ["run", "--endpoint", "ipc:///no/such/folder/x"], 2, "/no/such/folder/x cannot be bound",
    ),
    "endpoint for everybody": (
        ["run", "--endpoint", "tcp://0.0.0.0:5570"], 2, "insecure = true",
    ),
    "no such configuration": (["run", "--config", "{tmp}/none.toml"], 2, "there is no such file"),
    "configuration not TOML": (["config", "check", "{tmp}/text.mp4"], 2, "is not valid TOML"),
    "unknown key": (
        ["config", "check", "{tmp}/key.toml"], 2, "model.topk: unknown key (its value is 3); did",
    ),
    "replay of the endless": (["replay", "demo"], 2, "replay reads sources that have an end"),
    "bad golden file": (
        ["replay", "{tmp}/good.png", "--expect", "{tmp}/text.mp4"], 2, "line 1 is not a JSON",
    ),
    "unwritable output": (
        ["label", "{tmp}/good.png", "--jsonl", "/no/such/folder/x"], 2, "cannot be written",
    ),
    "nonsense speed": (["replay", "{tmp}/good.png", "--speed", "fast"], 2, "neither 'max' nor"),
}  # fmt: skip


@pytest.fixture
def bad_files(tmp_path: Path) -> Path:
    import torch

    (tmp_path / "text.mp4").write_text("this is no video, no weights, no TOML\n")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "key.toml").write_text("[model]\ntopk = 3\n")
    Image.new("RGB", (32, 32)).save(tmp_path / "good.png")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "wrong.pth")
    return tmp_path


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_one_clear_line(in_process: Run, bad_files: Path, kind: str) -> None:
    arguments, code, reason = BAD_INPUT[kind]
    if arguments[0] == "run" and "--endpoint" not in arguments:  # none that another test may have
        arguments = [*arguments, "--endpoint", "ipc://{tmp}/labels.ipc"]
    done = in_process(*(str(part).format(tmp=bad_files) for part in arguments))
    assert done.returncode == code, done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    (last,) = done.stderr.strip().splitlines()[-1:]
    assert last.lower().startswith("error: ")


def test_an_endpoint_in_use_is_said(perception_node: Run, tcp: str) -> None:
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    socket.bind(tcp)
    try:
        done = perception_node("run", "--endpoint", tcp)
    finally:
        socket.close(linger=0)
        context.term()
    assert done.returncode == 2
    assert f"endpoint {tcp} is in use" in done.stderr


def test_opencv_without_libgl_is_said_in_one_line(tmp_path: Path) -> None:
    package = tmp_path / "cv2"
    package.mkdir()
    (package / "__init__.py").write_text(
        'raise ImportError("libGL.so.1: cannot open shared object file: No such file")\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
         "sys.argv = ['perception-node', 'run']; from node.__main__ import main; main()"],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 3
    assert "libGL.so.1 is missing" in done.stderr
    assert "apt-get install libgl1" in done.stderr
    assert "Traceback" not in done.stderr


def test_watch_prints_json_and_counts(start_node: object, perception_node: Run, ipc: str) -> None:
    start_node("run", "--source", "demo", "--endpoint", ipc)  # type: ignore[operator]
    done = perception_node("watch", "--endpoint", ipc, "--json", "--count", 5, "--timeout", 60)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(messages) == 5
    assert {"schema", "camera", "seq", "status", "labels", "timing_ns"} <= messages[0].keys()


def test_watch_gives_up_after_its_timeout(in_process: Run, ipc: str) -> None:
    done = in_process("watch", "--endpoint", ipc, "--timeout", 0.5)
    assert done.returncode == 1
    assert f"{ipc}: no message for 0.5 s" in done.stderr


def test_models_lists_what_is_here(in_process: Run) -> None:
    done = in_process("models", "--json")
    assert done.returncode == 0, done.stderr
    models = [json.loads(line) for line in done.stdout.splitlines()]
    assert models[0]["name"] == "efficientnet_lite0"
    assert models[0]["weights_here"] is True
    assert "resnet18" in {model["name"] for model in models}


def test_doctor_looks_at_this_computer(in_process: Run, tcp: str) -> None:
    done = in_process("doctor", "--json", "--set", f"wire.endpoint={tcp}")
    findings = {finding["what"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert {"cpu", "opencv", "runtime torch", "gpu", "model", "endpoint"} <= findings.keys()
    assert findings["endpoint"]["verdict"] == "ok"
    assert done.returncode == (
        1 if any(finding["verdict"] == "wrong" for finding in findings.values()) else 0
    )
    assert all(finding["fix"] for finding in findings.values() if finding["verdict"] == "wrong")


def test_doctor_finds_what_is_wrong(in_process: Run, tmp_path: Path) -> None:
    done = in_process(
        "doctor", "--json", "--set", f"model.weights={tmp_path}/none.pth",
        "--set", "wire.endpoint=ipc:///no/such/folder/x",
    )  # fmt: skip
    assert done.returncode == 1
    findings = {finding["what"]: finding for finding in map(json.loads, done.stdout.splitlines())}
    assert findings["model"]["verdict"] == "wrong"
    assert findings["endpoint"]["verdict"] == "wrong"
    assert findings["endpoint"]["fix"]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "config").glob("*.toml")), ids=lambda file: file.name
)
def test_the_example_configurations_are_valid(in_process: Run, file: Path) -> None:
    done = in_process("config", "check", file)
    assert done.returncode == 0, done.stderr
    assert "is valid" in done.stdout
    assert "password" not in done.stdout


@pytest.mark.parametrize("arguments", [["models"], ["label", "{pictures}/*.png"]])
def test_a_reader_that_goes_away_is_no_error(pictures: Path, arguments: list[str]) -> None:
    command = subprocess.Popen(
        [*COMMAND, *(part.format(pictures=pictures) for part in arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert command.stdout is not None
    command.stdout.readline()
    command.stdout.close()
    assert command.wait(timeout=60) == 0
    assert command.stderr is not None
    assert "Traceback" not in command.stderr.read()
    command.stderr.close()


def test_a_command_that_fails_leaves_the_earlier_output_alone(
    in_process: Run, bad_files: Path, clip: Path
) -> None:
    golden = bad_files / "golden.jsonl"
    golden.write_text("precious\n")
    for command in (["label", bad_files / "good.png"], ["replay", clip]):
        done = in_process(*command, "--model", "resnet19", "--jsonl", golden)
        assert done.returncode == 3
        assert golden.read_text() == "precious\n"
    done = in_process("label", bad_files / "good.png", "--jsonl", golden)
    assert done.returncode == 0
    (message,) = lines(golden)
    assert message["image"] == {"width": 32, "height": 32}
