"""Puts the parts together, owns the threads, starts and stops them: live, and in replay."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from node.capture.grabber import Grabber
from node.capture.mailbox import EveryMailbox, LatestMailbox, Mailbox
from node.capture.open import is_live, open_source
from node.capture.pacing import LikeACamera, RateLimit, Replayed
from node.capture.source import Source
from node.config import CameraConfig, NodeConfig
from node.controller import Controller
from node.errors import InferenceError, PerceptionNodeError
from node.labeller import Labeller
from node.lineup import Builder
from node.monitor.supervisor import Supervisor
from node.watch import Meters, Watch
from node.wire.compose import Composer
from node.wire.control import ControlServer
from node.wire.outgoing import Sink
from node.wire.publisher import Publisher

log = logging.getLogger(__name__)

TICK_S = 0.05
"""How often the cameras are looked after: a stall is said at most this much late."""
JOIN_TIMEOUT_S = 1.0
"""How long a stop waits for all threads together; two seconds are all there is."""
RECOVERY_TIMEOUT_S = 120.0
"""How long the CPU may take to come up in the place of a GPU that failed."""


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

    Raises PerceptionNodeError: an endpoint that cannot be bound, a model that cannot be loaded, a
    required source that cannot be opened; InferenceError for a model that fails again and again or
    hangs.
    """
    names = [camera.name for camera in config.camera]
    mailbox = LatestMailbox(names)
    limits = {camera.name: RateLimit(camera.max_fps) for camera in config.camera}
    grabbers = [
        Grabber(
            camera,
            functools.partial(_open_live, camera, limits[camera.name], stop),
            mailbox,
            stop,
            retry_first=camera.at_start == "wait",
        )
        for camera in config.camera
    ]
    deadlines_s = {x.name: x.deadline_s for x in config.camera if x.deadline_s is not None}
    composer = Composer(config.name, deadlines_s)
    publisher = Publisher(config.wire.endpoint, keys=config.wire.keys)
    meters = Meters(names)
    labeller = Labeller(
        config,
        build,
        mailbox,
        composer,
        publisher,
        stop,
        max_frames=max_frames,
        on_labelled=meters.add,
    )
    watch = Watch(config, grabbers, labeller, mailbox, composer, publisher, meters)
    supervisor = Supervisor()
    controller = Controller(labeller, watch, limits, build)
    try:
        control = _control_server(config, controller)
    except PerceptionNodeError:
        publisher.close()
        raise
    log.info("publishing on %s", config.wire.endpoint)

    def each_tick(running: bool) -> None:
        watch.tick(running)
        if labeller.busy_s > _patience_s(config, labeller):
            watch.hung()
            raise InferenceError(
                f"the model hangs for {labeller.busy_s:.1f} s on one frame (the limit is "
                f"model.inference_timeout_s = {config.model.inference_timeout_s:g}); ending, so "
                "that a supervisor starts the node anew"
            )
        if running:
            supervisor.ready()
            supervisor.alive(f"{labeller.frames} frames labelled")

    try:
        return _run(labeller, grabbers, mailbox, stop, each_tick=each_tick)
    finally:
        supervisor.stopping()
        if control is not None:
            control.close()
        controller.close()
        watch.stopping()
        publisher.close()


def _control_server(config: NodeConfig, controller: Controller) -> ControlServer | None:
    if config.control.endpoint is None:
        return None
    server = ControlServer(config.control.endpoint, controller.handle, config.wire.keys)
    log.info("controlled on %s", config.control.endpoint)
    return server


def _patience_s(config: NodeConfig, labeller: Labeller) -> float:
    return RECOVERY_TIMEOUT_S if labeller.recovering else config.model.inference_timeout_s


def run_replay(
    config: NodeConfig,
    build: Builder,
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
    grabber = Grabber(camera, opened, mailbox, stop, retry_first=False)
    labeller = Labeller(config, build, mailbox, composer, sink, stop)
    return _run(labeller, [grabber], mailbox, stop, each_tick=lambda ready: None)


def _open_live(camera: CameraConfig, limit: RateLimit, stop: threading.Event) -> Source:
    source = open_source(camera, limit)
    return source if is_live(camera.source) else LikeACamera(source, stop, limit)


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
