"""A replay labels with the model and the settings of the recording, unless told otherwise, and says
with which; a golden file is compared with its own model only."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Run, run_in_process
from onnx import TensorProto, helper, numpy_helper

from node.config.schema import NodeConfig
from node.image.frame import Frame, Stamp
from node.recording.encode import config_entry, frame_entries
from node.recording.in_force import in_force
from node.recording.mcap_writer import RecordingFile
from node.recording.reader import Recording
from node.recording.records import as_json, config_channel
from node.replay.recorded_settings import settings_of
from perception_client.recordings.chunks import ChunkAt
from perception_client.recordings.mcap_file import ChunkedFile
from perception_client.recordings.records import Entry

START_NS = 1_700_000_000_000_000_000
LABELS = ["left", "right", "neither"]


def write_model(folder: Path, labels: list[str], bias: list[float]) -> Path:
    """A classifier of the mean colours, its weights beside it."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"),
        numpy_helper.from_array(np.array(bias, np.float32), "b"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", 3, 32, 32]), ("y", ["n", 3]))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(exist_ok=True)
    file = folder / "mine.onnx"
    for old in folder.glob("mine.onnx*"):
        old.unlink()
    onnx.save_model(
        model, str(file), save_as_external_data=True, location="mine.onnx.data", size_threshold=0
    )
    (folder / "labels.txt").write_text("\n".join(labels))
    file.with_suffix(".toml").write_text(
        'name = "mine"\ntask = "classify"\nlabels = "labels.txt"\n[input]\nsize = [32, 32]\n'
    )
    return file


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and `drive.mcap`, recorded with it and with settings of its own."""
    folder = tmp_path_factory.mktemp("recorded")
    model = write_model(folder / "model", LABELS, [3, 2, 1])
    done = run_in_process(
        "record", "--model", model, "--runtime", "onnxruntime", "--output", folder,
        "--duration", 1, "--set", "model.top_k=2", "--set", "name=robot7",
        "--set", "smooth.time_constant_s=0.2", "--set", f"wire.endpoint=ipc://{folder}/labels",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.mcap")
    file.rename(folder / "drive.mcap")
    return folder


@pytest.fixture
def own(recorded: Path, tmp_path: Path) -> Path:
    """The recording, and a model whose files the test may change: it puts them back."""
    model = recorded / "model"
    shutil.copytree(model, tmp_path / "kept")
    yield recorded
    shutil.rmtree(model)
    shutil.copytree(tmp_path / "kept", model)


def replayed(folder: Path, out: Path, *options: object) -> tuple[list[dict[str, Any]], str]:
    done = run_in_process(
        "replay", folder / "drive.mcap", "--speed", "max", "--to", 0.3, "--jsonl", out, *options
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()], done.stderr


def test_a_replay_uses_the_model_and_the_settings_of_the_recording(
    recorded: Path, tmp_path: Path
) -> None:
    messages, stderr = replayed(recorded, tmp_path / "out.jsonl")
    recording = Recording([recorded / "drive.mcap"])
    then = [message for _, message in recording.messages("labels") if message.status == "ok"]
    for message in messages:
        assert message["node"] == "robot7"
        assert message["model"]["name"] == "mine"
        assert message["model"]["runtime"] == "onnxruntime"
        assert message["model"]["digest"] == then[0].model.digest
        assert len(message["labels"]) >= 2
        assert all("stable" in label for label in message["labels"])
    assert f"replayed with its own model, mine ({then[0].model.digest[:12]})" in stderr


def test_an_option_replaces_one_recorded_setting(recorded: Path, tmp_path: Path) -> None:
    messages, _ = replayed(
        recorded, tmp_path / "out.jsonl", "--runtime", "openvino", "--set", "model.top_k=3",
        "--set", "model.precision=fp32", "--set", "camera.camera.roi=[[0,0],[1,0],[1,1]]",
    )  # fmt: skip
    assert {message["model"]["name"] for message in messages} == {"mine"}
    assert {message["model"]["runtime"] for message in messages} == {"openvino"}
    assert all(len(message["labels"]) == 3 for message in messages)


def test_another_model_or_a_configuration_file_replaces_the_recorded_one_and_it_is_said(
    recorded: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "other", ["up", "down", "flat"], [1, 2, 3])
    messages, stderr = replayed(recorded, tmp_path / "out.jsonl", "--model", other)
    assert {label["name"] for message in messages for label in message["labels"]} <= {
        "up",
        "down",
        "flat",
    }
    assert "recorded with mine (" in stderr
    assert ", replayed with mine (" in stderr
    config = tmp_path / "own.toml"
    config.write_text(f'[model]\nname = "{other}"\ntop_k = 1\n')
    messages, stderr = replayed(recorded, tmp_path / "out.jsonl", "--config", config)
    assert all(len(message["labels"]) == 1 for message in messages)
    assert {message["node"] for message in messages} == {"perception"}


@pytest.mark.parametrize("file", ["labels.txt", "mine.toml", "mine.onnx.data"])
def test_a_file_of_the_model_that_changed_since_is_said(
    own: Path, tmp_path: Path, file: str
) -> None:
    changed = own / "model" / file
    content = changed.read_bytes()
    changed.write_bytes(content.replace(b"left", b"lift") + (b"\n" if file == "mine.toml" else b""))
    if file == "mine.onnx.data":
        changed.write_bytes(bytes(4) + content[4:])
    _, stderr = replayed(own, tmp_path / "out.jsonl")
    (line,) = [line for line in stderr.splitlines() if "recorded with" in line]
    assert "WARNING" in line
    assert "replayed with mine (" in line
    assert "its files have changed since" in line


def test_a_model_that_is_gone_is_one_line(own: Path, in_process: Run) -> None:
    (own / "model" / "mine.onnx").unlink()
    done = in_process("replay", own / "drive.mcap", "--jsonl", "-")
    assert done.returncode == 3
    assert not done.stdout
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "drive.mcap was recorded with mine (" in error
    assert "mine.onnx: there is no such file; bring its files, or name another model" in error


def test_a_golden_file_of_another_model_is_refused(
    own: Path, tmp_path: Path, in_process: Run
) -> None:
    golden = tmp_path / "golden.jsonl"
    replayed(own, golden)
    options = ("--speed", "max", "--to", 0.3, "--expect", golden)
    assert in_process("replay", own / "drive.mcap", *options).returncode == 0
    within = in_process(
        "replay", own / "drive.mcap", *options, "--runtime", "openvino",
        "--set", "model.precision=fp32", "--tolerance", 0.01,
    )  # fmt: skip
    assert within.returncode == 0, within.stderr
    write_model(own / "model", LABELS, [3, 2, 1.0001])
    for more in ((), ("--tolerance", 0.01)):
        done = in_process("replay", own / "drive.mcap", *options, *more)
        assert done.returncode == 2
        assert not done.stdout
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
        assert "golden.jsonl was made with the model mine (" in error
        assert "and this replay runs mine (" in error


def written(path: Path, *configs: tuple[int, object], frames: int = 4, each: bool = False) -> Path:
    """A recording of grey pictures a second apart, with configurations at some seconds. each: with
    a chunk for each picture."""
    file = RecordingFile(path, {})
    for second in range(frames):
        for at_s, config in configs:
            if at_s == second:
                log_ns = START_NS + second * 10**9 - 1
                if isinstance(config, NodeConfig):
                    entry = config_entry(config, at_s, log_ns)
                else:
                    data = as_json({"config": config})
                    entry = Entry(config_channel("x"), log_ns, log_ns, at_s, data)
                file.write([entry])
        image = np.full((48, 64, 3), 90, np.uint8)
        frame = Frame(image, "front", second, Stamp(START_NS, None, "host"), None, 0)
        file.write(frame_entries(frame, START_NS + second * 10**9, quality=90, lost_before=0))
        if each:
            file.flush()
    file.close()
    return path


def config_of(model: Path, **more: object) -> NodeConfig:
    return NodeConfig.model_validate({"model": {"name": str(model), **more}})


def test_the_settings_are_those_in_force_where_the_replay_begins(
    recorded: Path, tmp_path: Path, in_process: Run
) -> None:
    model = recorded / "model" / "mine.onnx"
    configs = [(0, config_of(model, top_k=1)), (2, config_of(model, top_k=3))]
    path = written(tmp_path / "two.mcap", *configs)
    out = tmp_path / "out.jsonl"
    for start, count, changes in ((0, 1, 1), (2.5, 3, 0)):
        done = in_process("replay", path, "--speed", "max", "--from", start, "--jsonl", out)
        assert done.returncode == 0, done.stderr
        messages = [json.loads(line) for line in out.read_text().splitlines()]
        assert {len(message["labels"]) for message in messages} == {count}
        assert ("its settings changed 1 times" in done.stderr) == bool(changes)


@pytest.mark.parametrize(
    "engine",
    [{"precision": "fp16"}, {"device": "cuda:7"}, {"runtime": "openvino", "precision": "int8"}],
)
def test_an_engine_of_the_robot_that_does_not_run_here_is_replaced(
    recorded: Path, tmp_path: Path, in_process: Run, engine: Mapping[str, str]
) -> None:
    path = written(
        tmp_path / "gpu.mcap", (0, config_of(recorded / "model" / "mine.onnx", **engine))
    )
    out = tmp_path / "out.jsonl"
    done = in_process("replay", path, "--speed", "max", "--jsonl", out)
    assert done.returncode == 0, done.stderr
    assert all(not json.loads(line)["degraded"] for line in out.read_text().splitlines())
    assert "device" in engine or "in an engine of this computer" in done.stderr


def test_a_stranger_or_another_version_may_have_written_the_settings(
    recorded: Path, tmp_path: Path, in_process: Run
) -> None:
    model = {"name": str(recorded / "model" / "mine.onnx"), "of_the_future": 1, "top_k": 2}
    strange = {
        "name": "../../etc", "model": model, "detect": {"score": "high"}, "segment": 7,
        "camera": [{"name": "front", "source": "rtsp://x", "max_fps": -1}, 3],
        "wire": {"endpoint": "tcp://0.0.0.0:1"}, "limits": {"max_pixels": 1},
    }  # fmt: skip
    path = written(tmp_path / "strange.mcap", (0, strange))
    out = tmp_path / "out.jsonl"
    done = in_process("replay", path, "--speed", "max", "--jsonl", out)
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in out.read_text().splitlines()]
    assert {
        (message["model"]["name"], message["node"], len(message["labels"])) for message in messages
    } == {("mine", "perception", 2)}
    assert (
        len([line for line in done.stderr.splitlines() if "invalid, and are not used" in line]) == 4
    )
    content, _ = settings_of(strange)
    assert content.keys() == {"model"}


@pytest.mark.parametrize("config", [None, [], "x", {}, {"model": None}, {"camera": "x"}])
def test_a_recording_without_settings_is_replayed_with_the_defaults(
    tmp_path: Path, config: object, in_process: Run
) -> None:
    path = written(tmp_path / "plain.mcap", *(() if config is None else ((0, config),)), frames=1)
    recording = Recording([path])
    assert in_force(recording, recording.start_ns).model is None
    done = in_process("replay", path, "--speed", "max", "--jsonl", "-")
    # Settings that are no map are a part that was skipped.
    assert done.returncode == (0 if config is None or isinstance(config, dict) else 3), done.stderr
    assert json.loads(done.stdout)["model"]["name"] == "efficientnet_lite0"
    assert "names no model; replayed with efficientnet_lite0 (" in done.stderr


def test_the_settings_are_found_without_reading_what_comes_before(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recorded / "model" / "mine.onnx"
    path = written(tmp_path / "long.mcap", (0, config_of(model, top_k=2)), frames=30, each=True)
    read: list[int] = []
    messages = ChunkedFile.messages

    def counted(self: ChunkedFile, stream: Any, at: ChunkAt, *more: Any) -> list[Any]:
        read.append(at.offset)
        return messages(self, stream, at, *more)

    monkeypatch.setattr(ChunkedFile, "messages", counted)
    settings = in_force(Recording([path]), START_NS + 29 * 10**9)
    assert settings.config is not None
    assert settings.config["model"]["top_k"] == 2
    assert len(read) == 1
