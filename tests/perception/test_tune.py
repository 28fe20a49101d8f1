"""Tune: the choices are measured and judged on real frames, kept, and used by `auto`."""

import importlib.metadata
import json
import logging
import time
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import skimage
import torch
from conftest import Run
from numpy.typing import NDArray
from openvino._offline_transformations import apply_moc_transformations

from node.capture.sources.image_files import read_image
from node.config.schema import ModelConfig
from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.models.registry import load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess.gpu import GpuPreprocessor
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes import tuning_result as tuned_module
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.runtimes.export import exported
from node.perception.runtimes.fallback import (
    FIRST_RETRY_S,
    MAX_RETRY_S,
    CpuFallback,
    RetrySchedule,
)
from node.perception.runtimes.select import build_runtime
from node.perception.runtimes.torch_runtime import TorchRuntime
from node.perception.runtimes.tuning_result import (
    Choice,
    Measured,
    TuningResult,
    keep,
    kept_result,
    result_file,
)
from node.perception.tuning import quantise as quantise_module
from node.perception.tuning import tune as tune_module
from node.perception.tuning.quantise import quantised

PICTURES = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("efficientnet_lite0")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "perception-node"


def row(precision: str, ms: float, **more: object) -> Measured:
    values: dict[str, object] = {
        "choice": Choice("openvino", precision, "cpu", threads=1),
        "median_ms": ms, "p10_ms": ms, "p90_ms": ms, "cpu_ms": ms, "agreement": 1.0,
        "score_difference": 0.0,
    }  # fmt: skip
    return Measured(**{**values, **more})  # type: ignore[arg-type]


def result(*rows: Measured) -> TuningResult:
    return TuningResult("efficientnet_lite0", "3 frames of here", "2026-01-01T00:00:00+00:00", rows)


def _biases(file: Path) -> dict[str, NDArray[np.float32]]:
    """What is added to each convolution of a graph, by the convolution's name."""
    biases = {}
    graph = ov.Core().read_model(file)
    apply_moc_transformations(graph, cf=True)
    for add in graph.get_ordered_ops():
        if add.get_type_name() == "Add":
            layer, bias = (add.input_value(index).get_node() for index in range(2))
            if "Convolution" in layer.get_type_name() and bias.get_type_name() == "Constant":
                biases[layer.get_friendly_name()] = bias.data.ravel()
    return biases


def test_packages_without_metadata_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(tuned_module, "version", version)
    versions = tuned_module.computer()
    assert versions["torch"] == torch.__version__
    assert versions["perception-node"] == "unknown"


def test_tune_measures_keeps_and_auto_uses_it(
    in_process: Run, shared_data: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_module, "FLOAT_LAYERS", (0,))  # each takes ten seconds
    monkeypatch.setattr(tune_module, "_PASSES", 1)  # no figure is used
    monkeypatch.setattr(tune_module, "_FRAMES_A_PASS", 5)
    folder = own_cache.parent / "photos"
    folder.mkdir()
    for photo in sorted((shared_data / "photos").glob("*.JPEG"))[::2][:54]:
        (folder / photo.name).symlink_to(photo)
    of_the_user = logging.NullHandler()
    logging.getLogger("nncf").addHandler(of_the_user)
    done = in_process("tune", "--frames", folder, "--json", "--set", "model.threads=1")
    assert done.returncode == 0, done.stderr
    assert of_the_user.level == logging.NOTSET
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    measured = [row for row in rows if row["median_ms"] is not None]
    ways = {(row["choice"]["runtime"], row["choice"]["precision"]) for row in measured}
    assert {("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32")} <= ways
    assert ("openvino", "int8") in ways
    for row in measured:
        floor = 0.98 if row["choice"]["precision"] == "int8" else 0.99
        assert (row["refused"] is not None) == (row["agreement"] < floor), row
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["cpu_ms"] > 0
    (all_int8,) = {
        row["choice"]["graph"]
        for row in measured
        if row["choice"]["precision"] == "int8" and row["choice"]["float_layers"] == 0
    }
    float_biases = _biases(exported(load_model("efficientnet_lite0")))
    int8_biases = _biases(Path(all_int8))
    corrected = [
        layer
        for layer, bias in float_biases.items()
        if np.abs(int8_biases[layer] - bias).max() > 1e-4
    ]
    # NNCF leaves a bias as it was where the correction would be large: with the 7-bit weights of a
    # CPU without VNNI that is more than half of them. Without any correction, all stay.
    assert len(corrected) > len(float_biases) / 4

    (winner,) = [row for row in rows if row["winner"]]
    assert winner["refused"] is None
    assert winner["median_ms"] <= 1.05 * min(
        row["median_ms"] for row in measured if row["refused"] is None
    )
    (file,) = (own_cache / "tuned").iterdir()
    content = json.loads(file.read_text())
    assert content["winner"] == winner["choice"]
    assert content["computer"]["cores"]
    assert str(file) in done.stderr

    info = build_perceiver(ModelConfig()).info
    assert (info.runtime, info.precision) == (
        winner["choice"]["runtime"],
        winner["choice"]["precision"],
    )
    # int8 by name is what tune accepted, and its error says what to do where it accepted none.
    accepted = any(row["choice"]["precision"] == "int8" and not row["refused"] for row in measured)
    int8 = ModelConfig(precision="int8")
    if accepted:
        perceiver = build_perceiver(int8)
        assert perceiver.info.precision == "int8"
        assert perceiver.perceive(read_image(PICTURES / "coffee.png")).labels[0].name == "espresso"
    else:
        with pytest.raises(ModelError, match="lost too many labels"):
            build_perceiver(int8)


def test_the_first_layers_can_stay_in_floating_point(model: Model) -> None:
    graph = ov.Core().read_model(exported(model))
    layers = [op for op in graph.get_ordered_ops() if op.get_type_name().endswith("Convolution")]
    first = {op.get_friendly_name() for op in layers[:16]}
    kept_float = set(quantise_module._float_operator_names(graph, 16))
    assert first <= kept_float
    assert kept_float - first == set(quantise_module._float_operator_names(graph, 0)) - first


def test_int8_without_tuning_is_an_error_with_the_mend(model: Model, own_cache: Path) -> None:
    with pytest.raises(
        ModelError, match=r"not calibrated here; run perception-node tune.*--frames"
    ):
        build_runtime(model, ModelConfig(precision="int8"))


def test_int8_under_the_floor_is_never_used(model: Model, own_cache: Path) -> None:
    keep(model, result(row("int8", 1.0, refused="agreement under the floor"), row("fp32", 5.0)))
    assert build_runtime(model, ModelConfig()).info.precision == "fp32"
    with pytest.raises(ModelError, match="lost too many labels"):
        build_runtime(model, ModelConfig(precision="int8"))


def test_too_few_frames_for_int8_are_said(model: Model) -> None:
    pixels = Preprocessor(model.preprocess)(read_image(PICTURES / "coffee.png"))
    with pytest.raises(ModelError, match=r"1 frames to calibrate on; give at least 25"):
        quantised(model, [pixels])


def test_of_equally_fast_choices_the_most_faithful_wins_then_the_quietest() -> None:
    close = (
        row("int8", 1.00, agreement=0.98, cpu_ms=1.0),
        row("bf16", 1.02, agreement=0.99, cpu_ms=3.0),
        row("fp16", 1.03, agreement=0.99, cpu_ms=2.0),
        row("fp32", 2.00, cpu_ms=0.5),
    )
    winner = result(*close).winner
    assert winner is not None
    assert winner.precision == "fp16"
    assert result(row("fp32", 1.0, refused="under the floor")).winner is None


def test_a_result_that_cannot_be_read_is_said_and_left_out(
    model: Model, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = keep(model, result(row("fp32", 1.0)))
    assert kept_result(model) == result(row("fp32", 1.0))
    for text in ("{", '{"model": 1}', "[]", '{"measured": [{"choice": {}}]}'):
        file.write_text(text)
        assert kept_result(model) is None
        assert "run perception-node tune again" in caplog.text
        caplog.clear()


def test_a_result_of_another_computer_is_not_used(
    model: Model, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(model, result(row("fp32", 1.0)))
    here = tuned_module.computer()
    monkeypatch.setattr(tuned_module, "computer", lambda: here | {"processor": "another"})
    assert kept_result(model) is None
    assert not result_file(model).exists()


def test_a_quantised_graph_that_was_deleted_is_not_chosen(model: Model, own_cache: Path) -> None:
    gone = Choice("openvino", "int8", "cpu", threads=1, graph=own_cache / "gone" / "model.xml")
    keep(model, result(row("int8", 1.0, choice=gone), row("fp32", 5.0)))
    kept = kept_result(model)
    assert kept is not None
    assert kept.winner == row("fp32", 5.0).choice


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"runtime": "onnxruntime", "precision": "bf16"}, "onnxruntime on a CPU runs in fp32"),
        ({"runtime": "torch", "precision": "fp16"}, "torch on a CPU runs in fp32 or bf16"),
        ({"runtime": "torch", "precision": "int8"}, 'write model.runtime = "openvino"'),
        ({"runtime": "openvino", "device": "cuda"}, 'write model.device = "cpu"'),
    ],
)
def test_a_precision_that_a_runtime_has_not_is_said(
    model: Model, setting: dict[str, str], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        build_runtime(model, ModelConfig.model_validate(setting))


def test_torch_in_bf16_names_pictures_as_in_fp32(model: Model) -> None:
    pixels = Preprocessor(model.preprocess)(read_image(PICTURES / "coffee.png"))
    exact = TorchRuntime(model).infer(pixels)[0]
    rounded = TorchRuntime(model, precision="bf16").infer(pixels)[0]
    assert rounded.dtype == exact.dtype
    assert rounded.argmax() == exact.argmax()
    assert 0 < abs(rounded - exact).max() < 1


class Gpu:
    """Stands for a GPU: the CPU's answers until it fails. On the device `cpu:0` torch runs what is
    written for a GPU."""

    info = RuntimeInfo("torch", "fp16", "cpu:0")
    degraded = ()
    factor = 1.0

    def __init__(self, model: Model, frames: int) -> None:
        self._runtime = TorchRuntime(model)
        self._left = frames

    def infer(self, pixels: Pixels) -> object:
        if isinstance(pixels, np.ndarray):  # the canary, not a frame that the GPU has
            return tuple(output * self.factor for output in self._runtime.infer(pixels))
        if self._left == 0:
            raise ModelError("model 'x': failed on cuda:0 (an illegal memory access)")
        self._left -= 1
        return self._runtime.infer(pixels)


def test_a_gpu_that_fails_in_flight_costs_no_frame_and_is_said(model: Model) -> None:
    images = [read_image(PICTURES / name) for name in ("coffee.png", "camera.png")]
    runtime = CpuFallback(lambda: Gpu(model, 1), lambda: TorchRuntime(model), "cuda:0")
    perceiver = Perceiver(model, runtime, top_k=1)
    before, after = (perceiver.perceive(image) for image in images)
    assert (before.labels[0].name, before.degraded) == ("espresso", ())
    assert after.labels[0].name == "tripod"
    assert after.degraded == ("cuda:0 failed, running on cpu",)
    assert perceiver.info.device == "cpu"
    assert perceiver.info.precision == "fp32"


def test_a_gpu_that_fails_before_the_network_is_a_failed_gpu_too(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = CpuFallback(lambda: Gpu(model, 9), lambda: TorchRuntime(model), "cuda:0")
    perceiver = Perceiver(model, runtime, top_k=1)

    def broken(self: GpuPreprocessor, images: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(GpuPreprocessor, "batch", broken)
    for _ in range(2):
        seen = perceiver.perceive(read_image(PICTURES / "coffee.png"))
        assert seen.labels[0].name == "espresso"
        assert seen.degraded == ("cuda:0 failed, running on cpu",)


def test_what_the_cpu_cannot_do_either_is_an_error(model: Model) -> None:
    runtime = CpuFallback(lambda: Gpu(model, 0), lambda: Gpu(model, 0), "cuda:0")
    perceiver = Perceiver(model, runtime, top_k=1)
    with pytest.raises(ModelError, match="illegal memory access"):
        perceiver.perceive(read_image(PICTURES / "coffee.png"))


def test_a_gpu_that_works_again_is_used_again(model: Model) -> None:
    """The driver fails in flight, then at the first trial, then works. No frame is lost, and no
    trial comes before its time."""
    now_s, trials_at = [1000.0], []

    def gpu() -> Gpu:
        trials_at.append(now_s[0])
        if len(trials_at) == 2:
            raise RuntimeError("CUDA error: out of memory")
        return Gpu(model, 1 if len(trials_at) == 1 else 100)

    runtime = CpuFallback(gpu, lambda: TorchRuntime(model), "cuda:0", now_s=lambda: now_s[0])
    perceiver = Perceiver(model, runtime, top_k=1)
    image = read_image(PICTURES / "coffee.png")
    devices: list[str] = []
    deadline = time.monotonic() + 60
    while devices[-2:] != ["cpu", "cpu:0"]:
        assert time.monotonic() < deadline
        seen = perceiver.perceive(image)
        assert seen.labels[0].name == "espresso"
        devices.append(perceiver.info.device)
        assert (seen.degraded == ()) == (devices[-1] == "cpu:0")
        now_s[0] += FIRST_RETRY_S / 5
        time.sleep(0.01)  # a trial has a thread of its own
    assert devices[0] == "cpu:0"
    assert len(trials_at) == 3
    assert trials_at[1] - trials_at[0] >= FIRST_RETRY_S
    assert trials_at[2] - trials_at[1] >= 2 * FIRST_RETRY_S
    assert perceiver.perceive(image).degraded == ()


def test_a_gpu_that_computes_something_else_stays_unused(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """Its driver works again, and its outputs for the canary are wrong."""
    now_s = [1000.0]
    gpus: list[Gpu] = []

    def gpu() -> Gpu:
        gpus.append(Gpu(model, 1 if not gpus else 100))
        gpus[-1].factor = 1.5 if len(gpus) == 2 else 1.0
        return gpus[-1]

    runtime = CpuFallback(gpu, lambda: TorchRuntime(model), "cuda:0", now_s=lambda: now_s[0])
    perceiver = Perceiver(model, runtime, top_k=1)
    image = read_image(PICTURES / "coffee.png")
    deadline = time.monotonic() + 60
    while len(gpus) < 3 or perceiver.info.device != "cpu:0":
        assert time.monotonic() < deadline
        assert perceiver.perceive(image).labels[0].name == "espresso"
        now_s[0] += FIRST_RETRY_S / 5
        time.sleep(0.01)  # a trial has a thread of its own
    assert "cuda:0 gives other outputs than before" in caplog.text


def test_a_gpu_that_fails_again_and_again_is_tried_ever_more_rarely() -> None:
    schedule = RetrySchedule()
    assert not schedule.is_due(1e9)
    waits_s = [schedule.note_failure(0.0) for _ in range(8)]
    assert waits_s == [10, 20, 40, 80, 160, 320, MAX_RETRY_S, MAX_RETRY_S]
    assert (schedule.is_due(MAX_RETRY_S - 1), schedule.is_due(MAX_RETRY_S)) == (False, True)
    schedule.note_recovery(1000.0)
    assert not schedule.is_due(1e9)
    assert schedule.note_failure(1100.0) == MAX_RETRY_S  # it worked for 100 s: no recovery
    schedule.note_recovery(2000.0)
    assert schedule.note_failure(2700.0) == FIRST_RETRY_S


def test_a_gpu_that_is_not_there_is_said_in_every_message(model: Model) -> None:
    if torch.cuda.is_available():
        pytest.skip("this computer has a GPU")
    perceiver = build_perceiver(ModelConfig(device="cuda"))
    seen = perceiver.perceive(read_image(PICTURES / "coffee.png"))
    assert seen.degraded == ("cuda failed, running on cpu",)
    assert perceiver.info.device == "cpu"
    assert seen.labels[0].name == "espresso"


@pytest.mark.parametrize("name", ["coffee.png", "camera.png", "motorcycle_left.png"])
def test_the_gpu_sees_the_picture_that_the_cpu_sees(model: Model, name: str) -> None:
    image = read_image(PICTURES / name)
    on_gpu = GpuPreprocessor(model.preprocess, "cpu")(image)
    on_cpu = Preprocessor(model.preprocess)(image)
    assert on_gpu.shape == on_cpu.shape
    assert np.abs(on_gpu.numpy().astype(float) - on_cpu).mean() < 0.2


def test_a_batch_gives_each_image_its_own_labels(model: Model) -> None:
    images = [read_image(PICTURES / name) for name in ("coffee.png", "camera.png")]
    for runtime in ("torch", "onnxruntime", "openvino"):
        config = ModelConfig.model_validate({"runtime": runtime})
        perceiver = Perceiver(model, build_runtime(model, config), top_k=3)
        batch = perceiver.perceive_all(images)
        assert [seen.labels[0].name for seen in batch] == ["espresso", "tripod"]
        for seen, image in zip(batch, images, strict=True):
            alone = perceiver.perceive(image)
            assert [label.id for label in seen.labels] == [label.id for label in alone.labels]
            assert seen.labels[0].score == pytest.approx(alone.labels[0].score, abs=1e-4)
