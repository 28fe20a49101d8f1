"""Benchmark: compares the node with reference code, alternately, in one run, on the same frames."""

import gc
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage

from node.capture.mailbox import LatestMailbox
from node.config.schema import NodeConfig
from node.image.frame import Frame, Image, Stamp
from node.image.jpeg import decode_jpeg, encode_jpeg
from node.perception.models.model import Model
from node.perception.perceiver import Perceiver
from node.perception.preprocess.reference import reference_transform
from node.perception.preprocess.resize import Preprocessor
from node.perception.runtimes.base import Runtime
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.transport.sequencing import LocalSink
from perception_client.messages.kinds import LabelsMessage, Message

BLOCK = 6
"""Frames that one side processes in a row, after one uncounted frame: the caches then hold this
side's code and weights, as in a separate process."""
SETTLE_S = 0.05
"""Pause before each side's turn, since the other side's threads spin on for a while."""
_TORCH_THREADS = torch.get_num_threads()

FPS = 30
_QUALITY = 95

_Item = TypeVar("_Item")

Work = Callable[[_Item], object]
Arrive = Callable[[_Item], _Item]
"""Prepares a frame just before its turn, as capture does; not part of the measured time."""


@dataclass(frozen=True, slots=True)
class Side:
    """Times of one side, in ms a frame."""

    ms: float
    """Median."""
    p10_ms: float
    """10th percentile."""
    p90_ms: float
    """90th percentile."""
    cpu_ms: float
    """Mean CPU time of all threads."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison of reference code (theirs) and the node's code (ours)."""

    name: str
    theirs: Side
    ours: Side
    ratio: float
    """Median over all frames of their time divided by ours."""
    beyond: float
    """Our median divided by theirs, minus one."""
    note: str = ""


class Decoded:
    """Returns frames as a camera's thread does: just decoded from motion JPEG, at most `fps` a
    second."""

    def __init__(self, frames: Sequence[Image], fps: float = math.inf) -> None:
        self._encoded = {id(frame): encode_jpeg(frame, _QUALITY) for frame in frames}
        self._period_s = 1 / fps
        self._due_s = 0.0

    def __call__(self, frame: Image) -> Image:
        """Waits until the frame is due, and returns it decoded; the same for both sides."""
        now_s = time.monotonic()
        time.sleep(max(0.0, self._due_s - now_s))
        self._due_s = max(self._due_s, now_s) + self._period_s
        return decode_jpeg(self._encoded[id(frame)])


class LiveNode:
    """A live node without its camera and its socket: mailbox, inference loop, messages. The
    caller's thread acts as the camera's."""

    def __init__(self, perceiver: Perceiver) -> None:
        self._stop = threading.Event()
        self._sent: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._frames = 0
        config = NodeConfig()
        self._camera = config.camera[0].name
        self._mailbox = LatestMailbox([self._camera])
        self._inference_loop = InferenceLoop(
            config,
            lambda config: perceiver,
            self._mailbox,
            MessageBuilder("bench"),
            LocalSink(self._sent.put),
            self._stop,
        )
        self._inference_loop.start()
        self._inference_loop.ready.wait()

    def label(self, image: Image) -> LabelsMessage:
        """Hands over a decoded frame, [height, width, 3] uint8 BGR, and waits for its message."""
        frame = Frame(image, self._camera, self._frames, Stamp.now(), None, 0)
        self._frames += 1
        self._mailbox.put(frame, prefetched=self._inference_loop.prefetch(frame))
        while True:
            message = self._sent.get()
            if isinstance(message, LabelsMessage):
                return message

    def close(self) -> None:
        """Ends the inference loop's thread."""
        self._stop.set()
        self._mailbox.wake()
        self._inference_loop.join(5.0)


def compared(
    name: str,
    theirs: Work[_Item],
    ours: Work[_Item],
    frames: Sequence[_Item],
    rounds: int,
    note: str = "",
    arrive: Arrive[_Item] = lambda frame: frame,
) -> Row:
    """Runs both sides alternately, a block of frames each, on the same `rounds` frames.

    Args:
        name: of the row.
        theirs: the reference code, called with one frame.
        ours: the node's code, called with the same frame.
        frames: [height, width, 3] uint8 BGR, or what each side makes them of; used cyclically.
        rounds: number of measured frames of each side.
        note: printed with the row.
        arrive: prepares each frame before its measurement.
    """
    walls = np.zeros((2, rounds))
    cpus = np.zeros((2, rounds))
    gc.collect()
    for first in range(-BLOCK, rounds, BLOCK):  # the first block warms up
        block = range(first, min(first + BLOCK, rounds))
        for side, work in enumerate((theirs, ours)):
            time.sleep(SETTLE_S)
            work(arrive(frames[first % len(frames)]))
            for index in block:
                frame = arrive(frames[index % len(frames)])
                cpu, wall = time.process_time(), time.perf_counter()
                work(frame)
                if first >= 0:
                    walls[side, index] = (time.perf_counter() - wall) * 1e3
                    cpus[side, index] = (time.process_time() - cpu) * 1e3
    side_theirs, side_ours = (_side(walls[side], cpus[side]) for side in range(2))
    ratio = float(np.median(walls[0] / walls[1]))
    return Row(name, side_theirs, side_ours, ratio, side_ours.ms / side_theirs.ms - 1, note)


def _side(walls: NDArray[np.float64], cpus: NDArray[np.float64]) -> Side:
    p10, median, p90 = np.percentile(walls, [10, 50, 90])
    return Side(float(median), float(p10), float(p90), float(cpus.mean()))


def plain_loop(model: Model) -> Work[Image]:
    """The usual first implementation: PIL image, torchvision transforms, torch eager, argmax, with
    torch's default number of threads."""
    transform = reference_transform(model.preprocess)
    network = model.network

    def loop(frame: Image) -> object:
        ours = torch.get_num_threads()
        torch.set_num_threads(_TORCH_THREADS)
        try:
            with torch.inference_mode():
                return network(transform(_picture(frame)).unsqueeze(0)).argmax().item()
        finally:
            torch.set_num_threads(ours)

    return loop


def rows(
    name: str, model: Model, perceiver: Perceiver, bare: Runtime, frames: Sequence[Image],
    rounds: int,
) -> list[Row]:  # fmt: skip
    """Compares a perceiver with the plain loop (if the model has a torch network) and with a bare
    runtime: frame after frame on one thread, and in the node at a camera's rate."""
    pixels = Preprocessor(model.preprocess)(frames[0])
    results = [] if model.build is None else [_against_loop(name, model, perceiver, frames, rounds)]
    results.append(
        compared(
            f"{name}: bare runtime / ours",
            lambda frame: bare.infer(pixels),
            perceiver.perceive,
            frames,
            rounds,
            arrive=Decoded(frames),
        )
    )
    node = LiveNode(perceiver)
    try:
        results.append(
            compared(
                f"{name}: bare runtime / ours, decoded to message at {FPS} fps",
                lambda frame: bare.infer(pixels),
                node.label,
                frames,
                rounds,
                arrive=Decoded(frames, FPS),
            )
        )
    finally:
        node.close()
    return results


def _against_loop(
    name: str, model: Model, perceiver: Perceiver, frames: Sequence[Image], rounds: int
) -> Row:
    return compared(
        f"{name}: plain loop / ours",
        plain_loop(model),
        perceiver.perceive,
        frames,
        rounds,
        arrive=Decoded(frames),
    )


def preprocessing(name: str, model: Model, frames: Sequence[Image], rounds: int) -> Row:
    """Compares our preprocessing with the reference transform, in time and in grey levels."""
    reference = reference_transform(model.preprocess)
    preprocess = Preprocessor(model.preprocess)
    pictures = {id(frame): _picture(frame) for frame in frames}
    difference = max(
        _difference(model, reference(pictures[id(frame)]), preprocess(frame)) for frame in frames
    )
    decoded, picture = Decoded(frames), pictures[id(frames[0])]

    def arrive(frame: Image) -> Image:
        nonlocal picture
        picture = pictures[id(frame)]
        return decoded(frame)

    return compared(
        f"preprocessing {name}",
        lambda frame: reference(picture),
        preprocess,
        frames,
        rounds,
        f"mean difference {difference:.3f} grey levels",
        arrive,
    )


def _picture(frame: Image) -> PilImage.Image:
    return PilImage.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))


def _difference(model: Model, reference: torch.Tensor, pixels: NDArray[np.uint8]) -> float:
    """Mean absolute difference in grey levels.

    Args:
        model: for its normalisation.
        reference: [3, height, width] float32 RGB, normalised.
        pixels: [1, height, width, 3] uint8 BGR.
    """
    mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (model.preprocess.mean, model.preprocess.std)
    )
    levels = (reference * std + mean) * 255
    picture = np.moveaxis(pixels[0, :, :, ::-1], 2, 0).astype(np.float32)
    return float(np.abs(picture - levels.numpy()).mean())
