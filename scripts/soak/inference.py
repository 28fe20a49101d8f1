"""Runs the node's own path from mailbox to message for very many frames of a source that is faster
than the model. Used by `scripts/soak.py`."""

import threading
import time
from array import array
from dataclasses import dataclass

import numpy as np
import psutil

from node.capture.grabber import number
from node.capture.mailbox import LatestMailbox
from node.capture.sources.base import Picture
from node.capture.sources.demo import DemoSource
from node.config.schema import CameraConfig, NodeConfig
from node.image.frame import Stamp
from node.perception.perceiver import build_perceiver
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.transport.sequencing import LocalSink
from perception_client.messages.codec import encode
from perception_client.messages.kinds import LabelsMessage, Message

_CAMERA = "soak"
_POINTS = 10
_MOST_GROWN_MIB = 20.0
_MOST_OLDER = 1.5
_SOURCE_PERIOD_S = 0.001


@dataclass(frozen=True, slots=True)
class Soaked:
    """memory_mib: at equidistant points after the first tenth. kib_per_1000: growth per 1,000
    frames. age_ms: from capture to message, p50 and p99, in the first and the last tenth."""

    frames: int
    dropped: int
    seconds: float
    memory_mib: list[float]
    kib_per_1000: float
    age_first_ms: tuple[float, float]
    age_last_ms: tuple[float, float]

    @property
    def flat(self) -> bool:
        """Whether neither memory nor age grew."""
        grown = self.memory_mib[-1] - self.memory_mib[0]
        return grown <= _MOST_GROWN_MIB and self.age_last_ms[0] <= _MOST_OLDER * max(
            self.age_first_ms[0], 1.0
        )


def soak(frames: int, seconds: float) -> Soaked:
    """Runs until the number of frames is labelled or the time has passed."""
    mailbox = LatestMailbox([_CAMERA])
    stop = threading.Event()
    ages_ns = array("q")
    memory: list[int] = []
    process = psutil.Process()

    def note(message: Message) -> None:
        if not isinstance(message, LabelsMessage) or message.stamp_mono_ns is None:
            return
        encode(message)
        ages_ns.append(time.monotonic_ns() - message.stamp_mono_ns)
        if len(ages_ns) % 50 == 1:
            memory.append(process.memory_info().rss)

    inference_loop = InferenceLoop(
        NodeConfig(camera=(CameraConfig(name=_CAMERA),)),
        lambda config: build_perceiver(config.model),
        mailbox, MessageBuilder("soak"), LocalSink(note), stop,
        max_frames=frames,
    )  # fmt: skip
    inference_loop.start()
    inference_loop.ready.wait(120)
    started = time.monotonic()
    _feed(mailbox, inference_loop, started + seconds)
    stop.set()
    inference_loop.join(10)
    if inference_loop.failure is not None:
        raise inference_loop.failure
    return _summary(ages_ns, memory, mailbox.dropped(_CAMERA), time.monotonic() - started)


def _feed(mailbox: LatestMailbox, inference_loop: InferenceLoop, until: float) -> None:
    """Puts frames, from a few prepared pictures, faster than any model labels them."""
    demo = DemoSource()
    images = [demo.read().image for _ in range(200)][::20]
    frame_id = 0
    while not inference_loop.ended.is_set() and time.monotonic() < until:
        picture = Picture(images[frame_id % len(images)], Stamp.now(), None, 0)
        mailbox.put(number(picture, _CAMERA, frame_id))
        frame_id += 1
        time.sleep(_SOURCE_PERIOD_S)


def _summary(ages_ns: "array[int]", memory: list[int], dropped: int, seconds: float) -> Soaked:
    tenth = max(1, len(ages_ns) // 10)
    after = np.array(memory[len(memory) // 10 :]) / 2**20
    indices = np.linspace(0, len(after) - 1, _POINTS).astype(int)
    slope = np.polyfit(np.arange(len(after)) * 50, after, 1)[0] if len(after) > 2 else 0.0
    return Soaked(
        frames=len(ages_ns),
        dropped=dropped,
        seconds=seconds,
        memory_mib=[round(float(after[index]), 1) for index in indices],
        kib_per_1000=float(slope * 1024 * 1000),
        age_first_ms=_percentiles(ages_ns[:tenth]),
        age_last_ms=_percentiles(ages_ns[-tenth:]),
    )


def _percentiles(ages_ns: "array[int]") -> tuple[float, float]:
    p50, p99 = np.percentile(ages_ns, [50, 99]) / 1e6
    return float(p50), float(p99)
