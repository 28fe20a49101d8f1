"""Puts the parts of a live run together, owns the threads, starts and stops them."""

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.rate import RateLimit, RealtimeSource
from node.capture.sources.base import Source
from node.capture.sources.open import is_live, open_source
from node.config.schema import CameraConfig, NodeConfig
from node.errors import InferenceError, PerceptionError
from node.image.frame import Frame
from node.pipeline.active_model import Builder
from node.pipeline.control_commands import ControlCommands
from node.pipeline.crash_signals import on_crash_signal
from node.pipeline.health import HealthReporter, LatencyStats
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.pipeline.systemd import Systemd
from node.process.awake import AwakeClock
from node.process.descriptors import raise_descriptor_limit
from node.process.ending import Ending
from node.recording.recorder import Recorder
from node.transport.control_server import ControlServer
from node.transport.publisher import Publisher
from node.web.page import Page
from perception_client.messages.kinds import Message

log = logging.getLogger(__name__)

TICK_S = 0.05
"""How often the cameras are looked after: a stall is said at most this much late."""
JOIN_TIMEOUT_S = 1.0
"""How long a stop waits for all threads together; two seconds are all there is."""
RECOVERY_TIMEOUT_S = 120.0
"""How long the CPU may take to come up in the place of a GPU that failed."""
LAST_WORDS_S = 1.0
"""How long an end waits for the disk: two seconds are all there is."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. summaries: what each source really read, in words.

    stopped: before the end of its sources, by a signal.
    """

    frames: int
    dropped: int
    summaries: tuple[str, ...]
    stopped: bool


def run_live(
    config: NodeConfig,
    build: Builder,
    stop: threading.Event,
    *,
    max_frames: int | None = None,
) -> Outcome:
    """Labels the newest frames of all cameras until `stop`, the end of all files, or `max_frames`.

    Raises PerceptionError: an endpoint that cannot be bound, a model that cannot be loaded, a
    required source that cannot be opened; InferenceError for a model that fails again and again or
    hangs.
    """
    raise_descriptor_limit()
    names = [camera.name for camera in config.camera]
    awake = AwakeClock()
    mailbox = LatestMailbox(names)
    limits = {camera.name: RateLimit(camera.max_fps) for camera in config.camera}
    deadlines_s = {x.name: x.deadline_s for x in config.camera if x.deadline_s is not None}
    message_builder = MessageBuilder(config.name, deadlines_s)
    recorder = Recorder(config, message_builder.session)
    page = Page(config) if config.monitor.web is not None else None

    def observe(message: Message) -> None:
        recorder.message(message)
        if page is not None:
            page.message(message)

    publisher = Publisher(config.wire.endpoint, observer=observe, keys=config.wire.keys)
    latency_stats = LatencyStats(names)
    inference_loop = InferenceLoop(
        config,
        build,
        mailbox,
        message_builder,
        publisher,
        stop,
        max_frames=max_frames,
        on_labelled=latency_stats.add,
        on_changed=recorder.configuration,
        awake=awake,
    )
    grabbers = [
        Grabber(
            camera,
            functools.partial(_open_live, camera, limits[camera.name], stop),
            _Inlet(mailbox, recorder, inference_loop),
            stop,
            retry_first=camera.at_start == "wait",
            limit=limits[camera.name],
            awake=awake,
        )
        for camera in config.camera
    ]
    watch = HealthReporter(
        config,
        grabbers,
        inference_loop,
        mailbox,
        message_builder,
        publisher,
        latency_stats,
        recorder,
    )
    supervisor = Systemd()
    controller = ControlCommands(inference_loop, watch, limits, build, recorder, awake)

    def each_tick(running: bool) -> None:
        watch.tick(running)
        controller.look_after()
        busy_s = inference_loop.busy_s
        if busy_s > _patience_s(config, inference_loop):
            watch.hung()
            raise InferenceError(
                f"the model hangs for {busy_s:.1f} s on one frame (the limit is "
                f"model.inference_timeout_s = {config.model.inference_timeout_s:g}); ending, so "
                "that a supervisor restarts the node"
            )
        if running:
            supervisor.ready()
            supervisor.alive(f"{inference_loop.frames} frames labelled")

    def last_words(reason: str) -> None:
        if config.recording.black_box_s:
            with contextlib.suppress(PerceptionError, TimeoutError):
                recorder.dump(reason, within_s=LAST_WORDS_S).result(LAST_WORDS_S)

    with Ending() as ending:
        ending.add("recorder", lambda: recorder.close(LAST_WORDS_S))
        ending.add("publisher", publisher.close)
        ending.add("health", watch.stopping)
        ending.add("requests", controller.close)
        ending.add("pulse", awake.close)
        try:
            awake.start()
            recorder.start()
            control = _control_server(config, controller)
            if control is not None:
                ending.add("control socket", control.close)
            if page is not None:
                ending.add("page", page.close)
                page.serve(inference_loop.snapshot, controller.ask)
            ending.add("supervisor", supervisor.stopping)
            log.info("publishing on %s", config.wire.endpoint)
            with on_crash_signal(last_words):
                stopped = run_threads(inference_loop, grabbers, stop, each_tick=each_tick)
        except Exception:  # also what nobody foresaw: that is what a black box is for
            last_words("failure")
            raise
        summaries = [grabber.state.summary for grabber in grabbers]
        return Outcome(
            frames=inference_loop.frames,
            dropped=sum(mailbox.dropped(name) for name in names),
            summaries=tuple(summary for summary in summaries if summary is not None),
            stopped=stopped,
        )


class _Inlet:
    """A mailbox that shows each frame to the recorder first, then lets the labeller begin."""

    def __init__(
        self, mailbox: LatestMailbox, recorder: Recorder, inference_loop: InferenceLoop
    ) -> None:
        self._mailbox = mailbox
        self._recorder = recorder
        self._inference_loop = inference_loop

    def put(self, frame: Frame) -> None:
        """Never blocks."""
        self._recorder.frame(frame)
        self._mailbox.put(self._inference_loop.prefetch(frame))

    def close(self, camera: str) -> None:
        """No more frames of this camera."""
        self._mailbox.close(camera)


def _control_server(config: NodeConfig, controller: ControlCommands) -> ControlServer | None:
    if config.control.endpoint is None:
        return None
    server = ControlServer(
        config.control.endpoint,
        controller.handle,
        config.wire.keys,
        insecure=config.wire.insecure,
    )
    log.info("controlled on %s", config.control.endpoint)
    return server


def _patience_s(config: NodeConfig, inference_loop: InferenceLoop) -> float:
    return RECOVERY_TIMEOUT_S if inference_loop.recovering else config.model.inference_timeout_s


def _open_live(camera: CameraConfig, limit: RateLimit, stop: threading.Event) -> Source:
    source = open_source(camera, limit)
    return source if is_live(camera.source) else RealtimeSource(source, stop, limit)


class Feeder(Protocol):
    """A thread that brings frames."""

    @property
    def failure(self) -> Exception | None:
        """What ended it, None while nothing did."""
        ...

    def start(self) -> None:
        """Begins to bring."""
        ...

    def join(self, timeout_s: float) -> bool:
        """Whether it ended in time."""
        ...


def run_threads(
    inference_loop: InferenceLoop,
    feeders: Sequence[Feeder],
    stop: threading.Event,
    *,
    each_tick: Callable[[bool], None],
) -> bool:
    """Starts the threads, looks after them, and stops them; whether a stop came before the end.
    Frames are brought when the model is there, so that none waits for it."""
    feeding = False
    inference_loop.start()
    try:
        while not stop.is_set() and not inference_loop.ended.wait(TICK_S):
            if inference_loop.ready.is_set() and not feeding:
                feeding = True
                for feeder in feeders:
                    feeder.start()
            each_tick(feeding)
            _raise_failure(feeders)
    finally:
        stopped = stop.is_set()
        stop.set()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        inference_loop.join(JOIN_TIMEOUT_S)
        for feeder in feeders if feeding else ():
            feeder.join(max(0.0, deadline - time.monotonic()))
    if inference_loop.failure is not None:
        raise inference_loop.failure
    _raise_failure(feeders)
    return stopped


def _raise_failure(feeders: Sequence[Feeder]) -> None:
    for feeder in feeders:
        failure = feeder.failure
        if failure is not None:
            raise failure
