"""Settings that do not fit the model: one line before a node publishes, the same in `config check`
and `doctor`."""

import json
from pathlib import Path

import pytest
from conftest import Run

TAGS = '[model]\nname = "apriltag36h11"\n'
EVENT = "[recording]\nblack_box_s = 1.0\nblack_box_events = [{ "
UNFIT = {
    f'{TAGS}runtime = "torch"': "model.runtime = 'torch': model 'apriltag36h11' has no network",
    f'{TAGS}device = "cuda"': "model.device = 'cuda': model 'apriltag36h11' has no network",
    f'{TAGS}weights = "x.pth"': "has no network, so no weights; leave model.weights out",
    f'{TAGS}[detect]\nclasses = ["apriltag36h11:17", "apriltag25h9:17"]': (
        "detect.classes: 'apriltag25h9:17' is no class of this model"
    ),
    '[model]\nname = "yolox_nano"\n[detect]\nclasses = ["persn"]': "did you mean 'person'?",
    '[model]\nname = "yolox_nano"\nruntime = "torch"\n[detect]\nclass_scores = { x = 0.5 }': (
        "detect.class_scores: 'x' is no class of this model"
    ),
    '[model]\nname = "lraspp_mobilenet_v3_large"\n[segment]\nclasses = ["dgo"]': (
        "segment.classes: 'dgo' is no class of this model; did you mean 'dog'?"
    ),
    '[model]\nname = "yolox_nano"\n[crops]\nmodel = "resnet18"\nclasses = ["x"]': (
        "crops.classes: 'x' is no class of this model"
    ),
    f'{EVENT}kind = "appeared", name = "expresso" }}]': (
        "recording.black_box_events: 'expresso' is no class of this model; did you mean 'espresso'?"
    ),
    f'{EVENT}kind = "region_left", region = "dok" }}]': (
        "recording.black_box_events: no camera has a region 'dok'; regions: none"
    ),
    '[crops]\nmodel = "resnet18"': "finds no objects to look at; take a detector as model.name",
    '[model]\nname = "own.onnx"\nruntime = "torch"': "own.onnx runs in onnxruntime or openvino",
    '[model]\nname = "own.xml"\ndevice = "cuda:1"': "own.xml runs on the CPU here",
    '[model]\nruntime = "openvino"\nprecision = "fp16"': "runtime openvino runs in fp32 or bf16",
    '[model]\nruntime = "torch"\nprecision = "int8"': "torch runs in fp32 or bf16 or fp16 here",
    '[model]\ndevice = "cuda"\nprecision = "int8"': "a GPU runs in fp16 or bf16 or fp32 here",
    '[model]\ndevice = "cpu"\nprecision = "fp16"': "a CPU runs in fp32 or bf16 or int8 here",
    '[model]\nruntime = "onnxruntime"\ndevice = "cuda"': "the runtime onnxruntime runs on the CPU",
    '[[camera]]\ndeadline_s = 1.0\n[detect]\nclasses = ["cat"]\n'
    '[degrade]\nsteps = [{ model = "aruco4x4_50" }]': "'cat' is no class of this model",
}


@pytest.mark.parametrize(("content", "reason"), UNFIT.items(), ids=UNFIT.values())
def test_unfit_settings_end_a_node_before_it_publishes(
    in_process: Run, tmp_path: Path, content: str, reason: str
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(content)
    checked = in_process("config", "check", file)
    run = in_process("run", "--config", file, "--endpoint", f"ipc://{tmp_path}/labels")
    for done in (checked, run):
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
        assert "publishing" not in done.stderr
    assert run.stderr.count("\n") == 1


def test_an_unknown_model_ends_a_node_before_it_publishes(in_process: Run, tmp_path: Path) -> None:
    done = in_process("run", "--model", "best.pt", "--endpoint", f"ipc://{tmp_path}/labels")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


def test_a_card_names_the_classes_that_settings_may_name(in_process: Run, tmp_path: Path) -> None:
    (tmp_path / "own.onnx").touch()
    card = tmp_path / "own.toml"
    card.write_text(
        'name = "own"\ntask = "detect"\ndecoder = "yolox"\nlabels = ["cat"]\n'
        "[input]\nsize = [64, 64]"
    )
    file = tmp_path / "node.toml"
    for name, code in (("dog", 2), ("cat", 0)):
        file.write_text(f'[model]\nname = "{tmp_path}/own.onnx"\n[detect]\nclasses = ["{name}"]')
        assert in_process("config", "check", file).returncode == code
    card.write_text("name = 3")
    broken = in_process("config", "check", file)
    assert (broken.returncode, broken.stderr.count("\n")) == (2, 1)
    assert f"{card}: name = 3" in broken.stderr


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (f"{TAGS}[detect]\ntag_size_m = 0.1", "tags of camera camera get no pose without its"),
        ("[detect]\ntag_size_m = 0.1", "model efficientnet_lite0 finds no tags"),
        (
            f"{TAGS}[[camera]]\ncalibration = {{ width = 9, height = 9, fx = 1.0, fy = 1.0, "
            "cx = 4.0, cy = 4.0 }",
            "tags get no pose without detect.tag_size_m",
        ),
    ],
)
def test_what_lacks_for_a_pose_is_a_note(
    in_process: Run, tmp_path: Path, content: str, note: str
) -> None:
    file = tmp_path / "node.toml"
    file.write_text(content)
    done = in_process("config", "check", file)
    assert done.returncode == 0, done.stderr
    assert note in done.stderr


def test_doctor_loads_what_run_would_load(in_process: Run) -> None:
    for settings, verdict, found in (
        ("detect.classes=x", "wrong", "detect.classes: 'x' is no class of this model"),
        ("detect.score=0.5", "ok", "apriltag36h11 (detect, opencv fp32 on cpu), sha256 "),
    ):
        done = in_process(
            "doctor", "--json", "--set", "model.name=apriltag36h11", "--set", settings
        )
        findings = {item["what"]: item for item in map(json.loads, done.stdout.splitlines())}
        assert findings["model"]["verdict"] == verdict
        assert found in findings["model"]["found"]
