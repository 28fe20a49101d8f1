"""LabelPublisher: the publishing stage. Turns inference results into messages and sends them."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.capture.mailbox import QueuedFrame
from node.config.schema import NodeConfig
from node.image.frame import Frame, Image
from node.perception.temporal.scene import Scene, scenes
from node.pipeline.message_builder import MessageBuilder
from node.pipeline.work_timer import WorkTimer
from node.transport.sequencing import Outgoing, SequenceQuery, Sink
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import Message, ModelInfo, Status, Timing, topic

if TYPE_CHECKING:
    from node.perception.perceiver import InferenceResult, Perceiver


@dataclass(frozen=True, slots=True)
class BatchModel:
    """The model that a batch was inferred with, and why it runs below its configuration."""

    info: ModelInfo
    degraded: tuple[str, ...]


class LabelPublisher:
    """Owns each camera's scene (region of interest, smoothing, tracks, events) and its newest
    labelled frame. Used by the inference thread; any thread reads the attributes.

    newest: by camera the image of its newest labelled frame, [height, width, 3] uint8 BGR.
    degraded: why the newest labelled frame was inferred below the configuration.
    """

    def __init__(self, message_builder: MessageBuilder, sink: Sink, timer: WorkTimer) -> None:
        self._message_builder = message_builder
        self._sink = sink
        self._timer = timer
        self._scenes: Mapping[str, Scene] = {}
        self._names: tuple[str, ...] | None = None
        self._last_frames: dict[str, Frame] = {}
        self.newest: dict[str, Image] = {}
        self.degraded: tuple[str, ...] = ()

    def use(self, perceiver: "Perceiver", config: NodeConfig) -> None:
        """Publishes the model that the following labels come from. A model with other classes
        ends all scenes, and the events in progress with them."""
        if self._names != perceiver.names:
            self._names = perceiver.names
            for name, scene in self._scenes.items():
                for event in scene.close():
                    self._send(self._message_builder.event(self._last_frames[name], event))
            self._scenes = scenes(config, perceiver.names)
        self._send(
            self._message_builder.info(
                perceiver.info,
                perceiver.names,
                _calibrations(config),
                perceiver.crop_info,
                perceiver.crop_names,
            )
        )

    def reconfigure(self, config: NodeConfig) -> None:
        """Applies another smoothing and other events from the next frame on."""
        for scene in self._scenes.values():
            scene.reconfigure(config)

    def cut(self, frame: Frame) -> Image:
        """The part of a frame that the model gets: the region of interest, or the whole."""
        return self._scenes[frame.camera].cut(frame.image)

    def labels(
        self,
        queued: QueuedFrame,
        result: "InferenceResult",
        model: BatchModel,
        *,
        skipped: int,
        on_finalised: Callable[[Message], None] | None,
    ) -> Timing:
        """Sends the labels of a frame, then its events. skipped: frames of the camera that were
        not inferred since its last labels. Returns the durations of the stages."""
        frame = queued.frame
        started_ns = time.monotonic_ns()
        tracked = self._scenes[frame.camera].observe(frame, result.seen)
        timing = Timing(
            capture=frame.capture_ns,
            wait=queued.wait_ns,
            preprocess=result.preprocess_ns,
            infer=result.infer_ns,
            postprocess=result.postprocess_ns + time.monotonic_ns() - started_ns,
        )
        self.degraded = (*result.degraded, *model.degraded)
        self._send(
            self._message_builder.labels(
                frame,
                dropped=queued.dropped + skipped,
                timing=timing,
                model=model.info,
                labels=tracked.seen.labels,
                detections=tracked.seen.detections,
                areas=tracked.seen.areas,
                masks=tracked.seen.masks,
                degraded=(*self.degraded, *frame.degraded),
                on_finalised=on_finalised,
            )
        )
        for event in tracked.events:
            self._send(self._message_builder.event(frame, event))
        self.newest[frame.camera] = frame.image
        self._last_frames[frame.camera] = frame
        return timing

    def unavailable(self, camera: str, status: Status) -> None:
        """Sends that the labels of a camera are unavailable, and why."""
        self._send(self._message_builder.unavailable(camera, status))

    def first_seqs(self, cameras: tuple[str, ...]) -> "Future[dict[str, int]]":
        """By camera the number of the first labels message after all messages sent so far."""
        answer: Future[dict[str, int]] = Future()
        self._send(
            SequenceQuery(
                tuple(topic("labels", camera) for camera in cameras),
                lambda seqs: answer.set_result(dict(zip(cameras, seqs, strict=True))),
            )
        )
        return answer

    def _send(self, outgoing: Outgoing | SequenceQuery) -> None:
        with self._timer.suspended():
            self._sink.send(outgoing)


def _calibrations(config: NodeConfig) -> tuple[Calibration, ...]:
    return tuple(
        Calibration(camera=camera.name, **camera.calibration.model_dump())
        for camera in config.camera
        if camera.calibration is not None
    )
