"""Tracker: assigns detections of the same object the same number, by ByteTrack (Zhang et al.,
2022)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from node.config.schema import TrackConfig
from perception_client.messages.kinds import Detection

_NOMINAL_FPS = 30.0
"""Frame rate that ByteTrack's buffer counts in; intervals come from the stamps at any rate."""
_ENOUGH_OVERLAP = 0.1
"""Smallest IoU of a detection with the predicted box of its track."""
_APART_PX = 100_000
"""Larger than any picture."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """Detections with tracks.

    Attributes:
        detections: with `track`, None while an object is too new.
        alive: numbers of all tracks in memory, also of those not visible now.
    """

    detections: tuple[Detection, ...]
    alive: frozenset[int]


class Tracker:
    """Tracks the objects of one camera. Numbers start at 1 and are never reused. Not
    thread-safe."""

    def __init__(self, config: TrackConfig) -> None:
        # Deferred: the import loads scipy and more.
        from trackers.core.bytetrack.tracker import ByteTrackTracker

        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(config.lost_s * _NOMINAL_FPS),
            frame_rate=_NOMINAL_FPS,
            track_activation_threshold=config.start_score,
            high_conf_det_threshold=config.start_score,
            minimum_consecutive_frames=config.min_hits,
            minimum_iou_threshold=_ENOUGH_OVERLAP,
        )
        self._per_class = config.per_class
        self._number_offset = 1
        self._last_s: float | None = None

    def update(self, detections: Sequence[Detection], at_s: float) -> Tracked:
        """Assigns the detections of a frame to tracks.

        Args:
            detections: of the frame.
            at_s: time of the frame in seconds, on a monotonic clock.

        Returns:
            The detections in the same order.
        """
        from supervision import Detections

        if self._last_s is not None and at_s <= self._last_s:
            at_s = self._last_s + 1e-6
            # The tracker needs increasing times, also for two frames with one stamp.
        self._last_s = at_s
        assigned = self._tracker.update(
            Detections(
                xyxy=np.array([self._corners(detection) for detection in detections]).reshape(
                    -1, 4
                ),
                confidence=np.array([detection.score for detection in detections], np.float32),
                class_id=np.arange(len(detections)),
            ),
            timestamp=at_s,
        )
        tracks: dict[int, int] = {}
        if assigned.class_id is not None and assigned.tracker_id is not None:
            for index, track in zip(assigned.class_id, assigned.tracker_id, strict=True):
                if track >= 0:
                    tracks[int(index)] = self._number_offset + int(track)
        return Tracked(
            detections=tuple(
                replace(detection, track=tracks.get(index))
                for index, detection in enumerate(detections)
            ),
            alive=frozenset(
                self._number_offset + int(track.tracker_id)
                for track in self._tracker.tracks
                if track.tracker_id >= 0
            ),
        )

    def _corners(self, detection: Detection) -> tuple[float, float, float, float]:
        """Returns (x1, y1, x2, y2). With `per_class`, boxes of different classes are shifted far
        apart, so that they never match."""
        box = detection.box
        cx = box.cx + (detection.id * _APART_PX if self._per_class else 0)
        return cx - box.w / 2, box.cy - box.h / 2, cx + box.w / 2, box.cy + box.h / 2

    def reset(self) -> None:
        """Clears the state: the next frame shows another scene."""
        self._number_offset += self._tracker._next_track_id
        self._tracker.reset()
        self._last_s = None
