"""InferenceLoop: the thread that takes frames, infers them and publishes their labels."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from node.capture.mailbox import FrameQueue, QueuedFrame
from node.config.schema import NodeConfig
from node.image.frame import Frame, Image
from node.pipeline.active_model import ActiveModel, Builder
from node.pipeline.call_queue import CallQueue
from node.pipeline.deadlines import DeadlineMonitor, Labelled
from node.pipeline.inference_failures import InferenceFailures
from node.pipeline.label_publisher import BatchModel, LabelPublisher
from node.pipeline.message_builder import MessageBuilder
from node.pipeline.snapshots import Snapshot, SnapshotRequests
from node.pipeline.work_timer import WorkTimer
from node.process.awake import AwakeClock
from node.transport.sequencing import Sink
from perception_client.messages.kinds import Status

if TYPE_CHECKING:
    from node.perception.perceiver import InferenceResult, Perceiver
    from node.perception.preprocess.prefetch import PrefetchedInput

log = logging.getLogger(__name__)

TAKE_TIMEOUT_S = 0.2
"""Longest wait for a frame before the thread checks for a stop, which has 2 s."""
_Result = TypeVar("_Result")


class InferenceLoop:
    """Takes the frames of a mailbox, infers them with the active model and publishes the labels.

    The thread ends when the mailbox is finished, after `max_frames`, or at the stop event. It
    guarantees that every change (`call`) happens between two batches, and that each frame that was
    taken and not skipped leads to exactly one message: its labels, or `stalled` where the model
    failed.

    The thread writes the attributes, any thread reads them. ready: set once the model is loaded.
    ended: set at the end. failure: the error that ended the thread, else None. frames: messages
    sent for frames. paused: the cameras that are not inferred.
    """

    def __init__(
        self,
        config: NodeConfig,
        build: Builder,
        mailbox: FrameQueue,
        message_builder: MessageBuilder,
        sink: Sink,
        stop: threading.Event,
        *,
        max_frames: int | None = None,
        on_labelled: Callable[[Labelled], None] = lambda labelled: None,
        on_changed: Callable[[NodeConfig, int], None] = lambda config, settings: None,
        awake: AwakeClock | None = None,
    ) -> None:
        """build: loads a model, first on the inference thread.

        on_labelled: called for each frame whose labels were sent. on_changed: called with each
        new configuration and its number. awake: the clock that does not count standstills.
        """
        awake = awake or AwakeClock()
        self._mailbox = mailbox
        self._message_builder = message_builder
        self._stop = stop
        self._max_frames = max_frames
        self._on_changed = on_changed
        self._thread = threading.Thread(target=self._run, name="perceive", daemon=True)
        self._model = ActiveModel(config, build)
        self._timer = WorkTimer(awake)
        self._publisher = LabelPublisher(message_builder, sink, self._timer)
        self._deadlines = DeadlineMonitor(
            config.camera, awake, on_labelled, self._model.note_latency
        )
        self._cut_cameras = frozenset(
            camera.name for camera in config.camera if camera.roi is not None
        )
        self._calls = CallQueue(mailbox.wake)
        self._snapshots = SnapshotRequests(self._calls)
        self._failures = InferenceFailures()
        self._skipped: defaultdict[str, int] = defaultdict(int)
        self.paused: frozenset[str] = frozenset()
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.frames = 0
        self.failure: Exception | None = None

    @property
    def config(self) -> NodeConfig:
        """The configuration in force."""
        return self._model.config

    @property
    def settings(self) -> int:
        """Number of the settings in force."""
        return self._message_builder.settings

    @property
    def perceiver(self) -> "Perceiver | None":
        """The model in use; None until it is loaded."""
        return self._model.in_use if self._model.loaded else None

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the newest labelled frame was inferred below the configuration."""
        return self._publisher.degraded

    @property
    def newest(self) -> dict[str, Image]:
        """By camera the image of its newest labelled frame, [height, width, 3] uint8 BGR."""
        return self._publisher.newest

    @property
    def lost_frames(self) -> int:
        """Frames without labels because the model failed on them."""
        return self._failures.lost_frames

    @property
    def last_error(self) -> str | None:
        """The newest failure of the model, None before the first."""
        return self._failures.last_error

    @property
    def busy_s(self) -> float:
        """Seconds of awake time since inference on the current batch began; 0 when idle."""
        return self._timer.busy_s

    @property
    def recovering(self) -> bool:
        """Whether another runtime is being built in the place of one that failed."""
        perceiver = self.perceiver
        return perceiver is not None and perceiver.recovering

    def start(self) -> None:
        """Starts the thread, which loads the model first."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Waits for the end of the thread; whether it ended in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # From any thread, never blocking.

    def call(self, work: Callable[[], _Result]) -> "Future[_Result]":
        """Runs `work` on the inference thread, between two batches; see `CallQueue.call`."""
        return self._calls.call(work)

    def snapshot(self, camera: str) -> "Future[Snapshot]":
        """The next labelled frame of a camera, with its message. Cancelling the Future withdraws
        the request."""
        return self._snapshots.request(camera)

    def prefetch(self, frame: Frame) -> "PrefetchedInput | None":
        """Begins the preprocessing of a frame on the thread of its camera, where that saves time:
        on a GPU, the upload runs while another frame is inferred. None where it does not."""
        perceiver = self.perceiver
        if perceiver is None or frame.camera in self.paused or frame.camera in self._cut_cameras:
            return None
        return perceiver.prefetch(frame.camera, frame.image)

    # Changes: `call` runs them on the inference thread.

    def reconfigure(self, config: NodeConfig) -> None:
        """Applies other thresholds, another top-k and other smoothing from the next frame on.
        Raises ModelError and changes nothing where the model does not support them."""
        self._model.reconfigure(config)
        self._publisher.reconfigure(config)
        self._note_change()

    def renumber(self) -> None:
        """Gives the settings of the following messages a new number."""
        self._note_change()

    def pause(self, cameras: frozenset[str]) -> None:
        """Stops inference for these cameras, and sends `paused` for each."""
        self.paused |= cameras
        for camera in sorted(cameras):
            self._publisher.unavailable(camera, Status.PAUSED)

    def resume(self, cameras: frozenset[str]) -> None:
        """Resumes inference for these cameras."""
        self.paused -= cameras
        self._note_change()

    def swap(self, perceiver: "Perceiver", config: NodeConfig) -> "Future[None]":
        """Replaces the model from the next frame on, on probation: a failure on one of the first
        frames rolls the swap back. The Future is done after the probation, or has a ControlError
        after a rollback."""
        settled = self._model.swap(perceiver, config)
        self._note_change()
        self._announce_model()
        return settled

    def first_seqs(self) -> "Future[dict[str, int]]":
        """By camera the number of the first labels message after all messages sent so far."""
        return self._publisher.first_seqs(tuple(camera.name for camera in self.config.camera))

    def _note_change(self) -> None:
        self._message_builder.settings += 1
        self._on_changed(self.config, self._message_builder.settings)

    def _announce_model(self) -> None:
        self._publisher.use(self._model.in_use, self.config)

    # The inference thread.

    def _run(self) -> None:
        try:
            self._load()
            self.ready.set()
            self._process_batches()
        except Exception as error:
            self.failure = error  # raised again by the node, on the thread that waits for this one
        finally:
            self._timer.stop()
            self.ended.set()

    def _load(self) -> None:
        started = time.monotonic()
        self._model.load()
        info = self._model.in_use.info
        log.info(
            "model %s on %s, %s %s, ready in %.1f s",
            info.name, info.device, info.runtime, info.precision, time.monotonic() - started,
        )  # fmt: skip
        self._announce_model()

    def _process_batches(self) -> None:
        while not self._stop.is_set() and not self._is_complete():
            batch = self._mailbox.take_all(TAKE_TIMEOUT_S, self._batch_limit())
            self._timer.start()
            self._calls.run()
            batch = [queued for queued in batch if self._is_inferred(queued)]
            if batch:
                self._process(batch)
            elif self._mailbox.finished:
                return
            self._timer.stop()

    def _process(self, batch: list[QueuedFrame]) -> None:
        """Infers frames together and publishes their labels. A degradation step that their latency
        causes applies from the next batch on."""
        results = self._infer(batch)
        perceiver = self._model.in_use
        model = BatchModel(perceiver.info, self._model.degraded)
        for queued, result in zip(batch, results, strict=True):
            if result is None:  # a lost frame is not a frame with nothing in it
                self._publisher.unavailable(queued.frame.camera, Status.STALLED)
                self.frames += 1
            else:
                self._publish(queued, result, model)
        if self._model.in_use is not perceiver:
            self._announce_model()

    def _publish(self, queued: QueuedFrame, result: "InferenceResult", model: BatchModel) -> None:
        frame = queued.frame
        timing = self._publisher.labels(
            queued,
            result,
            model,
            skipped=self._skipped.pop(frame.camera, 0),
            on_finalised=self._snapshots.take(frame),
        )
        self.frames += 1
        self._deadlines.note(frame, timing.total)

    def _is_inferred(self, queued: QueuedFrame) -> bool:
        """Whether a frame is inferred; not where its camera is paused or the degradation step
        skips it."""
        camera = queued.frame.camera
        if camera in self.paused:
            return False
        step = self._model.step
        if step is not None and queued.frame.frame_id % step.every:
            self._skipped[camera] += 1 + queued.dropped
            return False
        return True

    def _batch_limit(self) -> int:
        limit = self._model.in_use.at_most
        return limit if self._max_frames is None else min(limit, self._max_frames - self.frames)

    def _is_complete(self) -> bool:
        return self._max_frames is not None and self.frames >= self._max_frames

    def _infer(self, batch: list[QueuedFrame]) -> "Sequence[InferenceResult | None]":
        """The result of each frame; None where the model failed. Raises InferenceError when the
        model has failed on too many frames in a row."""
        images = [self._publisher.cut(queued.frame) for queued in batch]
        self._timer.start()
        try:
            results = self._model.in_use.perceive_all(
                images, [queued.prefetched for queued in batch]
            )
        except Exception as error:  # any error of a model costs this frame, not the node
            return self._infer_after(error, batch)
        self._failures.note_success()
        self._model.note_good(len(batch))
        return results

    def _infer_after(
        self, error: Exception, batch: list[QueuedFrame]
    ) -> "Sequence[InferenceResult | None]":
        """Handles a failure: infers the frames one by one, then rolls a swap back, then gives the
        frame up."""
        if len(batch) > 1:
            return self._infer_singly(batch)
        reason = self._model.rolled_back(error)
        if reason is not None:
            self._failures.note_rollback(reason)
            self._note_change()
            self._announce_model()
            return self._infer(batch)
        camera = batch[0].frame.camera
        fatal = self._failures.note_lost(camera, error)
        if fatal is not None:
            self._publisher.unavailable(camera, Status.STALLED)
            raise fatal
        return [None]

    def _infer_singly(self, batch: list[QueuedFrame]) -> "Sequence[InferenceResult | None]":
        """Infers the frames one by one, to find the frame that the model fails on. After a
        rollback all frames are inferred again, so that one model is the source of a batch."""
        perceiver = self._model.in_use
        results = [self._infer([queued])[0] for queued in batch]
        return results if self._model.in_use is perceiver else self._infer(batch)
