"""Measures what the node promises, as ratios taken alternately in one run on the same frames.

Each row runs the plain way and ours in turn, frame by frame, so that a busy machine slows both, and
prints the medians, their spread and the ratio. `--json` prints the same for machines.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import skimage
import torch
import torchvision
from PIL import Image as PilImage
from rich.console import Console
from rich.table import Table

from node.capture.opencv import cv2
from node.capture.photos import read_image
from node.config import ModelConfig
from node.errors import ModelError
from node.frame import Image
from node.perception.catalogue import load_model
from node.perception.export import exported
from node.perception.model import Model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.preprocess import Preprocessor, reference_transform
from node.perception.runtimes import build_runtime

WARMUP = 8
SETTLE_S = 0.02
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. Times are medians in ms, spreads the 10th and 90th percentile.

    ratio: the plain way's median over ours; overhead: ours over the plain way's, less one.
    """

    name: str
    plain_ms: float
    plain_spread_ms: tuple[float, float]
    ours_ms: float
    ours_spread_ms: tuple[float, float]
    ratio: float
    note: str = ""


def alternately(plain: Callable[[Image], object], ours: Callable[[Image], object],
                frames: list[Image], rounds: int) -> tuple[list[float], list[float]]:  # fmt: skip
    """Runs both on each frame, `rounds` frames in all; times in ms."""
    times: tuple[list[float], list[float]] = ([], [])
    for place in range(WARMUP + rounds):
        frame = frames[place % len(frames)]
        for kept, function in zip(times, (plain, ours), strict=True):
            time.sleep(SETTLE_S)  # threads of the other side spin on for a while
            started = time.perf_counter()
            function(frame)
            if place >= WARMUP:
                kept.append((time.perf_counter() - started) * 1e3)
    return times


def row(name: str, plain: list[float], ours: list[float], note: str = "") -> Row:
    """The comparison of two lists of times in ms."""
    plain_ms, ours_ms = statistics.median(plain), statistics.median(ours)
    return Row(
        name, plain_ms, _spread(plain), ours_ms, _spread(ours), plain_ms / ours_ms, note
    )  # fmt: skip


def _spread(times: list[float]) -> tuple[float, float]:
    low, high = np.percentile(times, [10, 90])
    return float(low), float(high)


def frames_of(size: tuple[int, int]) -> list[Image]:
    """Real photographs, resized to the camera's size."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("coffee.png", "camera.png", "chelsea.png", "motorcycle_left.png", "astronaut.png")
    return [
        np.ascontiguousarray(cv2.resize(read_image(folder / name), size), np.uint8)
        for name in names
    ]


def plain_loop(model: Model) -> Callable[[Image], object]:
    """The loop that everybody writes first: PIL image, transforms, torch eager, argmax."""
    transform = reference_transform(model.preprocess)

    def loop(frame: Image) -> object:
        picture = PilImage.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        with torch.inference_mode():
            return model.network(transform(picture).unsqueeze(0)).argmax().item()

    return loop


def bench_preprocessing(rounds: int) -> list[Row]:
    """Our preprocessing against the reference transform, and how far its pixels are from it."""
    spec = load_model("efficientnet_lite0").preprocess
    reference = reference_transform(spec)
    preprocess = Preprocessor(spec)
    rows = []
    for name, size in SIZES.items():
        frames = frames_of(size)
        pictures = {id(f): PilImage.fromarray(cv2.cvtColor(f, cv2.COLOR_BGR2RGB)) for f in frames}
        differences = []
        for frame in frames:
            mean = torch.tensor(spec.mean).view(3, 1, 1)
            std = torch.tensor(spec.std).view(3, 1, 1)
            wanted = (reference(pictures[id(frame)]) * std + mean) * 255
            got = preprocess(frame)[0].flip(2).permute(2, 0, 1).float()
            differences.append((got - wanted).abs().mean().item())
        plain, ours = alternately(
            lambda f, p=pictures: reference(p[id(f)]), preprocess, frames, rounds
        )
        note = f"mean difference {max(differences):.3f} grey levels"
        rows.append(row(f"preprocessing {name}", plain, ours, note))
    return rows


def bench_model(name: str, weights: Path | None, rounds: int) -> list[Row]:
    """Every runtime against the plain loop and against itself without our code around it."""
    frames = frames_of(SIZES["720p"])
    loop = plain_loop(load_model(name, weights))
    rows = []
    for runtime, precision in (
        ("torch", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
    ):  # fmt: skip
        config = ModelConfig.model_validate(
            {"name": name, "weights": weights, "runtime": runtime, "precision": precision,
             "device": "cpu"}
        )  # fmt: skip
        try:
            perceiver = build_perceiver(config)
        except ModelError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        ours = perceiver.perceive
        plain_times, our_times = alternately(_with_all_threads(loop), ours, frames, rounds)
        rows.append(row(f"{name} {runtime} {precision}: plain loop / ours", plain_times, our_times))
        rows.append(_beyond_the_runtime(perceiver, config, frames, rounds))
    return rows


def _with_all_threads(loop: Callable[[Image], object]) -> Callable[[Image], object]:
    """The plain loop gets torch's own number of threads, whatever ours has set."""
    wanted = _TORCH_THREADS

    def run(frame: Image) -> object:
        ours = torch.get_num_threads()
        torch.set_num_threads(wanted)
        try:
            return loop(frame)
        finally:
            torch.set_num_threads(ours)

    return run


def _beyond_the_runtime(
    perceiver: Perceiver, config: ModelConfig, frames: list[Image], rounds: int
) -> Row:
    """What our frame takes beyond the bare runtime's inference of ready pixels."""
    model = load_model(config.name, config.weights)
    runtime = build_runtime(model, config)
    pixels = Preprocessor(model.preprocess)(frames[0]).clone()
    bare, whole = alternately(
        lambda frame: runtime.infer(pixels), perceiver.perceive, frames, rounds
    )
    beyond = statistics.median(whole) / statistics.median(bare) - 1
    return row(
        f"{config.name} {config.runtime} {config.precision}: bare runtime / ours",
        bare,
        whole,
        f"{beyond:+.1%} beyond the bare runtime",
    )


_TORCH_THREADS = torch.get_num_threads()


def seeded_resnet18(folder: Path) -> Path:
    """ResNet-18 with seeded weights, for a computer that cannot download the real ones."""
    torch.manual_seed(0)
    file = folder / "resnet18-seeded.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


def main() -> None:
    """Runs every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=60, help="frames of each row")
    arguments = parser.parse_args()
    logging.basicConfig(level="WARNING")

    rows = bench_preprocessing(arguments.rounds)
    rows += bench_model("efficientnet_lite0", None, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        file = seeded_resnet18(Path(folder))
        rows += bench_model("resnet18", file, arguments.rounds)
        exported(load_model("resnet18", file)).unlink(missing_ok=True)  # of no use to anybody later

    if arguments.json:
        print(json.dumps({"torch_threads": _TORCH_THREADS, "rows": [asdict(r) for r in rows]}))
        return
    table = Table("row", "plain ms", "ours ms", "ratio", "note", box=None, pad_edge=False)
    for entry in rows:
        table.add_row(
            entry.name,
            f"{entry.plain_ms:.2f} ({entry.plain_spread_ms[0]:.2f}-{entry.plain_spread_ms[1]:.2f})",
            f"{entry.ours_ms:.2f} ({entry.ours_spread_ms[0]:.2f}-{entry.ours_spread_ms[1]:.2f})",
            f"{entry.ratio:.2f}",
            entry.note,
        )
    console = Console(width=150)
    console.print(table)
    console.print("resnet18 has seeded weights: its speed is real, its labels are not")


if __name__ == "__main__":
    main()
