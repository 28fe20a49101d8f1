"""Models: the default one with its real weights, torchvision's by name, and weights that fail."""

import dataclasses
import hashlib
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import torchvision
from conftest import ROOT, Run
from PIL import Image as PilImage

from node.capture.sources.image_files import read_image
from node.config.schema import ModelConfig
from node.errors import ModelError
from node.perception.classical import tags
from node.perception.models.download import OFFLINE_MODELS, fetched
from node.perception.models.published import RELEASED
from node.perception.models.registry import check_name, entries, fetch, load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess.reference import reference_transform
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.select import build_runtime
from node.perception.tasks.classify import class_scores, top_labels

PICTURES = Path(skimage.__file__).parent / "data"
TORCH = ModelConfig(runtime="torch", device="cpu")


@pytest.fixture(scope="module")
def default() -> Perceiver:
    """The default model as its paper has it."""
    return build_perceiver(TORCH)


def test_the_names_are_torchvisions() -> None:
    names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    assert load_model("efficientnet_lite0").label_names == tuple(names)


@pytest.mark.parametrize(
    ("picture", "name", "score"),
    [
        ("coffee.png", "espresso", 0.95),
        ("camera.png", "tripod", 0.94),
        ("motorcycle_left.png", "moped", 0.54),
        ("chelsea.png", "tiger cat", 0.39),
    ],
)
def test_the_default_model_knows_these_pictures(
    default: Perceiver, picture: str, name: str, score: float
) -> None:
    best = default.perceive(read_image(PICTURES / picture)).labels[0]
    assert best.name == name
    assert best.score == pytest.approx(score, abs=0.02)


def test_it_agrees_with_the_plain_loop_on_photographs(shared_data: Path) -> None:
    model = load_model("efficientnet_lite0")
    reference = reference_transform(model.preprocess)
    preprocess = Preprocessor(model.preprocess)
    runtime = build_runtime(model, TORCH)
    photos = sorted((shared_data / "photos").glob("*.JPEG"))[::8]
    same = 0
    for photo in photos:
        image = read_image(photo)
        tensor = reference(PilImage.fromarray(np.ascontiguousarray(image[:, :, ::-1])))
        with torch.inference_mode():
            plain = model.network(tensor.unsqueeze(0)).argmax().item()
        same += int(runtime.infer(preprocess(image))[0].argmax()) == plain
    assert same / len(photos) >= 0.99


def test_a_torchvision_model_gives_what_torchvision_gives(resnet18_file: Path) -> None:
    model = load_model("resnet18", resnet18_file)
    plain = torchvision.models.resnet18()
    plain.load_state_dict(torch.load(resnet18_file, weights_only=True))
    plain.eval()
    transforms = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    runtime = build_runtime(model, TORCH)
    preprocess = Preprocessor(model.preprocess)
    for name in ("coffee.png", "chelsea.png", "rocket.jpg"):
        image = read_image(PICTURES / name)
        picture = PilImage.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
        with torch.inference_mode():
            expected = plain(transforms(picture).unsqueeze(0))[0].numpy()
        got = runtime.infer(preprocess(image))[0][0]
        np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())
    assert model.digest == hashlib.sha256(resnet18_file.read_bytes()).hexdigest()
    assert model.label_names[967] == "espresso"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet121"])
def test_models_with_ways_of_their_own_load(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    plain = torchvision.models.get_model(name, weights=None, **settings)
    file = tmp_path / "weights.pth"
    torch.save(plain.state_dict(), file)
    model = load_model(name, file)
    (logits,) = build_runtime(model, TORCH).infer(
        Preprocessor(model.preprocess)(read_image(PICTURES / "coffee.png"))
    )
    assert logits.shape == (1, 1000)
    assert np.isfinite(logits).all()


def test_every_listed_model_says_its_size_and_whether_it_is_here() -> None:
    listed = entries()
    assert listed[0].name == "efficientnet_lite0"
    assert listed[0].weights_here
    assert {"resnet18", "mobilenet_v3_small", "vit_b_16"} <= {entry.name for entry in listed}
    networks = [entry for entry in listed if entry.name not in tags.NAMES]
    assert all(entry.size_mb and entry.parameters > 0 for entry in networks)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"no model has this name; the nearest: .*resnet18"):
        load_model("resnet_18")
    with pytest.raises(ModelError, match=r"a model file ends in \.onnx, \.xml, \.pt2"):
        load_model("models/mine.txt")
    with pytest.raises(ModelError, match="there is no such file"):
        load_model("yolox_nano.onnx")
    with pytest.raises(ModelError, match="is a PyTorch file with weights"):
        load_model("resnet18.pth")


def bad_weights(kind: str, folder: Path, resnet18_file: Path) -> Path:
    file = folder / "weights.pth"
    state = torch.load(resnet18_file, weights_only=True)
    match kind:
        case "missing":
            return file
        case "a folder":
            return folder
        case "empty":
            file.touch()
        case "text":
            file.write_text("these are no weights")
        case "truncated":
            file.write_bytes(resnet18_file.read_bytes()[:100_000])
        case "a pickled module":
            torch.save(torchvision.models.resnet18(), file)
        case "no tensors":
            torch.save({"epoch": 3}, file)
        case "another model":
            torch.save(torchvision.models.resnet34().state_dict(), file)
        case "other classes":
            state["fc.weight"] = torch.zeros(10, 512)
            torch.save(state, file)
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "does not exist"),
        ("a folder", "is a directory"),
        ("empty", "is empty (0 bytes)"),
        ("text", "is not a torch weights file, or is damaged"),
        ("truncated", "is not a torch weights file, or is damaged"),
        ("a pickled module", "holds a pickled object"),
        ("no tensors", "its entry 'epoch' is a int, not a tensor"),
        ("another model", "0 tensors missing, 80 unknown"),
        ("other classes", "fc.weight is 10x512, not 1000x512"),
    ],
)
def test_weights_that_do_not_serve_are_said(
    kind: str, reason: str, tmp_path: Path, resnet18_file: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        assert load_model("resnet18", bad_weights(kind, tmp_path, resnet18_file)).network
    assert reason in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_nested_in_a_checkpoint_are_found(tmp_path: Path, resnet18_file: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    state = torch.load(resnet18_file, weights_only=True)
    torch.save({"epoch": 3, "state_dict": state}, file)
    assert isinstance(load_model("resnet18", file).network, torch.nn.Module)


class WeightsServer:
    """Serves one file, whole or cut short, on loopback."""

    def __init__(self, content: bytes, *, sent: int | None = None) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:sent])

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub" / "checkpoints"


def test_weights_are_downloaded_once_and_checked(hub: Path) -> None:
    content = b"weights" * 1000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server = WeightsServer(content)
    url = f"{server.url}/{name}"
    assert fetched(url, "net") == hub / name
    server.close()
    assert fetched(url, "net").read_bytes() == content  # no server any more
    assert [file.name for file in hub.iterdir()] == [name]


@pytest.mark.parametrize("fault", ["damaged", "cut short", "no network"])
def test_a_download_that_fails_says_where_to_put_the_file(hub: Path, fault: str) -> None:
    content = b"weights" * 100_000
    digest = "00000000" if fault == "damaged" else hashlib.sha256(content).hexdigest()[:8]
    server = WeightsServer(content, sent=1000 if fault == "cut short" else None)
    url = f"{server.url}/net-{digest}.pth"
    if fault == "no network":
        server.close()
    with pytest.raises(ModelError) as caught:
        fetched(url, "net")
    if fault != "no network":
        server.close()
    problem = str(caught.value)
    assert url in problem
    assert f"put that file at {hub / f'net-{digest}.pth'}" in problem
    assert "works without a network: efficientnet_lite0" in problem
    assert list(hub.iterdir()) == []


def test_a_file_in_the_cache_that_is_damaged_is_fetched_again(hub: Path) -> None:
    content = b"weights" * 1000
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    hub.mkdir(parents=True)
    (hub / name).write_bytes(content[:100])
    server = WeightsServer(content)
    assert fetched(f"{server.url}/{name}", "net").read_bytes() == content
    server.close()


def test_labels_are_best_first_and_equal_ones_by_id() -> None:
    scores = class_scores(np.array([0.0, 2.0, 1.0, 2.0], np.float32), 4)
    labels = top_labels(scores, ("a", "b", "c", "d"), 3)
    assert [label.name for label in labels] == ["b", "d", "c"]
    assert labels[0].score == pytest.approx(np.exp(2) / (1 + 2 * np.exp(2) + np.exp(1)))
    with pytest.raises(ModelError, match="not finite"):
        class_scores(np.array([0.0, np.nan], np.float32), 2)
    with pytest.raises(ModelError, match="for 2 label names"):
        class_scores(np.zeros(3, np.float32), 2)


def test_the_offline_models_are_those_that_come_along() -> None:
    assert tuple(entry.name for entry in entries() if entry.bundled) == OFFLINE_MODELS
    assert re.fullmatch(r"[0-9a-f]{64}", load_model("efficientnet_lite0").digest)


def test_a_released_model_runs_by_its_name_and_is_held_against_its_sha256(
    hub: Path, shared_data: Path, in_process: Run
) -> None:
    hub.mkdir(parents=True)
    kept = hub / "yolox_nano.onnx"
    shutil.copy(shared_data / "models" / "yolox_nano.onnx", kept)
    result = in_process("models", "fetch", "yolox_nano")
    assert (result.returncode, result.stdout.strip()) == (0, str(kept))
    model = load_model("yolox_nano")
    assert (model.task, model.label_names[0], len(model.label_names)) == ("detect", "person", 80)


def test_a_released_model_that_cannot_be_had_says_where_to_put_it(
    hub: Path, in_process: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = WeightsServer(b"a page that says no")
    nano = dataclasses.replace(RELEASED["yolox_nano"], url=f"{server.url}/yolox_nano.onnx")
    monkeypatch.setitem(RELEASED, "yolox_nano", nano)
    result = in_process("models", "fetch", "yolox_nano")
    server.close()
    assert result.returncode == 3
    assert f"put that file at {hub / 'yolox_nano.onnx'}" in result.stderr
    assert "its sha256 does not begin with 695e750a" in result.stderr
    assert list(hub.iterdir()) == []
    assert in_process("models", "fetch", "yolox_nan").stderr.count("the nearest: yolox_nano") == 1


@pytest.mark.parametrize(
    ("name", "problem", "fix"),
    [
        ("best.pt", "is a PyTorch file with weights", "--model NAME --set model.weights=best.pt"),
        (
            "a/b.safetensors",
            "is a file of weights without a graph",
            "model.weights=a/b.safetensors",
        ),
        ("m.tflite", "is a TensorFlow Lite model", "export the model to ONNX or OpenVINO IR"),
        ("m.engine", "is a TensorRT engine, which runs on one kind of GPU", "(docs/models.md, "),
        ("m.H5", "is a Keras model", "export the model"),
        ("m.mlmodel", "is a Core ML model", "export the model"),
    ],
)
def test_a_file_of_another_format_is_named_with_what_to_do(
    name: str, problem: str, fix: str
) -> None:
    for use in (load_model, check_name, fetch):
        with pytest.raises(ModelError) as caught:
            use(name)
        assert problem in caught.value.problem
        assert fix in (caught.value.fix or "")
    assert "Files of other formats" in (ROOT / "docs" / "models.md").read_text()
