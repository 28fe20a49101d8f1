"""Configuration: what is accepted, and the one line that says what is not."""

from pathlib import Path

import pytest
from conftest import Run

from node.config.load import changed, load_config, problems_in
from node.config.schema import is_loopback
from node.errors import ConfigError

WRONG = {
    "[model]\ntop_kk = 3": "model.top_kk: unknown key (its value is 3); did you mean top_k?",
    "modle = 1": "modle: unknown key (its value is 1); did you mean model?",
    '[[camera]]\nname = "front"\nfbs = 3': "camera.front.fbs: unknown key (its value is 3); did",
    '[model]\ntop_k = "3"': "model.top_k = '3': should be a valid integer",
    '[[camera]]\nfps = "fast"': "camera.0.fps = 'fast': should be a valid number",
    "[model]\ntop_k = 0": "model.top_k = 0: should be greater than or equal to 1",
    "[[camera]]\nwidth = 99999": "camera.0.width = 99999: should be less than or equal to 16384",
    "[[camera]]\nfps = nan": "camera.0.fps = nan: should be a finite number",
    '[[camera]]\nfourcc = "MJ"': "camera.0.fourcc = 'MJ': must match",
    '[model]\nruntime = "tpu"': "model.runtime = 'tpu': should be 'auto', 'torch'",
    "[model]\nweights = 3": "weights = 3: must be the path of a file, in quotes",
    "camera = 3": "camera = 3: write each camera as a [[camera]] section",
    "model = 3": "model = 3: must be a section, [model]",
    '[track]\nenabled = "yes"': "track.enabled = 'yes': should be true or false, without quotes",
    "[[camera]]\nroi = [[0, 0], [1, 1]]": "camera.0.roi: should have at least 3 items, and has 2",
    "[[camera]]\n[[camera]]": "two cameras are named 'camera'",
    '[[camera]]\nname = "a b"': "camera.a b.name = 'a b': must match",
    '[wire]\nendpoint = "udp://x"': "endpoint 'udp://x' is neither tcp nor ipc",
    '[wire]\nendpoint = "tcp://127.0.0.1:70000"': "a port up to 65535",
    '[wire]\nendpoint = "tcp://0.0.0.0:5570"': "write wire.insecure = true",
    '[wire]\nendpoint = "tcp://192.168.1.5:5570"': "can be reached from other computers",
    "x = [": "is not valid TOML",
    "[detect]\nclasses = 3": "detect.classes = 3: write a list, in brackets: [...]",
    '[monitor]\nhosts = "http://robot"': "write the name alone, such as robot.local",
    "[monitor]\nweb = 8080": "monitor.web: web = 8080 is not HOST:PORT; write 127.0.0.1:8080",
}


def test_a_check_names_what_is_wrong_between_keys_beside_what_is_wrong_in_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[[camera]]\nname = "left"\nfps = 5000\n[[camera]]\nname = "left"\nroi = [[0, 0], [1, 1]]\n'
        "[recording]\nquality = 900\nsplit_mb = 64\nbudget_mb = 100\n"
        '[control]\nendpoint = "tcp://127.0.0.1:5570"\n'
    )
    problems = problems_in(file)
    for expected in (
        "camera.left.fps = 5000",
        "camera.left.roi: should have at least 3 items",
        "recording.quality = 900",
        "two cameras are named 'left'",
        "recording: budget_mb = 100 is less than two files",
    ):
        assert sum(expected in problem for problem in problems) == 1, expected


def test_a_check_invents_no_problem_from_the_default_of_an_invalid_key(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[[camera]]\nname = "a b"\n[[camera]]\nname = "c d"\n')
    assert len(problems_in(file)) == 2
    file.write_text(
        "[[camera]]\ndeadline_s = -1\n[degrade]\nsteps = [{ every = 2 }]\n[recording]\n"
        'split_mb = "small"\nbudget_mb = 100\n'
    )
    assert len(problems_in(file)) == 2


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_one_line_with_file_key_and_value(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    problem = str(caught.value)
    assert problem.startswith(str(file))
    assert WRONG[text] in problem
    assert "\n" not in problem
    assert caught.value.exit_code == 2


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for file, reason in (
        (tmp_path / "none.toml", "there is no such file"),
        (tmp_path, "is a folder"),
        (binary, "is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_config(file)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_bytes('\ufeffname = "seven"\r\n[model]\r\ntop_k = 2\r\n'.encode())
    assert (load_config(file).name, load_config(file).model.top_k) == ("seven", 2)


def test_settings_change_keys_and_options_win(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[[camera]]\nname = "front"\nfps = 5.0\n[model]\ntop_k = 2\n')
    config = load_config(
        file,
        ["camera.front.fps=15", "camera.0.width=640", "model.top_k=3", "model.name=resnet18"],
        {"camera.0.source": "0", "model.name": "resnet50"},
    )
    (camera,) = config.camera
    assert (camera.name, camera.fps, camera.width, camera.source) == ("front", 15.0, 640, "0")
    assert config.model.top_k == 3
    assert config.model.name == "resnet50"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("top_k", "write it as key=value"),
        ("camera.back.fps=3", "no camera 'back'; cameras: front"),
        ("camera.fps=3", "name the camera, for example camera.0.fps"),
        ("model.topk=3", "did you mean top_k?"),
        ("detect.score=null", "detect.score = null: cannot be unset; its default is 0.25"),
        ("detect.scor=null", "did you mean score?"),
        ("detect.class_scores.cat=null", "detect.class_scores.cat = null: cannot be unset"),
        ("detect.classes=[]", "leaves nothing to find"),
    ],
)
def test_a_wrong_setting_is_said(tmp_path: Path, setting: str, reason: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[[camera]]\nname = "front"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(file, [setting])
    assert reason in str(caught.value)


def test_null_unsets_a_key_without_a_default(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        '[[camera]]\nname = "front"\nmax_fps = 5.0\n'
        '[detect]\nclasses = "cat"\ntag_size_m = 0.1\nclass_scores = { cat = 0.5, dog = 0.4 }\n'
    )
    keys = (
        "camera.front.max_fps",
        "detect.classes",
        "detect.tag_size_m",
        "detect.class_scores.cat",
    )
    config = load_config(file, [f"{key}=null" for key in keys])
    assert config == changed(load_config(file), dict.fromkeys(keys))
    assert config.camera[0].max_fps is config.detect.classes is config.detect.tag_size_m is None
    assert config.detect.class_scores == {"dog": 0.4}


def test_another_address_is_allowed_where_it_is_written_out() -> None:
    config = load_config(None, ["wire.endpoint=tcp://0.0.0.0:5570", "wire.insecure=true"])
    assert config.wire.endpoint == "tcp://0.0.0.0:5570"


@pytest.mark.parametrize(
    ("endpoint", "loopback"),
    [
        ("ipc:///tmp/x", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://localhost:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://*:1", False),
        ("tcp://eth0:1", False),
        ("tcp://127.0.0.1.example:1", False),
    ],
)
def test_only_loopback_is_loopback(endpoint: str, loopback: bool) -> None:
    assert is_loopback(endpoint) is loopback


@pytest.mark.parametrize("key", ["detect.classes", "crops.classes", "segment.classes"])
def test_one_name_is_a_list_of_one(key: str) -> None:
    section, name = key.split(".")
    for value in ("person", '["person"]', '"person"'):
        config = load_config(settings=[f"{key}={value}"])
        assert getattr(getattr(config, section), name) == ("person",)


def test_check_names_every_mistake(in_process: Run, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        """
        [[camera]]
        name = "front"
        fps = 0
        sauce = "0"
        [[camera]]
        name = "a b"
        [model]
        name = "resnet19"
        top_k = "five"
        [crops]
        model = "rtsp://user:secret@host/x"
        [degrade]
        steps = [{ model = "efficientnet_lite00" }]
        [wire]
        endpoint = "tcp://0.0.0.0:99"
        """
    )
    done = in_process("config", "check", file)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"error: {file}: ") for line in lines)
    for line, mistake in zip(
        lines,
        (
            "camera.front.fps = 0: ",
            "camera.front.sauce: unknown key",
            "camera.a b.name = 'a b': must match",
            "model.top_k = 'five': should be a valid integer",
            "wire: endpoint tcp://0.0.0.0:99 can be reached",
            "degrade.steps: no camera has a deadline to hold",
            "model.name: model 'resnet19': no model has this name; the nearest: resnet18",
            "crops.model: model 'rtsp://host/...': no model has this name",
            "degrade.steps.0.model: model 'efficientnet_lite00': no model has this name; the near",
        ),
        strict=True,
    ):
        assert mistake in line
    done = in_process("run", "--config", file)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"; and 5 more: perception-node config check {file}")


def test_check_takes_models_by_name_and_files_that_are_elsewhere(
    in_process: Run, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    for name in ("resnet18", "yolox_nano", "/on/the/robot/mine.onnx"):
        file.write_text(f'[model]\nname = "{name}"\n')
        assert in_process("config", "check", file).returncode == 0
