"""Puts the parts together, owns the threads, starts and stops them: live, and in replay."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.capture.grabber import CaptureState, Grabber
from node.capture.mailbox import EveryMailbox, LatestMailbox, Mailbox
from node.capture.open import is_live, open_source
from node.capture.pacing import LikeACamera, Replayed
from node.capture.source import Source
from node.config import CameraConfig, NodeConfig
from node.errors import PerceptionNodeError
from node.labeller import Labeller
from node.monitor.status import StatusAnnouncer, camera_status
from node.monitor.usage import LatencyMeter, ProcessMeter
from node.wire.compose import Composer, Usage
from node.wire.messages import CameraHealth, NodeState, Status
from node.wire.outgoing import Sink
from node.wire.publisher import Publisher

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver

log = logging.getLogger(__name__)

TICK_S = 0.05
"""How often the cameras are looked after: a stall is said at most this much late."""
HEALTH_PERIOD_S = 1.0
JOIN_TIMEOUT_S = 1.0
"""How long a stop waits for all threads together; two seconds are all there is."""


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
    build: "Callable[[], Perceiver]",
    stop: threading.Event,
    *,
    max_frames: int | None = None,
) -> Outcome:
    """Labels the newest frames of all cameras until `stop`, the end of all files, or `max_frames`.

    Raises PerceptionNodeError: an endpoint that cannot be bound, a model that cannot be loaded, a
    required source that cannot be opened.
    """
    names = [camera.name for camera in config.camera]
    mailbox = LatestMailbox(names)
    grabbers = [
        Grabber(
            camera.name,
            functools.partial(_open_live, camera, stop),
            mailbox,
            stop,
            retry_first=camera.at_start == "wait",
        )
        for camera in config.camera
    ]
    composer = Composer(config.name)
    publisher = Publisher(config.wire.endpoint)
    latency = LatencyMeter()
    labeller = Labeller(
        config,
        build,
        mailbox,
        composer,
        publisher,
        stop,
        max_frames=max_frames,
        on_labelled=latency.add,
    )
    watch = _Watch(config, grabbers, mailbox, composer, publisher, latency)
    log.info("publishing on %s", config.wire.endpoint)
    try:
        return _run(labeller, grabbers, mailbox, stop, each_tick=watch.tick)
    finally:
        watch.stopping()
        publisher.close()


def run_replay(
    config: NodeConfig,
    build: "Callable[[], Perceiver]",
    composer: Composer,
    sink: Sink,
    stop: threading.Event,
    *,
    speed: float | None,
) -> Outcome:
    """Labels every frame of the first camera's recording once, in order.

    speed: None for as fast as it goes.

    Raises PerceptionNodeError as `run_live` does, and whatever the sink's observer raised.
    """

    camera = config.camera[0]

    def opened() -> Source:
        source = open_source(camera)
        return Replayed(source, speed, stop) if speed is not None else source

    mailbox = EveryMailbox([camera.name], stop)
    grabber = Grabber(camera.name, opened, mailbox, stop, retry_first=False)
    labeller = Labeller(config, build, mailbox, composer, sink, stop)
    return _run(labeller, [grabber], mailbox, stop, each_tick=lambda ready: None)


def _open_live(camera: CameraConfig, stop: threading.Event) -> Source:
    source = open_source(camera)
    return source if is_live(camera.source) else LikeACamera(source, stop, camera.max_fps)


def _run(
    labeller: Labeller,
    grabbers: list[Grabber],
    mailbox: Mailbox,
    stop: threading.Event,
    *,
    each_tick: Callable[[bool], None],
) -> Outcome:
    """Starts the threads, looks after them, and stops them. Cameras start when the model is
    there, so that no frame waits for it."""
    capturing = False
    labeller.start()
    try:
        while not stop.is_set() and not labeller.ended.wait(TICK_S):
            if labeller.ready.is_set() and not capturing:
                capturing = True
                for grabber in grabbers:
                    grabber.start()
            each_tick(capturing)
            _raise_failure(grabbers)
    finally:
        stopped = stop.is_set()
        stop.set()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        labeller.join(JOIN_TIMEOUT_S)
        for grabber in grabbers if capturing else ():
            grabber.join(max(0.0, deadline - time.monotonic()))
    if labeller.failure is not None:
        raise labeller.failure
    _raise_failure(grabbers)
    states = [grabber.state for grabber in grabbers]
    return Outcome(
        frames=labeller.frames,
        dropped=sum(mailbox.dropped(grabber.camera) for grabber in grabbers),
        summaries=tuple(state.summary for state in states if state.summary is not None),
        stopped=stopped,
    )


def _raise_failure(grabbers: list[Grabber]) -> None:
    for grabber in grabbers:
        failure: PerceptionNodeError | None = grabber.state.failure
        if failure is not None:
            raise failure


class _Watch:
    """Looks after the cameras of a live run: says what they cannot see, and the node's health.
    Used by the pipeline's own thread only."""

    def __init__(
        self,
        config: NodeConfig,
        grabbers: list[Grabber],
        mailbox: Mailbox,
        composer: Composer,
        publisher: Publisher,
        latency: LatencyMeter,
    ) -> None:
        self._config = config
        self._grabbers = grabbers
        self._mailbox = mailbox
        self._composer = composer
        self._publisher = publisher
        self._latency = latency
        self._meter = ProcessMeter()
        self._announcers = [StatusAnnouncer() for _ in grabbers]
        self._health_at = 0.0
        self._frames_before = [0] * len(grabbers)

    def tick(self, running: bool) -> None:
        """Publishes what is due."""
        statuses = [
            _status(camera, grabber.state)
            for camera, grabber in zip(self._config.camera, self._grabbers, strict=True)
        ]
        for grabber, announcer, status in zip(
            self._grabbers, self._announcers, statuses, strict=True
        ):
            if announcer.due(status):
                self._publisher.send(self._composer.blind(grabber.camera, status))
        if time.monotonic() - self._health_at >= HEALTH_PERIOD_S:
            self._send_health(_node_state(running, statuses), statuses)

    def stopping(self) -> None:
        """Says that the node goes."""
        self._send_health("stopping", [Status.NO_CAMERA] * len(self._grabbers))

    def _send_health(self, state: NodeState, statuses: list[Status]) -> None:
        now = time.monotonic()
        elapsed_s = now - self._health_at if self._health_at else HEALTH_PERIOD_S
        self._health_at = now
        cameras = tuple(
            self._camera_health(place, status, elapsed_s) for place, status in enumerate(statuses)
        )
        usage = Usage(
            rss_bytes=self._meter.rss_bytes(),
            cpu=self._meter.cpu(),
            uptime_s=self._meter.uptime_s(),
            subscribers=self._publisher.subscriptions,
        )
        self._publisher.send(self._composer.health(state, cameras, self._latency.take(), usage))

    def _camera_health(self, place: int, status: Status, elapsed_s: float) -> CameraHealth:
        grabber = self._grabbers[place]
        state = grabber.state
        fps = (state.frames - self._frames_before[place]) / elapsed_s
        self._frames_before[place] = state.frames
        return CameraHealth(
            camera=grabber.camera,
            status=status,
            fps=fps,
            width=state.facts.width,
            height=state.facts.height,
            pixel_format=state.facts.pixel_format,
            newest_frame_age_s=_silent_s(state) if state.frames else None,
            frames=state.frames,
            dropped=self._mailbox.dropped(grabber.camera),
            reconnects=state.reconnects,
            last_error=state.last_error,
        )


def _status(camera: CameraConfig, state: CaptureState) -> Status:
    rates = [fps for fps in (state.facts.fps, camera.max_fps) if fps]
    slowest_s = 2 / min(rates) if rates else 0.0
    return camera_status(
        is_open=state.open,
        silent_s=_silent_s(state),
        stall_timeout_s=max(camera.stall_timeout_s, slowest_s),
    )


def _silent_s(state: CaptureState) -> float | None:
    if state.newest_mono_ns is None:
        return None
    return (time.monotonic_ns() - state.newest_mono_ns) / 1e9


def _node_state(running: bool, statuses: list[Status]) -> NodeState:
    if not running:
        return "starting"
    if all(status is not Status.OK for status in statuses):
        return "stalled"
    return "running" if all(status is Status.OK for status in statuses) else "degraded"
