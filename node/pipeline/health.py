"""HealthReporter: supervises the cameras of a live run and publishes their status and the health of
the node."""

import logging
import time
from dataclasses import replace

from node.capture.grabber import CaptureState, Grabber
from node.capture.mailbox import LatestMailbox
from node.config.schema import NodeConfig
from node.pipeline.camera_status import StatusAnnouncer, camera_status
from node.pipeline.deadlines import Labelled
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder, PerceptionHealth, Usage
from node.pipeline.resource_usage import LatencyMeter, ProcessMeter
from node.recording.recorder import Recorder
from node.transport.publisher import Publisher
from node.transport.sequencing import Outgoing
from perception_client.messages.kinds import CameraHealth, HealthMessage, Message, NodeState, Status

log = logging.getLogger(__name__)

HEALTH_PERIOD_S = 1.0
STOPPING_S = 0.2
"""How long the last health waits for a publisher that is busy; two seconds are all there is."""


class LatencyStats:
    """What the labeller's messages tell: how late they are. ok_at: by camera when the newest was
    sent, on the monotonic clock."""

    def __init__(self, cameras: list[str]) -> None:
        self.latency = LatencyMeter()
        self.misses = dict.fromkeys(cameras, 0)
        self.ok_at = dict.fromkeys(cameras, 0.0)

    def add(self, labelled: Labelled) -> None:
        """Notes one message; on the labeller's thread."""
        self.latency.add(labelled.latency_ns)
        self.misses[labelled.camera] += labelled.late
        self.ok_at[labelled.camera] = time.monotonic()


class HealthReporter:
    """Used by the pipeline's own thread only."""

    def __init__(
        self,
        config: NodeConfig,
        grabbers: list[Grabber],
        inference_loop: InferenceLoop,
        mailbox: LatestMailbox,
        message_builder: MessageBuilder,
        publisher: Publisher,
        latency_stats: LatencyStats,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._grabbers = grabbers
        self._inference_loop = inference_loop
        self._mailbox = mailbox
        self._message_builder = message_builder
        self._publisher = publisher
        self._latency_stats = latency_stats
        self._recorder = recorder
        self._process = ProcessMeter()
        self._announcers = [StatusAnnouncer() for _ in grabbers]
        self._health_at = 0.0
        self.health: HealthMessage | None = None
        self._frames_before = [0] * len(grabbers)

    def tick(self, running: bool) -> None:
        """Publishes what is due."""
        for grabber in self._grabbers:
            grabber.look_after()
        statuses = self.statuses()
        for grabber, announcer, status in zip(
            self._grabbers, self._announcers, statuses, strict=True
        ):
            if announcer.due(status, self._latency_stats.ok_at[grabber.camera]):
                self._publisher.send(self._message_builder.unavailable(grabber.camera, status))
        if time.monotonic() - self._health_at >= HEALTH_PERIOD_S:
            self._send_health(self._node_state(running, statuses), statuses)

    def statuses(self) -> list[Status]:
        """Of each camera, now."""
        return [
            Status.PAUSED if camera.name in self._inference_loop.paused else _status(grabber)
            for camera, grabber in zip(self._config.camera, self._grabbers, strict=True)
        ]

    def stall_after_s(self, camera: str) -> float:
        """Seconds without a new picture that make a camera `stalled`."""
        return next(x.stall_after_s for x in self._grabbers if x.camera == camera)

    def hung(self) -> None:
        """Says that nothing is looked at any more."""
        for grabber in self._grabbers:
            self._publisher.send(self._message_builder.unavailable(grabber.camera, Status.STALLED))
        self._send_health("stalled", [Status.STALLED] * len(self._grabbers))

    def stopping(self) -> None:
        """Says that the node goes, where the publisher still takes it."""
        health = self._health("stopping", [Status.NO_CAMERA] * len(self._grabbers))
        self._publisher.offer(health, STOPPING_S)
        self._process.close()

    def health_of(self, statuses: list[Status], elapsed_s: float) -> tuple[CameraHealth, ...]:
        """Of each camera. elapsed_s: since this was asked before."""
        return tuple(
            self._camera_health(place, status, elapsed_s) for place, status in enumerate(statuses)
        )

    def _node_state(self, running: bool, statuses: list[Status]) -> NodeState:
        if not running:
            return "starting"
        blind = [status for status in statuses if status not in (Status.OK, Status.PAUSED)]
        if blind and Status.OK not in statuses:
            return "stalled"
        return "degraded" if blind or self._degraded else "running"

    @property
    def _degraded(self) -> tuple[str, ...]:
        of_cameras = (why for grabber in self._grabbers for why in grabber.degraded)
        return (*self._inference_loop.degraded, *of_cameras)

    def _send_health(self, state: NodeState, statuses: list[Status]) -> None:
        self._publisher.send(self._health(state, statuses))

    def _health(self, state: NodeState, statuses: list[Status]) -> Outgoing:
        now = time.monotonic()
        elapsed_s = now - self._health_at if self._health_at else HEALTH_PERIOD_S
        self._health_at = now
        usage = Usage(
            rss_bytes=self._process.rss_bytes(),
            cpu=self._process.cpu(),
            uptime_s=self._process.uptime_s(),
            subscribers=self._publisher.subscriptions,
        )
        perception = PerceptionHealth(
            lost_frames=self._inference_loop.lost_frames,
            last_error=self._inference_loop.last_error,
            degraded=self._degraded,
        )
        cameras = self.health_of(statuses, elapsed_s)
        latency = self._latency_stats.latency.take()
        outgoing = self._message_builder.health(
            state, cameras, latency, usage, perception, self._recorder.health
        )
        return replace(outgoing, on_finalised=self._keep)

    def _keep(self, message: Message) -> None:
        if isinstance(message, HealthMessage):
            self.health = message

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
            corrupt=state.corrupt,
            repeated=state.repeated,
            reconnects=state.reconnects,
            deadline_misses=self._latency_stats.misses[grabber.camera],
            last_error=state.last_error,
        )


def _status(grabber: Grabber) -> Status:
    return camera_status(
        is_open=grabber.state.open,
        silent_s=grabber.silent_s,
        stall_timeout_s=grabber.stall_after_s,
    )


def _silent_s(state: CaptureState) -> float | None:
    if state.newest_mono_ns is None:
        return None
    return (time.monotonic_ns() - state.newest_mono_ns) / 1e9
