"""Bench: what the node is compared with, and how: alternately, in one run, on the same frames."""

import gc
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from node.perception.preprocess.geometry import Preprocessor
from node.perception.preprocess.reference import reference_transform
from node.perception.runtimes.base import Runtime
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.transport.sequencing import LocalSink
from perception_client.messages.kinds import LabelsMessage, Message

BLOCK = 6
"""Frames that one side does in a row, after one that is not counted: each has its own code, weights
and threads at hand then, as in a process of its own."""
SETTLE_S = 0.05
"""Quiet before each side's turn: threads of the other spin on for a while."""
_TORCH_THREADS = torch.get_num_threads()

FPS = 30
_QUALITY = 95

Work = Callable[[Image], object]
Arrive = Callable[[Image], Image]
"""Gives a frame as it is at hand when its turn comes; not part of the time."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side's times: the median in ms a frame, the 10th and 90th percentile, CPU ms a frame."""

    ms: float
    p10_ms: float
    p90_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. ratio: the median over all frames of theirs by ours, frame by frame.

    beyond: how much longer ours takes, as a share of theirs.
    """

    name: str
    theirs: Side
    ours: Side
    ratio: float
    beyond: float
    note: str = ""


class Decoded:
    """Frames as a camera's thread has them: decoded a moment ago, from motion JPEG.

    fps: how many a second at most.
    """

    def __init__(self, frames: Sequence[Image], fps: float = math.inf) -> None:
        self._encoded = {id(frame): encode_jpeg(frame, _QUALITY) for frame in frames}
        self._period_s = 1 / fps
        self._due_s = 0.0

    def __call__(self, frame: Image) -> Image:
        """The frame decoded, the same for both sides, when it is its time."""
        now_s = time.monotonic()
        time.sleep(max(0.0, self._due_s - now_s))
        self._due_s = max(self._due_s, now_s) + self._period_s
        return decode_jpeg(self._encoded[id(frame)])


class LiveNode:
    """What a live node is between its camera and its socket: mailbox, labeller, messages. The
    caller's thread is the camera's."""

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
        """Hands a decoded frame over, and waits for the message that tells what is in it."""
        frame = Frame(image, self._camera, self._frames, Stamp.now(), None, 0)
        self._frames += 1
        self._mailbox.put(self._inference_loop.prefetch(frame))
        while True:
            message = self._sent.get()
            if isinstance(message, LabelsMessage):
                return message

    def close(self) -> None:
        """Ends its thread."""
        self._stop.set()
        self._mailbox.wake()
        self._inference_loop.join(5.0)


def compared(
    name: str,
    theirs: Work,
    ours: Work,
    frames: Sequence[Image],
    rounds: int,
    note: str = "",
    arrive: Arrive = lambda frame: frame,
) -> Row:
    """Runs both by turns, a few frames each and the same ones, `rounds` frames in all."""
    walls = np.zeros((2, rounds))
    cpus = np.zeros((2, rounds))
    gc.collect()
    for first in range(-BLOCK, rounds, BLOCK):  # the first block warms up
        places = range(first, min(first + BLOCK, rounds))
        for side, work in enumerate((theirs, ours)):
            time.sleep(SETTLE_S)
            work(arrive(frames[first % len(frames)]))
            for place in places:
                frame = arrive(frames[place % len(frames)])
                cpu, wall = time.process_time(), time.perf_counter()
                work(frame)
                if first >= 0:
                    walls[side, place] = (time.perf_counter() - wall) * 1e3
                    cpus[side, place] = (time.process_time() - cpu) * 1e3
    side_theirs, side_ours = (_side(walls[side], cpus[side]) for side in range(2))
    ratio = float(np.median(walls[0] / walls[1]))
    return Row(name, side_theirs, side_ours, ratio, side_ours.ms / side_theirs.ms - 1, note)


def _side(walls: NDArray[np.float64], cpus: NDArray[np.float64]) -> Side:
    p10, median, p90 = np.percentile(walls, [10, 50, 90])
    return Side(float(median), float(p10), float(p90), float(cpus.mean()))


def plain_loop(model: Model) -> Work:
    """The loop that everybody writes first: PIL image, transforms, torch eager, argmax; with as
    many threads as torch takes by itself."""
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
    """A perceiver against the plain loop, and against a bare runtime of the same kind: frame after
    frame on one thread, and as the node has it, at a camera's rate."""
    pixels = torch.cat([Preprocessor(model.preprocess)(frames[0])])
    found = [] if model.build is None else [_against_loop(name, model, perceiver, frames, rounds)]
    found.append(
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
        found.append(
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
    return found


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
    """Our preprocessing against the reference transform, and how far its pixels are from it."""
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


def _difference(model: Model, wanted: torch.Tensor, got: torch.Tensor) -> float:
    """Mean difference in grey levels of the reference's tensor and our pixels."""
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in (model.preprocess.mean, model.preprocess.std)
    )
    levels = (wanted * std + mean) * 255
    return float((got[0].flip(2).permute(2, 0, 1).float() - levels).abs().mean())
