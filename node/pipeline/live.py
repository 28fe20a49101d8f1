"""LiveNode: the parts of a live run, and the order in which they start and stop."""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.rate import RateLimit, RealtimeSource
from node.capture.sources.base import Source
from node.capture.sources.open import is_live, open_source
from node.capture.sources.presence import presence_of
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
from node.pipeline.threads import Outcome, run_threads
from node.process.awake import AwakeClock
from node.process.descriptors import raise_descriptor_limit
from node.process.ending import Ending
from node.recording.recorder import Recorder
from node.transport.control_server import ControlServer
from node.transport.publisher import Publisher
from node.web.page import Page
from perception_client.messages.kinds import Message

log = logging.getLogger(__name__)

RECOVERY_TIMEOUT_S = 120.0
"""Longest time in which the CPU takes over from a GPU that failed, before that counts as a hang."""
LAST_WORDS_S = 1.0
"""How long an end waits for the disk; the whole stop has 2 s."""


def run_live(
    config: NodeConfig,
    build: Builder,
    stop: threading.Event,
    *,
    max_frames: int | None = None,
    on_capture: Callable[[], None] = lambda: None,
) -> Outcome:
    """Labels the newest frames of all cameras until `stop`, the end of all files, or `max_frames`.

    on_capture: called when capture starts, and at the first frame of each camera, on any thread.

    Raises PerceptionError: an endpoint that cannot be bound, a model that cannot be loaded, a
    required source that cannot be opened; InferenceError for a model that fails again and again or
    hangs.
    """
    return LiveNode(config, build, stop, max_frames=max_frames, on_capture=on_capture).run()


class LiveNode:
    """A live run: cameras, model, publisher, recorder, control socket and page.

    The constructor binds the endpoint of the publisher; `run` starts all threads and stops them.
    Use a LiveNode once, on one thread.
    """

    def __init__(
        self,
        config: NodeConfig,
        build: Builder,
        stop: threading.Event,
        *,
        max_frames: int | None = None,
        on_capture: Callable[[], None] = lambda: None,
    ) -> None:
        """build: loads a model. on_capture: as for `run_live`. Raises EndpointError,
        ConfigError."""
        raise_descriptor_limit()
        names = [camera.name for camera in config.camera]
        message_builder = MessageBuilder(
            config.name,
            {
                camera.name: camera.deadline_s
                for camera in config.camera
                if camera.deadline_s is not None
            },
        )
        latency_stats = LatencyStats(names)
        self._config = config
        self._stop = stop
        self._on_capture = on_capture
        self._captures = False
        self._awake = AwakeClock()
        self._mailbox = LatestMailbox(names)
        self._limits = {camera.name: RateLimit(camera.max_fps) for camera in config.camera}
        self._recorder = Recorder(config, message_builder.session)
        self._page = Page(config) if config.monitor.web is not None else None
        self._publisher = Publisher(
            config.wire.endpoint, observer=self._observe, keys=config.wire.keys
        )
        self._inference_loop = InferenceLoop(
            config,
            build,
            self._mailbox,
            message_builder,
            self._publisher,
            stop,
            max_frames=max_frames,
            on_labelled=latency_stats.add,
            on_changed=self._recorder.configuration,
            awake=self._awake,
        )
        self._grabbers = [self._grabber(camera) for camera in config.camera]
        self._health = HealthReporter(
            config,
            self._grabbers,
            self._inference_loop,
            self._mailbox,
            message_builder,
            self._publisher,
            latency_stats,
            self._recorder,
        )
        self._systemd = Systemd()
        self._commands = ControlCommands(
            self._inference_loop, self._health, self._limits, build, self._recorder, self._awake
        )

    def run(self) -> Outcome:
        """Runs until the stop event, the end of all files, or `max_frames`. Raises as `run_live`.

        Whatever ends the run, every part is closed: the newest part first, the recorder last.
        """
        with Ending() as ending:
            self._add_closing_steps(ending)
            try:
                self._start(ending)
                with on_crash_signal(self._dump_black_box):
                    stopped = run_threads(
                        self._inference_loop, self._grabbers, self._stop, each_tick=self._tick
                    )
            except Exception:  # also an unforeseen error: the black box exists for those
                self._dump_black_box("failure")
                raise
            outcome = self._outcome(stopped)
        return replace(outcome, unrecorded=self._recorder.failure)  # its end may fail as well

    def _add_closing_steps(self, ending: Ending) -> None:
        """The steps for the parts that exist from the constructor on."""
        ending.add("recorder", lambda: self._recorder.close(LAST_WORDS_S))
        ending.add("publisher", self._publisher.close)
        ending.add("health", self._health.stopping)
        ending.add("requests", self._commands.close)
        ending.add("pulse", self._awake.close)

    def _start(self, ending: Ending) -> None:
        """Starts all that runs beside the cameras and the model."""
        self._awake.start()
        self._recorder.start()
        if self._config.control.endpoint is not None:
            control = ControlServer(
                self._config.control.endpoint,
                self._commands.handle,
                self._config.wire.keys,
                insecure=self._config.wire.insecure,
            )
            log.info("controlled on %s", self._config.control.endpoint)
            ending.add("control socket", control.close)
        if self._page is not None:
            ending.add("page", self._page.close)
            self._page.serve(self._inference_loop.snapshot, self._commands.ask)
        ending.add("supervisor", self._systemd.stopping)
        log.info("publishing on %s", self._config.wire.endpoint)

    def _grabber(self, camera: CameraConfig) -> Grabber:
        limit = self._limits[camera.name]
        return Grabber(
            camera,
            functools.partial(_open_live, camera, limit, self._stop),
            _LiveSink(self._mailbox, self._recorder, self._inference_loop, self._on_capture),
            self._stop,
            retry_first=camera.at_start == "wait",
            limit=limit,
            awake=self._awake,
            presence=functools.partial(presence_of, camera),
        )

    def _observe(self, message: Message) -> None:
        """Shows a message to the recorder and the page, on the publisher's thread, after the
        send."""
        self._recorder.message(message)
        if self._page is not None:
            self._page.message(message)

    def _tick(self, running: bool) -> None:
        """Supervises, on the thread of `run`. running: capture has started. Raises InferenceError
        for a model that hangs."""
        self._health.tick(running)
        self._commands.look_after()
        self._check_hang()
        if running:
            if not self._captures:
                self._captures = True
                self._on_capture()
            self._systemd.ready()
            self._systemd.alive(f"{self._inference_loop.frames} frames labelled")

    def _check_hang(self) -> None:
        busy_s = self._inference_loop.busy_s
        timeout_s = self._config.model.inference_timeout_s
        if busy_s <= (RECOVERY_TIMEOUT_S if self._inference_loop.recovering else timeout_s):
            return
        self._health.hung()
        raise InferenceError(
            f"the model hangs for {busy_s:.1f} s on one frame (the limit is "
            f"model.inference_timeout_s = {timeout_s:g})",
            fix="the node ends, so that a supervisor restarts it",
        )

    def _dump_black_box(self, reason: str) -> None:
        """Writes the black box before the process ends, where the disk takes it in time."""
        if self._config.recording.black_box_s:
            with contextlib.suppress(PerceptionError, TimeoutError):
                self._recorder.dump(reason, within_s=LAST_WORDS_S).result(LAST_WORDS_S)

    def _outcome(self, stopped: bool) -> Outcome:
        states = [grabber.state for grabber in self._grabbers]
        return Outcome(
            frames=self._inference_loop.frames,
            dropped=sum(self._mailbox.dropped(camera.name) for camera in self._config.camera),
            summaries=tuple(state.summary for state in states if state.summary is not None),
            stopped=stopped,
            skipped=tuple(state.skipped for state in states if state.skipped is not None),
        )


class _LiveSink:
    """A sink for frames that shows each frame to the recorder, begins its upload, then queues the
    frame."""

    def __init__(
        self,
        mailbox: LatestMailbox,
        recorder: Recorder,
        inference_loop: InferenceLoop,
        on_first: Callable[[], None],
    ) -> None:
        """on_first: called at the first frame."""
        self._mailbox = mailbox
        self._recorder = recorder
        self._inference_loop = inference_loop
        self._on_first = on_first
        self._has_begun = False

    def put(self, frame: Frame) -> None:
        """Queues a frame; never blocks."""
        if not self._has_begun:
            self._has_begun = True
            self._on_first()
        self._recorder.frame(frame)
        self._mailbox.put(frame, prefetched=self._inference_loop.prefetch(frame))

    def close(self, camera: str) -> None:
        """Ends the frames of a camera."""
        self._mailbox.close(camera)


def _open_live(camera: CameraConfig, limit: RateLimit, stop: threading.Event) -> Source:
    source = open_source(camera, limit)
    return source if is_live(camera.source) else RealtimeSource(source, stop, limit)
