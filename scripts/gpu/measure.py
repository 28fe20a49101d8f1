"""Measures the node on a GPU, by turns with the plain loop and with the bare network, and writes
one JSON file. `check` runs it."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage
import torch
import torchvision

from node.capture.mailbox import LatestMailbox
from node.config.schema import CameraConfig, NodeConfig
from node.diagnostics.benchmark import Decoded, LiveNode, Row, compared
from node.image.frame import Frame, Image, Stamp
from node.perception.models.model import Model
from node.perception.models.onnx_to_torch import as_torch
from node.perception.models.registry import load_model
from node.perception.perceiver import MAX_BATCH, Perceiver
from node.perception.preprocess.reference import reference_transform
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.gpu_network import GpuNetwork
from node.perception.runtimes.torch_runtime import TorchRuntime
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.transport.sequencing import LocalSink
from perception_client.messages.kinds import LabelsMessage, Message

SIZE = (1280, 720)
FPS = 30
CAMERAS = 8


def main() -> None:
    """Measures everything that the arguments give, a part at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file to write")
    parser.add_argument("--detector", type=Path, help="an ONNX detector with its card")
    parser.add_argument("--photos", type=Path, help="folder of photographs, for agreement")
    parser.add_argument("--device", default="cuda:0", help="cpu tries the script out")
    parser.add_argument("--rounds", type=int, default=48, help="frames of each comparison")
    parser.add_argument("--seconds", type=float, default=6, help="of the row of several cameras")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # as the node does
    results: dict[str, object] = {"computer": _computer(arguments.device)}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in _parts(arguments, Path(folder)):
            started = time.monotonic()
            try:
                results[name] = part()
            except Exception as error:  # the other parts are worth their time on a borrowed GPU
                results[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            took_s = round(time.monotonic() - started, 1)
            print(f"{name} ({took_s} s): {json.dumps(results[name])}", flush=True)
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    errors = [name for name, result in results.items() if "error" in str(result)[:10]]
    sys.exit(1 if errors else 0)


Part = Callable[[], object]


def _parts(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Part]]:
    frames = _frames()
    rounds, device = arguments.rounds, arguments.device
    models = _models(folder, arguments.detector)
    # The short parts first: a borrowed GPU can be gone before the end.
    first = models["resnet18"]
    yield "cameras", lambda: _cameras(first, frames, arguments.seconds, device)
    if arguments.photos is not None:
        lite = models["efficientnet_lite0"]
        yield "agreement", lambda: _agreement(lite, arguments.photos, device)
    yield "start", lambda: _starts(device)
    for name, model in models.items():
        yield name, lambda name=name, model=model: _of_model(name, model, frames, rounds, device)


def _computer(device: str) -> dict[str, object]:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "none"
    return {"gpu": name, "torch": torch.__version__, "cores": os.cpu_count(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}  # fmt: skip


def _frames() -> list[Image]:
    folder = Path(skimage.__file__).parent / "data"
    names = ("coffee.png", "chelsea.png", "astronaut.png", "motorcycle_left.png")
    pictures = [cv2.imread(str(folder / name)) for name in names]
    return [cv2.resize(picture, SIZE) for picture in pictures if picture is not None]


def _models(folder: Path, detector: Path | None) -> dict[str, Model]:
    """ResNet-18 and LRASPP have seeded weights: their time does not depend on them."""
    torch.manual_seed(0)
    resnet, lraspp = folder / "resnet18.pth", folder / "lraspp.pth"
    torch.save(torchvision.models.resnet18().state_dict(), resnet)
    segmentation = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    torch.save(segmentation.state_dict(), lraspp)
    models = {
        "resnet18": load_model("resnet18", resnet),
        "efficientnet_lite0": load_model("efficientnet_lite0"),
        "lraspp_mobilenet_v3_large": load_model("lraspp_mobilenet_v3_large", lraspp),
    }
    return models | ({"detector": load_model(str(detector))} if detector else {})


def _of_model(
    name: str, model: Model, frames: list[Image], rounds: int, device: str
) -> dict[str, object]:
    model = as_torch(model) if model.is_onnx else model
    precision = "fp16" if device.startswith("cuda") else "fp32"
    pixels = Preprocessor(model.preprocess)(frames[0])
    eager = TorchRuntime(model, device, precision)
    started = time.monotonic()
    runtime = TorchRuntime(model, device, precision, compiles=True)
    compile_s = time.monotonic() - started
    perceiver = Perceiver(model, runtime, top_k=5)
    perceiver.warm_up(1)
    runtime.infer(pixels)
    bare = _bare(runtime, pixels, device)
    results: dict[str, object] = {"compile_s": round(compile_s, 1)}
    network = compared(
        "", lambda frame: _bare_call(eager, pixels, device), lambda frame: bare(), frames, rounds
    )
    results["network_eager_ms"], results["network_ms"] = _medians(network)
    decoded = Decoded(frames)
    results["labels"] = _row(
        compared("", lambda frame: bare(), perceiver.perceive, frames, rounds, arrive=decoded)
    )
    results["postprocess_ms"], results["preprocess_ms"] = _steps(perceiver, frames)
    if model.task == "classify":
        plain = _plain_loop(model, device)
        row = compared("", plain, perceiver.perceive, frames, rounds, arrive=decoded)
        results["plain_loop"] = _row(row)
    node = LiveNode(perceiver)
    try:
        for key, fps in (("message", 1000.0), ("message_30_fps", float(FPS))):
            arrive = Decoded(frames, fps)
            row = compared("", lambda frame: bare(), node.label, frames, rounds, arrive=arrive)
            results[key] = _row(row)
    finally:
        node.close()
    return results


def _row(row: Row) -> dict[str, float]:
    return {
        "theirs_ms": round(row.theirs.ms, 3),
        "ours_ms": round(row.ours.ms, 3),
        "ours_p90_ms": round(row.ours.p90_ms, 3),
        "beyond_ms": round(row.ours.ms - row.theirs.ms, 3),
        "theirs_cpu_ms": round(row.theirs.cpu_ms, 3),
        "ours_cpu_ms": round(row.ours.cpu_ms, 3),
    }


def _medians(row: Row) -> tuple[float, float]:
    return round(row.theirs.ms, 3), round(row.ours.ms, 3)


def _bare(runtime: TorchRuntime, pixels: np.ndarray, device: str) -> Callable[[], object]:
    """The bare network: its graph on pixels that are on the GPU already, until it is done."""
    on_device = torch.from_numpy(pixels).to(device)
    graph_owner = runtime._on_gpu
    if not isinstance(graph_owner, GpuNetwork):
        return lambda: runtime.infer(pixels)
    graph = graph_owner._graphs[on_device.shape]._graph
    assert graph is not None
    stream = torch.cuda.current_stream(device)

    def replay() -> None:
        graph.replay()
        stream.synchronize()

    return replay


def _bare_call(runtime: TorchRuntime, pixels: np.ndarray, device: str) -> object:
    if not hasattr(runtime, "bare"):
        runtime.infer(pixels)
        runtime.bare = _bare(runtime, pixels, device)  # type: ignore[attr-defined]
    return runtime.bare()  # type: ignore[attr-defined]


def _plain_loop(model: Model, device: str) -> Callable[[Image], object]:
    """The usual first implementation on a GPU: PIL image, torchvision's transforms, the network in
    float32, argmax."""
    transform = reference_transform(model.preprocess)
    network = model.network.to(device)
    to_pil = torchvision.transforms.ToPILImage()

    def loop(frame: Image) -> object:
        with torch.inference_mode():
            picture = to_pil(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
            return network(transform(picture).unsqueeze(0).to(device)).argmax().item()

    return loop


def _steps(perceiver: Perceiver, frames: list[Image]) -> tuple[float, float]:
    results = [perceiver.perceive(frame) for frame in frames * 20]
    return tuple(
        round(statistics.median(values) / 1e6, 3)
        for values in zip(*((r.postprocess_ns, r.preprocess_ns) for r in results), strict=True)
    )  # type: ignore[return-value]


class _Cameras:
    """A node without sockets, whose cameras hand over frames at a camera's rate."""

    def __init__(self, perceiver: Perceiver, frames: list[Image]) -> None:
        self.ages_ms: list[float] = []
        self.counts: dict[str, int] = {}
        self._frames = frames
        names = [f"camera{index}" for index in range(CAMERAS)]
        config = NodeConfig(camera=tuple(CameraConfig(name=name) for name in names))
        self._stop = threading.Event()
        self._mailbox = LatestMailbox(names)
        self._loop = InferenceLoop(
            config, lambda config: perceiver, self._mailbox, MessageBuilder("bench"),
            LocalSink(self._sent), self._stop,
        )  # fmt: skip
        self._names = names

    def run(self, seconds: float) -> None:
        self._loop.start()
        self._loop.ready.wait()
        end_s = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._capture, args=(index, name, end_s))
            for index, name in enumerate(self._names)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(0.2)
        self._stop.set()
        self._mailbox.wake()
        self._loop.join(5.0)

    def _capture(self, index: int, name: str, end_s: float) -> None:
        due_s, number = time.monotonic() + index / CAMERAS / FPS, 0
        while due_s < end_s:
            time.sleep(max(0.0, due_s - time.monotonic()))
            image = self._frames[(index + number) % len(self._frames)].copy()
            frame = Frame(image, name, number, Stamp.now(), None, 0)
            self._mailbox.put(frame, prefetched=self._loop.prefetch(frame))
            number += 1
            due_s += 1 / FPS

    def _sent(self, message: Message) -> None:
        if isinstance(message, LabelsMessage) and message.status == "ok":
            age_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - message.stamp_ns
            self.ages_ms.append(age_ns / 1e6)
            self.counts[message.camera] = self.counts.get(message.camera, 0) + 1


def _cameras(model: Model, frames: list[Image], seconds: float, device: str) -> dict[str, object]:
    precision = "fp16" if device.startswith("cuda") else "fp32"
    perceiver = Perceiver(model, TorchRuntime(model, device, precision), top_k=5)
    perceiver.warm_up(CAMERAS)
    cameras = _Cameras(perceiver, frames)
    started, cpu = time.monotonic(), time.process_time()
    cameras.run(seconds)
    cpu_cores = (time.process_time() - cpu) / (time.monotonic() - started)
    p50, p99 = np.percentile(cameras.ages_ms, [50, 99])
    return {
        "cameras": CAMERAS, "batch": min(perceiver.at_most, MAX_BATCH),
        "frames_a_camera": sorted(cameras.counts.values()), "expected": int(seconds * FPS),
        "age_p50_ms": round(float(p50), 2), "age_p99_ms": round(float(p99), 2),
        "cpu_cores": round(cpu_cores, 2),
    }  # fmt: skip


def _agreement(model: Model, folder: Path, device: str) -> dict[str, object]:
    precision = "fp16" if device.startswith("cuda") else "fp32"
    on_cpu = Perceiver(model, TorchRuntime(model), top_k=1)
    on_gpu = Perceiver(model, TorchRuntime(model, device, precision), top_k=1)
    images = [cv2.imread(str(file)) for file in sorted(folder.iterdir())]
    pictures = [image for image in images if image is not None]
    same = sum(
        on_cpu.perceive(picture).labels[0].id == on_gpu.perceive(picture).labels[0].id
        for picture in pictures
    )
    return {"photographs": len(pictures), "same_label": same}


def _starts(device: str) -> dict[str, object]:
    """From the start of a process to its first label: torch's import, the driver and the model."""
    code = (
        "import time; started = time.monotonic()\n"
        "import numpy as np\n"
        "from node.config.schema import ModelConfig\n"
        "from node.perception.perceiver import build_perceiver\n"
        "imported = time.monotonic()\n"
        f"perceiver = build_perceiver(ModelConfig(device={device!r}))\n"
        "built = time.monotonic()\n"
        "perceiver.perceive(np.zeros((720, 1280, 3), np.uint8))\n"
        "print(imported - started, built - imported, time.monotonic() - started)\n"
    )
    runs = []
    for _ in range(2):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        parts = [round(float(value), 2) for value in done.stdout.split()]
        runs.append({"import_s": parts[0], "build_s": parts[1], "first_label_s": parts[2],
                     "process_s": round(time.monotonic() - started, 2)})  # fmt: skip
    return {"runs": runs}


if __name__ == "__main__":
    main()
