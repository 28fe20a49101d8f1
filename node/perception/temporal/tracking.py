"""Tracking: which detection is the same thing as before, by ByteTrack (Zhang et al., 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from node.config.schema import TrackConfig
from perception_client.messages.kinds import Detection

_NOMINAL_FPS = 30.0
"""What ByteTrack's motion model counts in; times come from the stamps, whatever the rate."""
_ENOUGH_OVERLAP = 0.1
_APART_PX = 100_000
"""Wider than any picture."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """detections: with their track, None while a thing is too new to be sure of. alive: all
    tracks that are remembered, also those not seen now."""

    detections: tuple[Detection, ...]
    alive: frozenset[int]


class Tracker:
    """Tracks the things of one camera. Numbers count from 1 and are never used twice."""

    def __init__(self, config: TrackConfig) -> None:
        # It loads scipy and more, which nobody else needs.
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
        self._first = 1
        self._last_s: float | None = None

    def update(self, detections: Sequence[Detection], at_s: float) -> Tracked:
        """The detections of the frame of this time in seconds, in the same order."""
        from supervision import Detections

        if self._last_s is not None and at_s <= self._last_s:
            at_s = self._last_s + 1e-6  # two frames of one stamp are still two looks
        self._last_s = at_s
        found = self._tracker.update(
            Detections(
                xyxy=np.array([self._corners(one) for one in detections]).reshape(-1, 4),
                confidence=np.array([one.score for one in detections], np.float32),
                class_id=np.arange(len(detections)),
            ),
            timestamp=at_s,
        )
        tracks: dict[int, int] = {}
        if found.class_id is not None and found.tracker_id is not None:
            for place, track in zip(found.class_id, found.tracker_id, strict=True):
                if track >= 0:
                    tracks[int(place)] = self._first + int(track)
        return Tracked(
            detections=tuple(
                replace(one, track=tracks.get(place)) for place, one in enumerate(detections)
            ),
            alive=frozenset(
                self._first + int(track.tracker_id)
                for track in self._tracker.tracks
                if track.tracker_id >= 0
            ),
        )

    def _corners(self, detection: Detection) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in float64; classes that are to stay apart lie far from each other."""
        box = detection.box
        cx = box.cx + (detection.id * _APART_PX if self._per_class else 0)
        return cx - box.w / 2, box.cy - box.h / 2, cx + box.w / 2, box.cy + box.h / 2

    def reset(self) -> None:
        """Forgets all things: what comes next is another scene."""
        self._first += self._tracker._next_track_id
        self._tracker.reset()
        self._last_s = None
