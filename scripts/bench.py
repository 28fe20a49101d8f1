"""Measures the node's performance as ratios: both sides run alternately on the same frames.

`--json` prints one object for machines; docs/performance.md explains its keys. With
`--photos FOLDER` int8 is calibrated on one half of the photographs and the agreement of all
precisions is judged on the other half.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import skimage
import torch
import torchvision
from rich.console import Console

from bench import cameras, memory, neighbour, page, postprocess, recording, start, wire
from bench.bytes_to_message import bytes_to_message
from node.capture.sources.image_files import find_image_files, read_image
from node.cli.bench import rows_table
from node.config.schema import ModelConfig
from node.diagnostics.benchmark import Row, preprocessing, rows
from node.errors import ModelError
from node.image.frame import Image
from node.image.opencv import cv2
from node.perception.models.model import Model
from node.perception.models.registry import load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.select import build_choice
from node.perception.runtimes.tuning_result import Choice
from node.perception.tuning.quantise import quantised
from node.perception.tuning.tune import FLOAT_LAYERS

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
PLAIN = (
    ("torch", "fp32"), ("torch", "bf16"), ("onnxruntime", "fp32"), ("openvino", "fp32"),
    ("openvino", "bf16"),
)  # fmt: skip
FPS = 30


@dataclass(frozen=True, slots=True)
class Agreement:
    """Share of photographs with the same best label as torch in float32 on the reference
    transform's pixels, and the number of photographs."""

    name: str
    agreement: float
    photographs: int


@dataclass(frozen=True, slots=True)
class SteadyCpu:
    """CPU time in percent of one core at 30 frames a second of 720p with the default model: only
    decoding and the bare runtime, and the complete node."""

    bare_percent: float
    node_percent: float


def frames_of(size: tuple[int, int]) -> list[Image]:
    """Real photographs, resized to the camera's size."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "astronaut.png")
    return [
        np.ascontiguousarray(cv2.resize(read_image(folder / name), size), np.uint8)
        for name in names
    ]


def choices(model: Model, photos: list[Image]) -> list[Choice]:
    """Every runtime and precision of the model on this computer; int8 with photographs only, since
    it needs calibration."""
    combinations = [Choice(runtime, precision, "cpu") for runtime, precision in PLAIN]
    if photos:
        preprocess = Preprocessor(model.preprocess)
        pixels = [preprocess(photo).copy() for photo in photos[0::2]]
        for layers in FLOAT_LAYERS:
            graph = quantised(model, pixels, layers)
            combinations.append(Choice("openvino", "int8", "cpu", graph=graph, float_layers=layers))
    return combinations


def bench_model(
    name: str, weights: Path | None, photos: list[Image], rounds: int
) -> tuple[list[Row], list[Agreement]]:
    """Compares every runtime with the plain loop, the bare runtime, and torch's labels."""
    model = load_model(name, weights)
    frames = frames_of(SIZES["720p"])
    all_rows: list[Row] = []
    agreements: list[Agreement] = []
    reference = _reference_labels(model, photos[1::2])
    for choice in choices(model, photos):
        try:
            runtime, bare = build_choice(model, choice), build_choice(model, choice)
        except ModelError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        perceiver = Perceiver(model, runtime, top_k=5)
        perceiver.warm_up(1)
        layers = f" ({choice.float_layers} layers float)" if choice.float_layers else ""
        title = f"{name} {choice.runtime} {choice.precision}{layers}"
        all_rows += rows(title, model, perceiver, bare, frames, rounds)
        if photos:
            same = [
                perceiver.perceive(photo).labels[0].id == expected
                for photo, expected in zip(photos[1::2], reference, strict=True)
            ]
            agreements.append(Agreement(title, sum(same) / len(same), len(same)))
    return all_rows, agreements


def _reference_labels(model: Model, photos: list[Image]) -> list[int]:
    from node.diagnostics.benchmark import plain_loop

    loop = plain_loop(model)
    return [int(loop(photo)) for photo in photos]  # type: ignore[call-overload]


def on_video(
    measure: Callable[[Path, int, float], dict[str, object]], seconds: float
) -> dict[str, object]:
    """Runs a measurement on a 720p video of 30 frames a second."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "720p.mp4"
        _write_video(video)
        return measure(video, 8, max(seconds / 3, 2.0))


def steady_cpu(seconds: float) -> SteadyCpu:
    """Runs the bare loop and the node, one after the other, at 30 frames a second."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "720p.mp4"
        _write_video(video)
        endpoint = f"ipc://{folder}/labels.ipc"
        bare = [sys.executable, __file__, "--bare-loop", str(video)]
        node = [
            sys.executable, "-m", "node", "run", "--source", str(video), "--endpoint", endpoint,
            "--set", "camera.0.loop=true",
        ]  # fmt: skip
        return SteadyCpu(_cpu_percent(bare, seconds), _cpu_percent(node, seconds))


def _cpu_percent(command: list[str], seconds: float) -> float:
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process = psutil.Process(child.pid)
        time.sleep(_STARTED_S)
        before = sum(process.cpu_times()[:2])
        time.sleep(seconds)
        return (sum(process.cpu_times()[:2]) - before) / seconds * 100
    finally:
        child.terminate()
        child.wait(10)


_STARTED_S = 12.0


def _write_video(file: Path) -> None:
    width, height = SIZES["720p"]
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (width, height))
    photos = frames_of(SIZES["720p"])
    for index in range(10 * FPS):
        writer.write(np.roll(photos[index // FPS % len(photos)], index % FPS, axis=1))
    writer.release()


def _bare_loop(video: Path) -> None:
    """The indispensable work: decodes frames, and infers prepared pixels."""
    cv2.setNumThreads(1)
    model = load_model("efficientnet_lite0")
    perceiver = build_perceiver(ModelConfig())
    info = perceiver.info
    runtime = build_choice(model, Choice(info.runtime, info.precision, "cpu"))
    pixels = np.zeros((1, *model.preprocess.crop_px, 3), np.uint8)
    capture, due = cv2.VideoCapture(str(video)), time.monotonic()
    while True:
        decoded, _ = capture.read()
        if not decoded:
            capture = cv2.VideoCapture(str(video))
            continue
        runtime.infer(pixels)[0]
        due += 1 / FPS
        time.sleep(max(0.0, due - time.monotonic()))


def seeded_resnet18(folder: Path) -> Path:
    """ResNet-18 with seeded weights, for a computer that cannot download the real ones."""
    torch.manual_seed(0)
    file = folder / "resnet18-seeded.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


def main() -> None:
    """Runs and prints all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=60, help="frames of each comparison")
    parser.add_argument("--seconds", type=float, default=10, help="of the wire's and CPU's rows")
    parser.add_argument("--photos", help="folder of photographs, for int8 and agreement")
    parser.add_argument("--bare-loop", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level="WARNING")
    if arguments.bare_loop:
        _bare_loop(arguments.bare_loop)
        return
    results = measure(arguments.photos, arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(results, default=asdict))
        return
    console = Console(width=150, highlight=False)
    console.print(rows_table(results["rows"]))  # type: ignore[arg-type]
    for key, value in results.items():
        if key != "rows":
            console.print(f"{key}: {json.dumps(value, default=asdict)}")


def measure(photos_folder: str | None, rounds: int, seconds: float) -> dict[str, object]:
    """All results, by the keys of `--json`."""
    files = find_image_files(photos_folder) if photos_folder else []
    photos = [read_image(file) for file in files or []]
    default = load_model("efficientnet_lite0")
    preprocessing_rows = [
        preprocessing(name, default, frames_of(size), rounds) for name, size in SIZES.items()
    ]
    default_rows, agreements = bench_model("efficientnet_lite0", None, photos, rounds)
    with tempfile.TemporaryDirectory() as folder:
        weights = seeded_resnet18(Path(folder))
        resnet_rows, _ = bench_model("resnet18", weights, photos, rounds)
    return {
        "rows": [*preprocessing_rows, postprocess.row(rounds), *default_rows, *resnet_rows],
        "agreement": agreements,
        "bytes_to_message": bytes_to_message(frames_of(SIZES["720p"]), rounds),
        "steady_cpu": steady_cpu(seconds),
        "publish_to_receive": wire.wire_rows(seconds),
        "stopped_subscriber": wire.stopped_subscriber(seconds),
        "start": on_video(lambda video, *_: start.start_cost(video), seconds),
        "memory": on_video(lambda video, *_: memory.memory_cost(video, seconds), seconds),
        "recording": on_video(recording.recording_cost, seconds),
        "page": on_video(page.page_cost, seconds),
        "cameras": on_video(cameras.camera_cost, seconds),
        "neighbour": on_video(neighbour.neighbour_cost, seconds),
        "notes": ["resnet18 has seeded weights: its speed is real, its labels are not"],
    }


if __name__ == "__main__":
    main()
