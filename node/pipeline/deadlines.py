"""DeadlineMonitor: the latency of each labelled frame, and whether the frame met its deadline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.config.schema import CameraConfig
from node.image.frame import Frame, Stamp
from node.process.awake import AwakeClock


@dataclass(frozen=True, slots=True)
class Labelled:
    """One published labels message. latency_ns: from capture to hand-over to the publisher. late:
    beyond the deadline of its camera."""

    camera: str
    latency_ns: int
    late: bool


class DeadlineMonitor:
    """Reports each labelled frame. Used by the inference thread.

    on_labelled: called with each labelled frame. on_deadline: called for each camera with a
    deadline, with whether the frame was late and the time on CLOCK_MONOTONIC in s.
    """

    def __init__(
        self,
        cameras: Sequence[CameraConfig],
        awake: AwakeClock,
        on_labelled: Callable[[Labelled], None],
        on_deadline: Callable[[bool, float], None],
    ) -> None:
        self._deadlines_ns = {
            camera.name: int(camera.deadline_s * 1e9)
            for camera in cameras
            if camera.deadline_s is not None
        }
        self._awake = awake
        self._on_labelled = on_labelled
        self._on_deadline = on_deadline

    def note(self, frame: Frame, work_ns: int) -> None:
        """Notes a frame whose labels were just handed over. work_ns: sum of the stages, the
        latency of a frame without a monotonic stamp."""
        camera, stamp = frame.camera, frame.stamp
        latency_ns = work_ns
        if stamp is not None and stamp.mono_ns is not None:
            latency_ns = time.monotonic_ns() - stamp.mono_ns
        oldest_ns = latency_ns + (stamp.uncertainty_ns or 0 if stamp is not None else 0)
        deadline_ns = self._deadlines_ns.get(camera)
        late = deadline_ns is not None and oldest_ns > deadline_ns
        self._on_labelled(Labelled(camera, latency_ns, late))
        if deadline_ns is not None and not self._is_from_before_standstill(stamp):
            self._on_deadline(late, time.monotonic())

    def _is_from_before_standstill(self, stamp: Stamp | None) -> bool:
        """Whether the process stood still after the capture: then the model is not the cause of a
        late message."""
        mono_ns = None if stamp is None else stamp.mono_ns
        return mono_ns is not None and mono_ns < self._awake.resumed_ns
