"""Scene: what one camera saw over time. It owns all that is remembered between two frames."""

from dataclasses import dataclass, replace

from node.config.schema import CameraConfig, NodeConfig, SmoothConfig
from node.image.frame import Frame, Image
from node.perception.tasks.base import Prediction
from node.perception.tasks.region import RegionOfInterest
from node.perception.temporal.event_detector import EventDetector
from node.perception.temporal.smoothing import Smoother
from node.perception.temporal.tracking import Tracker
from perception_client.messages.kinds import SceneEvent


@dataclass(frozen=True, slots=True)
class TrackedPrediction:
    """What a frame tells together with those before it."""

    seen: Prediction
    events: tuple[SceneEvent, ...] = ()


class Scene:
    """Region, smoothing, tracking and happenings of one camera. Used by one thread.

    A source that is opened anew or starts again from its beginning shows another scene: all that
    was remembered goes.
    """

    def __init__(self, camera: CameraConfig, config: NodeConfig, names: tuple[str, ...]) -> None:
        self._region = (
            RegionOfInterest(camera.roi, crop=camera.roi_mode == "crop", camera=camera.name)
            if camera.roi
            else None
        )
        self._names = names
        self._smooth = config.smooth
        self._smoother = _smoother(names, config.smooth)
        self._tracker = Tracker(config.track) if config.track.enabled else None
        self._event_detector = EventDetector(camera.regions, config.track.anchor)
        self._epoch: int | None = None

    def cut(self, image: Image) -> Image:
        """What the network is to see of a frame."""
        return image if self._region is None else self._region.cut(image)

    def observe(self, frame: Frame, seen: Prediction) -> TrackedPrediction:
        """What was seen in a frame, in pixels of the frame, with what is known from before."""
        if self._region is not None:
            seen = self._region.placed(seen)
        ended = self._began_anew(frame.epoch)
        if frame.stamp is None:  # a photograph: nothing came before it
            return TrackedPrediction(seen, ended)
        clock_ns = frame.stamp.mono_ns
        at_s = (frame.stamp.unix_ns if clock_ns is None else clock_ns) / 1e9
        stamp_ns = frame.stamp.unix_ns
        found: list[SceneEvent] = []
        if self._smoother is not None and seen.scores is not None:
            labels = self._smoother.update(seen.labels, seen.scores, at_s, stamp_ns)
            seen = replace(seen, labels=labels)
            found = self._event_detector.of_labels(labels, stamp_ns)
        elif self._tracker is not None and seen.scores is None:
            tracked = self._tracker.update(seen.detections, at_s)
            seen = replace(seen, detections=tracked.detections)
            size = (frame.image.shape[0], frame.image.shape[1])
            found = self._event_detector.of_tracks(seen.detections, tracked.alive, size, stamp_ns)
        return TrackedPrediction(seen, (*ended, *found))

    def reconfigure(self, config: NodeConfig) -> None:
        """Other smoothing from the next frame on; where it changed, what was averaged goes."""
        if config.smooth != self._smooth:
            self._smooth = config.smooth
            self._smoother = _smoother(self._names, config.smooth)

    def close(self) -> tuple[SceneEvent, ...]:
        """The end of all that is open: nobody looks at it any more."""
        return tuple(self._event_detector.reset())

    def _began_anew(self, epoch: int) -> tuple[SceneEvent, ...]:
        if epoch == self._epoch:
            return ()
        self._epoch = epoch
        if self._smoother is not None:
            self._smoother.reset()
        if self._tracker is not None:
            self._tracker.reset()
        return tuple(self._event_detector.reset())


def _smoother(names: tuple[str, ...], config: SmoothConfig) -> Smoother | None:
    return Smoother(names, config) if config.time_constant_s else None


def scenes(config: NodeConfig, names: tuple[str, ...]) -> dict[str, Scene]:
    """A scene for each camera. names: of the model's classes."""
    return {camera.name: Scene(camera, config, names) for camera in config.camera}
