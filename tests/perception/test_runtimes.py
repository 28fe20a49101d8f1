"""The runtimes give the same answer as PyTorch, from one export that survives accidents."""

import csv
import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
import skimage
import torch
from conftest import ROOT
from onnx import TensorProto, helper
from support import commands

from node.capture.sources.image_files import read_image
from node.config.schema import ModelConfig
from node.errors import ModelError
from node.perception.cache import kept
from node.perception.models.registry import load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess.geometry import PreprocessSpec
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.export import exported
from node.perception.runtimes.normalised_ir import write_ir
from node.perception.runtimes.onnxruntime_runtime import OnnxRuntime
from node.perception.runtimes.openvino_runtime import has_native_bf16
from node.perception.runtimes.select import build_runtime

PICTURES = Path(skimage.__file__).parent / "data"
NAMES = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "astronaut.png")


@pytest.fixture(scope="module")
def torch_perceiver() -> Perceiver:
    return build_perceiver(ModelConfig(runtime="torch"))


@pytest.fixture(scope="module")
def named(torch_perceiver: Perceiver, shared_data: Path) -> dict[Path, int]:
    """What torch names photographs."""
    with (shared_data / "photos" / "labels.csv").open() as file:
        photos = [shared_data / "photos" / row["file"] for row in csv.DictReader(file)][::3]
    return {photo: torch_perceiver.perceive(read_image(photo)).labels[0].id for photo in photos}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_gives_the_logits_of_torch(runtime: str) -> None:
    model = load_model("efficientnet_lite0")
    preprocess = Preprocessor(model.preprocess)
    reference = build_runtime(model, ModelConfig(runtime="torch"))
    other = build_runtime(model, ModelConfig.model_validate({"runtime": runtime}))
    assert other.info.runtime == runtime
    for name in NAMES:
        pixels = preprocess(read_image(PICTURES / name))
        np.testing.assert_allclose(other.infer(pixels)[0], reference.infer(pixels)[0], atol=1e-3)


@pytest.mark.parametrize(
    ("runtime", "precision", "agreement"),
    [("onnxruntime", "fp32", 0.99), ("openvino", "fp32", 0.99), ("openvino", "bf16", 0.98)],
)
def test_a_runtime_names_photographs_as_torch_does(
    named: dict[Path, int], runtime: str, precision: str, agreement: float
) -> None:
    config = ModelConfig.model_validate({"runtime": runtime, "precision": precision})
    try:
        perceiver = build_perceiver(config)
    except ModelError as error:
        pytest.skip(str(error))
    same = sum(
        perceiver.perceive(read_image(photo)).labels[0].id == name for photo, name in named.items()
    )
    assert same / len(named) >= agreement


def test_no_thread_of_openvino_is_bound_to_a_core() -> None:
    """Where another process uses that core, all would wait for it. In a process of its own, since
    other engines bind threads here."""
    script = """if True:
        import os, threading, numpy as np
        from node.config.schema import ModelConfig
        from node.perception.models.registry import load_model
        from node.perception.runtimes.select import build_runtime

        runtime = build_runtime(load_model("efficientnet_lite0"), ModelConfig(runtime="openvino"))
        pixels, done = np.zeros((1, 224, 224, 3), np.uint8), threading.Event()
        runtime.infer(pixels)  # compiles, on threads of its own

        def infer():
            for _ in range(100):
                runtime.infer(pixels)
            done.set()

        free, bound = os.sched_getaffinity(0), set()
        threading.Thread(target=infer).start()
        while not done.is_set():
            for thread in os.listdir("/proc/self/task"):
                try:
                    if os.sched_getaffinity(int(thread)) != free:
                        bound.add(thread)
                except ProcessLookupError:
                    pass
        print(len(bound))
    """
    done = commands.run([sys.executable, "-c", script], timeout_s=120)
    assert done.stdout.strip() == "0", done.stderr


def test_auto_is_openvino_without_a_gpu(torch_perceiver: Perceiver) -> None:
    if torch.cuda.is_available():
        pytest.skip("this computer has a GPU, so auto is torch")
    perceiver = build_perceiver(ModelConfig())
    assert perceiver.info.runtime == "openvino"
    assert perceiver.info.precision == ("bf16" if has_native_bf16() else "fp32")
    assert perceiver.info.digest == torch_perceiver.info.digest


def test_a_damaged_export_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load_model("efficientnet_lite0")
    file = exported(model)
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert exported(model) == file
    assert len(file.read_bytes()) == len(whole)
    build_runtime(model, ModelConfig(runtime="onnxruntime"))


def test_two_processes_make_the_same_at_once(tmp_path: Path) -> None:
    """Both begin before either is done, and both end with a whole one."""
    code = (
        "import sys, time; from pathlib import Path; from node.perception.cache import kept\n"
        "def make(folder):\n"
        "    (Path(sys.argv[1]) / sys.argv[2]).touch()\n"
        "    while len(list(Path(sys.argv[1]).glob('begun*'))) < 2: time.sleep(0.01)\n"
        "    (folder / 'model.onnx').write_bytes(b'x' * 1_000_000)\n"
        "folder = kept('model-key', make)\n"
        "assert (folder / 'model.onnx').stat().st_size == 1_000_000"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), f"begun{index}"],
            cwd=ROOT, env={"XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
            stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    (kept,) = (tmp_path / "perception-node" / "models").iterdir()
    assert sorted(file.name for file in kept.iterdir()) == ["model.onnx", "sha256"]


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = load_model("efficientnet_lite0")
    with pytest.raises(ModelError, match=r"cannot be written.*XDG_CACHE_HOME"):
        build_runtime(model, ModelConfig(runtime="onnxruntime"))
    assert build_runtime(model, ModelConfig()).info.runtime == "torch"


def test_a_folder_that_a_killed_process_was_making_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = (
        "import os; from node.perception.cache import kept\n"
        "kept('killed', lambda folder: ((folder / 'x').touch(), os.kill(os.getpid(), 9)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    models = tmp_path / "perception-node" / "models"
    (abandoned,) = models.iterdir()
    kept("other", lambda folder: (folder / "x").touch())
    assert abandoned.exists()  # new: its process may not have locked it yet

    def make(folder: Path) -> None:
        (folder / "x").touch()
        os.utime(folder.parent, (0, 0))
        kept("third", lambda inner: (inner / "x").touch())

    os.utime(abandoned, (0, 0))
    kept("second", make)
    assert sorted(folder.name for folder in models.iterdir()) == ["other", "second", "third"]


def test_a_cache_whose_name_is_no_text_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(ModelError, match=r"not UTF-8; set XDG_CACHE_HOME"):
        exported(load_model("efficientnet_lite0"))


def test_an_export_that_no_process_can_be_started_for_is_no_fault_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet18_file: Path
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(ModelError, match=r"cannot start a process \(Resource temporarily"):
        exported(load_model("resnet18", resnet18_file))


def test_a_disk_that_is_full_in_an_export_is_an_error_of_the_cache(
    tmp_path: Path, resnet18_file: Path
) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from node.perception.models.registry import load_model\n"
        "from node.perception.runtimes.export import exported\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))\n"
        "exported(load_model('resnet18', Path(sys.argv[1])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, resnet18_file], cwd=ROOT, check=False,
        capture_output=True, text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    last = result.stderr.splitlines()[-1]
    assert "models cannot be written: File too large; " in last
    assert not list((tmp_path / "perception-node" / "models").iterdir())


@pytest.mark.parametrize("shape", [["n", 8, 8, 3], ["n", "n", "n", 3], ["n", "h", "w", 3]])
def test_a_batch_of_any_length_runs_whatever_the_graph_calls_its_axes(
    tmp_path: Path, shape: list[int | str]
) -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["levels"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [pixels], [logits])
    file = tmp_path / "graph.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file
    )
    runtime = OnnxRuntime(file, threads=1)
    for length in (1, 2, 9, 1):
        frames = np.full((length, 8, 8, 3), length, np.uint8)
        (means,) = runtime.infer(frames)
        assert means.tolist() == [[length] * 3] * length


_SIGNALLED = """
import gc, signal, sys, threading
from node.config.schema import ModelConfig
from node.perception.perceiver import build_perceiver
model = ModelConfig(name=sys.argv[1], runtime="openvino")
kept = [build_perceiver(model) for _ in range(3)]
for thread in (threading.Thread(target=kept.pop, args=(0,)), threading.Thread(target=kept.clear)):
    thread.start()
    thread.join()
    gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("stopped"))
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_after_models_have_come_and_gone_is_handled(tiny_model: Path) -> None:
    """OpenVINO leaves a thread a stack for signals that it has unmapped."""
    done = subprocess.run(
        [sys.executable, "-c", _SIGNALLED, tiny_model], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_a_full_disk_is_the_reason_why_a_graph_is_not_kept(tmp_path: Path) -> None:
    """OpenVINO says `basic_ios::clear: iostream error`. The limit is of each file here."""
    weights = ov.opset13.constant(np.ones((1, 3, 300, 300), np.float32))
    picture = ov.opset13.parameter([1, 3, 300, 300], np.float32)
    graph = ov.Model([ov.opset13.add(picture, weights)], [picture])
    ov.save_model(graph, tmp_path / "own.xml", compress_to_fp16=False)
    spec = PreprocessSpec(300, (300, 300), "bilinear", (0, 0, 0), (1, 1, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(ModelError, match="cannot be written: File too large; it keeps"):
            kept("full", lambda folder: write_ir(tmp_path / "own.xml", spec, folder / "model.xml"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
