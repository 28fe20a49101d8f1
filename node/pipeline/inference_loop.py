"""InferenceLoop: the thread that takes frames, perceives them and sends their labels."""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from node.capture.mailbox import FrameQueue, QueuedFrame
from node.config.schema import NodeConfig
from node.errors import ControlError, FrameError, InferenceError, PerceptionError
from node.image.frame import Frame, Image, Stamp
from node.perception.temporal.scene import Scene, scenes
from node.pipeline.active_model import ActiveModel, Builder
from node.pipeline.message_builder import MessageBuilder
from node.process.awake import AwakeClock
from node.transport.sequencing import Outgoing, SequenceQuery, Sink
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import (
    LabelsMessage,
    Message,
    ModelInfo,
    Status,
    Timing,
    topic,
)

if TYPE_CHECKING:
    from node.perception.perceiver import InferenceResult, Perceiver

log = logging.getLogger(__name__)

MOST_FAILURES = 10
"""Frames in a row that the model may fail on before the node ends: then only a new one helps."""
MOST_CALLS = 16384
"""More than all clients together may have in work: no call is refused."""
CALLS_S = 0.005
"""How long calls may keep the next frame waiting; the rest of them comes after it."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Labelled:
    """One message that went out. latency_ns: from capture to its hand-over; late: beyond its
    camera's deadline."""

    camera: str
    latency_ns: int
    late: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frame and the message that tells of it."""

    image: Image
    message: LabelsMessage


class InferenceLoop:
    """Owns the model. Ends when the mailbox is finished, after `max_frames`, or at `stop`.

    config: of the cameras and what is remembered of each.
    build: loads a model, first on the labeller's thread.
    on_labelled: called with each message that told what was seen. on_changed: with another
    configuration and its number. awake: time in which this process ran.

    What changes it comes through `call`, which runs between two frames.
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
        self.config = config
        self._build = build
        self._mailbox = mailbox
        self._message_builder = message_builder
        self._sink = sink
        self._stop = stop
        self._max_frames = max_frames
        self._on_labelled = on_labelled
        self._on_changed = on_changed
        self._awake = awake or AwakeClock()
        self._thread = threading.Thread(target=self._run, name="perceive", daemon=True)
        self._scenes: Mapping[str, Scene] = {}
        self._deadlines_ns = {
            x.name: int(x.deadline_s * 1e9) for x in config.camera if x.deadline_s is not None
        }
        self._cut_cameras = frozenset(x.name for x in config.camera if x.roi is not None)
        self._active_model: ActiveModel | None = None
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue(MOST_CALLS)
        self._skipped: defaultdict[str, int] = defaultdict(int)
        self._snapshots: defaultdict[str, list[Future[Snapshot]]] = defaultdict(list)
        self._failures = 0
        self._began_ns: int | None = None
        self._last_frames: dict[str, Frame] = {}
        self.newest: dict[str, Image] = {}
        self.paused: frozenset[str] = frozenset()
        self.ready = threading.Event()
        self.ended = threading.Event()
        self.frames = 0
        self.lost_frames = 0
        self.last_error: str | None = None
        self.degraded: tuple[str, ...] = ()
        self.perceiver: Perceiver | None = None
        self.failure: Exception | None = None

    @property
    def settings(self) -> int:
        """Number of the settings in force."""
        return self._message_builder.settings

    @property
    def busy_s(self) -> float:
        """How long the frames of now have been in work, in seconds in which this process ran, from
        their inference on; 0 where none are."""
        began_ns = self._began_ns
        return 0.0 if began_ns is None else (self._awake.now_ns() - began_ns) / 1e9

    @property
    def recovering(self) -> bool:
        """Whether it is busy with bringing up another runtime in the place of one that failed."""
        return self.perceiver is not None and self.perceiver.recovering

    def start(self) -> None:
        """Starts loading, then labelling."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether the thread ended in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def call(self, work: Callable[[], _Result]) -> "Future[_Result]":
        """Runs `work` on the labeller's thread, between two frames. Any thread may ask; who waits
        no longer cancels, and it is not run."""
        answer: Future[_Result] = Future()

        def do() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(work())
            except Exception as error:
                answer.set_exception(error)

        try:
            self._calls.put_nowait(do)
        except queue.Full:
            answer.set_exception(ControlError("too many requests at once; ask again"))
        self._mailbox.wake()
        return answer

    def prefetch(self, frame: Frame) -> Frame:
        """Begins with a frame before its turn, where that gains something: on a GPU it is uploaded
        while another is inferred. On the thread of its camera."""
        perceiver = self.perceiver
        if perceiver is None or frame.camera in self.paused or frame.camera in self._cut_cameras:
            return frame
        ready = perceiver.prefetch(frame.camera, frame.image)
        return frame if ready is None else replace(frame, ready=ready)

    def snapshot(self, camera: str) -> "Future[Snapshot]":
        """The next labelled frame of a camera, with its message. Any thread may ask; who waits no
        longer cancels."""
        answer: Future[Snapshot] = Future()

        def want() -> None:
            waiting = [one for one in self._snapshots[camera] if not one.cancelled()]
            self._snapshots[camera] = [*waiting, answer]

        self.call(want)
        return answer

    # What `call` may run.

    def reconfigure(self, config: NodeConfig) -> None:
        """Other thresholds, top-k and smoothing from the next frame on. Raises ModelError and
        changes nothing where they do not fit the model."""
        self._models.reconfigure(config)
        for scene in self._scenes.values():
            scene.reconfigure(config)
        self._change(config)

    def renumber(self) -> None:
        """Begins the settings that the next messages are of."""
        self._change(self.config)

    def pause(self, cameras: frozenset[str]) -> None:
        """Looks at these no more, and says so in the first messages to which this applies."""
        self.paused |= cameras
        for camera in sorted(cameras):
            self._hand_over(self._message_builder.unavailable(camera, Status.PAUSED))

    def resume(self, cameras: frozenset[str]) -> None:
        """Looks at these again."""
        self.paused -= cameras
        self._change(self.config)

    def swap(self, perceiver: "Perceiver", config: NodeConfig) -> "Future[None]":
        """Another model from the next frame on; the one before comes back if this one fails on one
        of its first frames. The Future is done when it did not, else it has the ControlError."""
        settled = self._models.swap(perceiver, config)
        self._change(config)
        self._use(self._models.in_use)
        return settled

    def first_seqs(self) -> "Future[dict[str, int]]":
        """By camera the number of the first message that comes after all that was sent till now."""
        cameras = [camera.name for camera in self.config.camera]
        answer: Future[dict[str, int]] = Future()
        self._hand_over(
            SequenceQuery(
                tuple(topic("labels", camera) for camera in cameras),
                lambda seqs: answer.set_result(dict(zip(cameras, seqs, strict=True))),
            )
        )
        return answer

    def _hand_over(self, outgoing: Outgoing | SequenceQuery) -> None:
        """Sends a message. A publisher that is busy is not a model that hangs: how long it takes
        does not count as work on a frame."""
        working, self._began_ns = self._began_ns is not None, None
        self._sink.send(outgoing)
        if working:
            self._began_ns = time.monotonic_ns()

    def _change(self, config: NodeConfig) -> None:
        self.config = config
        self._message_builder.settings += 1
        self._on_changed(config, self._message_builder.settings)

    @property
    def _models(self) -> ActiveModel:
        assert self._active_model is not None  # from ready on
        return self._active_model

    def _use(self, perceiver: "Perceiver") -> None:
        """Another model, or the first: what its labels mean is said anew."""
        before, self.perceiver = self.perceiver, perceiver
        if before is None or before.names != perceiver.names:
            for name, scene in self._scenes.items():
                for event in scene.close():
                    self._hand_over(self._message_builder.event(self._last_frames[name], event))
            self._scenes = scenes(self.config, perceiver.names)
        self._hand_over(
            self._message_builder.info(
                perceiver.info,
                perceiver.names,
                _calibrations(self.config),
                perceiver.crop_info,
                perceiver.crop_names,
            )
        )

    # The thread.

    def _run(self) -> None:
        try:
            started = time.monotonic()
            self._active_model = ActiveModel(self.config, self._build)
            info = self._active_model.in_use.info
            log.info(
                "model %s on %s, %s %s, ready in %.1f s",
                info.name, info.device, info.runtime, info.precision, time.monotonic() - started,
            )  # fmt: skip
            self._use(self._active_model.in_use)
            self.ready.set()
            self._label_all()
        except Exception as error:
            self.failure = error  # raised again by the pipeline, on the thread that waits for us
        finally:
            self._began_ns = None
            self.ended.set()

    def _label_all(self) -> None:
        while not self._stop.is_set() and not self._enough():
            assert self.perceiver is not None
            batch = self._mailbox.take_all(0.2, self._at_most(self.perceiver))
            self._began_ns = self._awake.now_ns()
            self._do_calls()
            batch = [taken for taken in batch if self._looks_at(taken)]
            if batch:
                self._label(batch)
            elif self._mailbox.finished:
                return
            self._began_ns = None

    def _label(self, batch: list[QueuedFrame]) -> None:
        """Looks at frames together and says what is in them. What that does to the choice of the
        model (`degrade`) holds from the next ones on."""
        seen = self._perceived(batch)
        assert self.perceiver is not None
        looked = _Looked(self.perceiver.info, self._models.degraded)
        for taken, perceived in zip(batch, seen, strict=True):
            if perceived is None:
                self._say_blind(taken)
            else:
                self._send(taken, perceived, looked)
        if self._models.in_use is not self.perceiver:
            self._use(self._models.in_use)

    def _do_calls(self) -> None:
        until = time.monotonic() + CALLS_S
        while time.monotonic() < until:
            try:
                self._calls.get_nowait()()
            except queue.Empty:
                return
        self._mailbox.wake()

    def _looks_at(self, taken: QueuedFrame) -> bool:
        camera = taken.frame.camera
        if camera in self.paused:
            return False
        step = self._models.step
        if step is not None and taken.frame.frame_id % step.every:
            self._skipped[camera] += 1 + taken.dropped
            return False
        return True

    def _at_most(self, perceiver: "Perceiver") -> int:
        if self._max_frames is None:
            return perceiver.at_most
        return min(perceiver.at_most, self._max_frames - self.frames)

    def _perceived(self, batch: list[QueuedFrame]) -> "Sequence[InferenceResult | None]":
        """What is in each frame; None where the model gave no answer that can be believed."""
        assert self.perceiver is not None
        images = [self._cut(taken.frame) for taken in batch]
        self._began_ns = self._awake.now_ns()
        try:
            seen = self.perceiver.perceive_all(images, [taken.frame.ready for taken in batch])
        except Exception as error:  # whatever a model raises costs this frame, not the node
            if len(batch) > 1:
                return self._perceived_singly(batch)
            if (told := self._models.rolled_back(error)) is not None:
                self.last_error = told
                self._change(self._models.config)
                self._use(self._models.in_use)
                return self._perceived(batch)
            self._note_lost(batch[0].frame.camera, error)
            return [None]
        self._failures = 0
        self._models.note_good(len(batch))
        return seen

    def _perceived_singly(self, batch: list[QueuedFrame]) -> "Sequence[InferenceResult | None]":
        """One after the other, to find out which of them the model fails on. Where that brings the
        model before back, it looks at all of them: they are sent as seen by one."""
        perceiver = self.perceiver
        seen = [self._perceived([taken])[0] for taken in batch]
        return seen if self.perceiver is perceiver else self._perceived(batch)

    def _note_lost(self, camera: str, error: Exception) -> None:
        self.lost_frames += 1
        self._failures += 1
        told = str(error) if isinstance(error, PerceptionError) else repr(error)
        if told != self.last_error:  # once for each kind, not once for each frame
            log.error("camera '%s': frame lost: %s", camera, told)
        self.last_error = told
        if self._failures >= MOST_FAILURES and not isinstance(error, FrameError):
            self._hand_over(self._message_builder.unavailable(camera, Status.STALLED))
            raise InferenceError(
                f"the model failed on {self._failures} frames in a row ({told}); ending, so that a "
                "supervisor restarts the node"
            ) from error

    def _cut(self, frame: Frame) -> Image:
        return self._scenes[frame.camera].cut(frame.image)

    def _say_blind(self, taken: QueuedFrame) -> None:
        """A lost frame is not a frame with nothing in it."""
        self.frames += 1
        self._hand_over(self._message_builder.unavailable(taken.frame.camera, Status.STALLED))

    def _send(self, taken: QueuedFrame, perceived: "InferenceResult", looked: "_Looked") -> None:
        frame = taken.frame
        observing = time.monotonic_ns()
        observed = self._scenes[frame.camera].observe(frame, perceived.seen)
        observed_ns = time.monotonic_ns() - observing
        timing = Timing(
            capture=frame.capture_ns,
            wait=taken.wait_ns,
            preprocess=perceived.preprocess_ns,
            infer=perceived.infer_ns,
            postprocess=perceived.postprocess_ns + observed_ns,
        )
        self.degraded = (*perceived.degraded, *looked.degraded)
        self._hand_over(
            self._message_builder.labels(
                frame,
                dropped=taken.dropped + self._skipped.pop(frame.camera, 0),
                timing=timing,
                model=looked.model,
                labels=observed.seen.labels,
                detections=observed.seen.detections,
                areas=observed.seen.areas,
                masks=observed.seen.masks,
                degraded=(*self.degraded, *frame.degraded),
                on_finalised=self._snapshot_taker(frame),
            )
        )
        for event in observed.events:
            self._hand_over(self._message_builder.event(frame, event))
        self.frames += 1
        self.newest[frame.camera] = frame.image
        self._last_frames[frame.camera] = frame
        self._note_labelled(frame, timing.total)

    def _snapshot_taker(self, frame: Frame) -> Callable[[Message], None] | None:
        wanted = self._snapshots.pop(frame.camera, None)
        if not wanted:
            return None

        def take(message: Message) -> None:
            assert isinstance(message, LabelsMessage)
            for answer in wanted:
                if answer.set_running_or_notify_cancel():
                    answer.set_result(Snapshot(frame.image, message))

        return take

    def _note_labelled(self, frame: Frame, work_ns: int) -> None:
        """work_ns: what the stages took; the clock knows better where there is one."""
        camera, stamp = frame.camera, frame.stamp
        latency_ns = work_ns
        if stamp is not None and stamp.mono_ns is not None:
            latency_ns = time.monotonic_ns() - stamp.mono_ns
        oldest_ns = latency_ns + (stamp.uncertainty_ns or 0 if stamp is not None else 0)
        deadline_ns = self._deadlines_ns.get(camera)
        late = deadline_ns is not None and oldest_ns > deadline_ns
        self._on_labelled(Labelled(camera, latency_ns, late))
        if deadline_ns is not None and not self._waited_frozen(stamp):
            self._models.note_latency(late, time.monotonic())

    def _waited_frozen(self, stamp: Stamp | None) -> bool:
        """Whether the process stood still since: then no model is to blame for a late message."""
        mono_ns = None if stamp is None else stamp.mono_ns
        return mono_ns is not None and mono_ns < self._awake.resumed_ns

    def _enough(self) -> bool:
        return self._max_frames is not None and self.frames >= self._max_frames


@dataclass(frozen=True, slots=True)
class _Looked:
    """Who looked at a batch of frames, and below what was asked for."""

    model: ModelInfo
    degraded: tuple[str, ...]


def _calibrations(config: NodeConfig) -> tuple[Calibration, ...]:
    return tuple(
        Calibration(camera=camera.name, **camera.calibration.model_dump())
        for camera in config.camera
        if camera.calibration is not None
    )
