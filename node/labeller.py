"""Labeller: the thread that takes frames, perceives them and sends their labels."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from node.capture.mailbox import Mailbox, Taken
from node.config import NodeConfig
from node.errors import FrameError
from node.frame import Frame, Image
from node.perception.scene import Scene, scenes
from node.wire.calibration import Calibration
from node.wire.compose import Composer
from node.wire.messages import Status, Timing
from node.wire.outgoing import Sink

if TYPE_CHECKING:
    from node.perception.perceiver import Perceived, Perceiver

log = logging.getLogger(__name__)


class Labeller:
    """Owns the model. Ends when the mailbox is finished, after `max_frames`, or at `stop`.

    config: of the cameras and what is remembered of each.
    build: loads the model, on the labeller's thread.
    on_labelled: called with the time from capture to the hand-over of each message, in ns.
    """

    def __init__(
        self,
        config: NodeConfig,
        build: "Callable[[], Perceiver]",
        mailbox: Mailbox,
        composer: Composer,
        sink: Sink,
        stop: threading.Event,
        *,
        max_frames: int | None = None,
        on_labelled: Callable[[int], None] = lambda latency_ns: None,
    ) -> None:
        self._config = config
        self._build = build
        self._mailbox = mailbox
        self._composer = composer
        self._sink = sink
        self._stop = stop
        self._max_frames = max_frames
        self._on_labelled = on_labelled
        self._thread = threading.Thread(target=self._run, name="perceive", daemon=True)
        self._scenes: Mapping[str, Scene] = {}
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.frames = 0
        self.lost_frames = 0
        self.last_error: str | None = None
        self.perceiver: Perceiver | None = None
        self.failure: Exception | None = None

    def start(self) -> None:
        """Starts loading, then labelling."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread ended in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            started = time.monotonic()
            self.perceiver = self._build()
            info = self.perceiver.info
            log.info(
                "model %s on %s, %s %s, ready in %.1f s",
                info.name, info.device, info.runtime, info.precision, time.monotonic() - started,
            )  # fmt: skip
            names = self.perceiver.names
            self._sink.send(
                self._composer.info(
                    info,
                    names,
                    _calibrations(self._config),
                    self.perceiver.crop_info,
                    self.perceiver.crop_names,
                )
            )
            self._scenes = scenes(self._config, names)
            self.ready.set()
            self._label_all(self.perceiver)
        except Exception as error:
            self.failure = error  # raised again by the pipeline, on the thread that waits for us
        finally:
            self.ended.set()

    def _label_all(self, perceiver: "Perceiver") -> None:
        while not self._stop.is_set() and not self._enough():
            batch = self._mailbox.take_all(0.2, self._at_most(perceiver))
            if batch:
                for taken, perceived in zip(batch, self._perceived(perceiver, batch), strict=True):
                    if perceived is None:
                        self._say_blind(taken)
                    else:
                        self._send(perceiver, taken, perceived)
            elif self._mailbox.finished:
                return

    def _at_most(self, perceiver: "Perceiver") -> int:
        if self._max_frames is None:
            return perceiver.at_most
        return min(perceiver.at_most, self._max_frames - self.frames)

    def _perceived(
        self, perceiver: "Perceiver", batch: list[Taken]
    ) -> "Sequence[Perceived | None]":
        """What is in each frame; None where the model gave no answer that can be believed."""
        try:
            return perceiver.perceive_all([self._cut(taken.frame) for taken in batch])
        except FrameError as error:
            if len(batch) > 1:  # find out which
                return [self._perceived(perceiver, [taken])[0] for taken in batch]
            self.lost_frames += 1
            if str(error) != self.last_error:  # once for each kind, not once for each frame
                log.error("camera '%s': frame lost: %s", batch[0].frame.camera, error)
            self.last_error = str(error)
            return [None]

    def _cut(self, frame: Frame) -> Image:
        return self._scenes[frame.camera].cut(frame.image)

    def _say_blind(self, taken: Taken) -> None:
        """A lost frame is not a frame with nothing in it."""
        self.frames += 1
        self._sink.send(self._composer.blind(taken.frame.camera, Status.STALLED))

    def _send(self, perceiver: "Perceiver", taken: Taken, seen: "Perceived") -> None:
        frame = taken.frame
        observing = time.monotonic_ns()
        observed = self._scenes[frame.camera].observe(frame, seen.seen)
        observed_ns = time.monotonic_ns() - observing
        timing = Timing(
            capture=frame.capture_ns,
            wait=taken.wait_ns,
            preprocess=seen.preprocess_ns,
            infer=seen.infer_ns,
            postprocess=seen.postprocess_ns + observed_ns,
        )
        self._sink.send(
            self._composer.looked(
                frame,
                dropped=taken.dropped,
                timing=timing,
                model=perceiver.info,
                labels=observed.seen.labels,
                detections=observed.seen.detections,
                areas=observed.seen.areas,
                masks=observed.seen.masks,
                degraded=seen.degraded,
            )
        )
        for happening in observed.happenings:
            self._sink.send(self._composer.event(frame, happening))
        self.frames += 1
        self._on_labelled(timing.total)

    def _enough(self) -> bool:
        return self._max_frames is not None and self.frames >= self._max_frames


def _calibrations(config: NodeConfig) -> tuple[Calibration, ...]:
    return tuple(
        Calibration(camera=camera.name, **camera.calibration.model_dump())
        for camera in config.camera
        if camera.calibration is not None
    )
