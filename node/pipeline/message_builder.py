"""MessageBuilder: builds the messages of a node, all of one session."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from node.image.frame import Frame
from node.transport.sequencing import Header, Outgoing
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import (
    Area,
    CameraHealth,
    Detection,
    EventMessage,
    HealthMessage,
    ImageSize,
    InfoMessage,
    Label,
    LabelsMessage,
    Latency,
    Mask,
    Message,
    ModelInfo,
    NodeState,
    RecordingHealth,
    SceneEvent,
    Status,
    Timing,
    boot_id,
    topic,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources of the process. rss_bytes: resident memory, None where unknown. cpu: seconds of CPU
    time per second. uptime_s: since the start. subscribers: topics subscribed to."""

    rss_bytes: int | None
    cpu: float
    uptime_s: float
    subscribers: int


@dataclass(frozen=True, slots=True)
class PerceptionHealth:
    """Health of the model. lost_frames: frames that the model failed on. last_error: the newest
    failure. degraded: why the node runs below its configuration."""

    lost_frames: int = 0
    last_error: str | None = None
    degraded: tuple[str, ...] = ()


class MessageBuilder:
    """Builds messages for a sink; safe to call from any thread.

    session: random name of this run. settings: number of the settings in force, which the thread
    that changes them raises.
    """

    def __init__(self, node: str, deadlines_s: Mapping[str, float] | None = None) -> None:
        self.node = node
        self.settings = 0
        self._deadlines_ns = {
            name: int(deadline_s * 1e9) for name, deadline_s in (deadlines_s or {}).items()
        }
        self.session = secrets.token_hex(8)

    def labels(
        self,
        frame: Frame,
        *,
        dropped: int,
        timing: Timing,
        model: ModelInfo,
        labels: tuple[Label, ...],
        detections: tuple[Detection, ...] = (),
        areas: tuple[Area, ...] = (),
        masks: tuple[Mask, ...] = (),
        degraded: tuple[str, ...] = (),
        on_finalised: Callable[[Message], None] | None = None,
    ) -> Outgoing:
        """The labels of a frame. dropped: frames of the camera without labels since its last
        ones."""
        stamp = frame.stamp
        live = stamp is not None and stamp.mono_ns is not None
        height, width = frame.image.shape[:2]
        settings = self.settings

        def finalise(envelope: Header) -> LabelsMessage:
            return LabelsMessage(
                node=self.node,
                camera=frame.camera,
                session=self.session,
                seq=envelope.seq,
                status=Status.OK,
                frame_id=frame.frame_id,
                stamp_ns=stamp.unix_ns if stamp else None,
                clock=stamp.clock if stamp else None,
                stamp_mono_ns=stamp.mono_ns if stamp else None,
                stamp_boot_ns=stamp.boot_ns if stamp else None,
                stamp_uncertainty_ns=stamp.uncertainty_ns if stamp else None,
                boot_id=boot_id() if live else None,
                published_ns=envelope.published_ns,
                published_mono_ns=envelope.published_mono_ns if live else None,
                published_boot_ns=envelope.published_boot_ns if live else None,
                media_ns=frame.media_ns,
                timing_ns=timing,
                deadline_ns=self._deadlines_ns.get(frame.camera),
                dropped=dropped,
                model=model,
                settings=settings,
                image=ImageSize(width, height),
                labels=labels,
                detections=detections,
                areas=areas,
                masks=masks,
                degraded=degraded,
            )

        return Outgoing(topic("labels", frame.camera), finalise, on_finalised=on_finalised)

    def event(self, frame: Frame, event: SceneEvent) -> Outgoing:
        """An event of a frame: an object or label appeared, changed or disappeared."""
        stamp = frame.stamp
        live = stamp is not None and stamp.mono_ns is not None

        def finalise(envelope: Header) -> EventMessage:
            return EventMessage(
                node=self.node,
                camera=frame.camera,
                session=self.session,
                seq=envelope.seq,
                kind=event.kind,
                key=event.key,
                id=event.id,
                name=event.name,
                score=event.score,
                track=event.track,
                box=event.box,
                region=event.region,
                previous=event.previous,
                since_ns=event.since_ns,
                duration_ns=event.duration_ns,
                reset=event.reset,
                frame_id=frame.frame_id,
                stamp_ns=stamp.unix_ns if stamp else None,
                clock=stamp.clock if stamp else None,
                stamp_mono_ns=stamp.mono_ns if stamp else None,
                boot_id=boot_id() if live else None,
                published_ns=envelope.published_ns,
                media_ns=frame.media_ns,
            )

        return Outgoing(topic("events", frame.camera), finalise, event.key, event.ends)

    def unavailable(self, camera: str, status: Status) -> Outgoing:
        """The labels of a camera are unavailable. status: the reason."""
        settings = self.settings

        def finalise(envelope: Header) -> LabelsMessage:
            return LabelsMessage(
                node=self.node,
                camera=camera,
                session=self.session,
                seq=envelope.seq,
                status=status,
                deadline_ns=self._deadlines_ns.get(camera),
                settings=settings,
                boot_id=boot_id(),
                published_ns=envelope.published_ns,
                published_mono_ns=envelope.published_mono_ns,
                published_boot_ns=envelope.published_boot_ns,
            )

        return Outgoing(topic("labels", camera), finalise)

    def health(
        self,
        state: NodeState,
        cameras: tuple[CameraHealth, ...],
        latency: Latency | None,
        usage: Usage,
        perception: PerceptionHealth,
        recording: RecordingHealth | None = None,
    ) -> Outgoing:
        """The health of the node."""

        def finalise(envelope: Header) -> HealthMessage:
            return HealthMessage(
                node=self.node,
                session=self.session,
                seq=envelope.seq,
                published_ns=envelope.published_ns,
                state=state,
                cameras=cameras,
                latency_ns=latency,
                lost_frames=perception.lost_frames,
                last_error=perception.last_error,
                degraded=perception.degraded,
                settings=self.settings,
                recording=recording,
                rss_bytes=usage.rss_bytes,
                cpu=usage.cpu,
                uptime_s=usage.uptime_s,
                subscribers=usage.subscribers,
            )

        return Outgoing(topic("health", self.node), finalise)

    def info(
        self,
        model: ModelInfo,
        names: tuple[str, ...],
        calibrations: tuple[Calibration, ...] = (),
        crop_model: ModelInfo | None = None,
        crop_names: tuple[str, ...] = (),
    ) -> Outgoing:
        """The names of the label ids, and the calibrations of the cameras."""

        def finalise(envelope: Header) -> InfoMessage:
            return InfoMessage(
                node=self.node,
                session=self.session,
                seq=envelope.seq,
                published_ns=envelope.published_ns,
                model=model,
                names=names,
                calibrations=calibrations,
                crop_model=crop_model,
                crop_names=crop_names,
            )

        return Outgoing(topic("info", self.node), finalise)
