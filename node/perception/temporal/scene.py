"""Scene: all state of one camera across frames."""

from dataclasses import dataclass, replace

from node.config.schema import CameraConfig, NodeConfig, SmoothConfig
from node.image.frame import Frame, Image
from node.perception.classical.tag_pose import tag_poses
from node.perception.tasks.base import Prediction
from node.perception.tasks.region import RegionOfInterest
from node.perception.temporal.event_detector import EventDetector
from node.perception.temporal.smoothing import Smoother
from node.perception.temporal.tracking import Tracker
from perception_client.messages.kinds import SceneEvent


@dataclass(frozen=True, slots=True)
class TrackedPrediction:
    """The prediction for a frame after smoothing or tracking.

    Attributes:
        seen: the prediction, in pixels of the frame.
        events: since the previous frame, in order.
    """

    seen: Prediction
    events: tuple[SceneEvent, ...] = ()


class Scene:
    """Region of interest, poses of tags, smoothing, tracking and events of one camera. Not
    thread-safe.

    A new epoch (the source was reopened, restarted or changed its size) shows another scene, so all
    state is reset.

    Args:
        camera: the camera.
        config: smoothing and tracking.
        names: of the model's classes, in order.
    """

    def __init__(self, camera: CameraConfig, config: NodeConfig, names: tuple[str, ...]) -> None:
        self._region = (
            RegionOfInterest(camera.roi, crop=camera.roi_mode == "crop", camera=camera.name)
            if camera.roi
            else None
        )
        self._camera = camera
        self._detect = config.detect
        self._poses = tag_poses(camera, config.detect)
        self._names = names
        self._smooth = config.smooth
        self._smoother = _smoother(names, config.smooth)
        self._tracker = Tracker(config.track) if config.track.enabled else None
        self._event_detector = EventDetector(camera.regions, config.track.anchor)
        self._epoch: int | None = None

    def cut(self, image: Image) -> Image:
        """Returns the network's view of a frame, [h, w, 3] uint8 BGR."""
        return image if self._region is None else self._region.cut(image)

    def observe(self, frame: Frame, seen: Prediction) -> TrackedPrediction:
        """Maps a prediction to pixels of the frame, and applies smoothing or tracking.

        Args:
            frame: the frame.
            seen: the prediction for its `cut` image.
        """
        if self._region is not None:
            seen = self._region.placed(seen)
        if self._poses is not None:
            height, width = frame.image.shape[:2]
            seen = replace(seen, detections=self._poses.added(seen.detections, height, width))
        ended = self._start_epoch(frame.epoch)
        if frame.stamp is None:
            # A photograph has no previous frame.
            return TrackedPrediction(seen, ended)
        # The wall clock may be set, also in the middle of a recording.
        clocks = (frame.stamp.mono_ns, frame.media_ns, frame.stamp.unix_ns)
        time_ns = next(clock_ns for clock_ns in clocks if clock_ns is not None)
        time_s = time_ns / 1e9
        stamp_ns = frame.stamp.unix_ns
        events: list[SceneEvent] = []
        if self._smoother is not None and seen.scores is not None:
            labels = self._smoother.update(seen.labels, seen.scores, time_s, stamp_ns)
            seen = replace(seen, labels=labels)
            events = self._event_detector.of_labels(labels, stamp_ns, time_ns)
        elif self._tracker is not None and seen.scores is None:
            tracked = self._tracker.update(seen.detections, time_s)
            seen = replace(seen, detections=tracked.detections)
            size = (frame.image.shape[0], frame.image.shape[1])
            events = self._event_detector.of_tracks(
                seen.detections, tracked.alive, size, stamp_ns, time_ns
            )
        return TrackedPrediction(seen, (*ended, *events))

    def reconfigure(self, config: NodeConfig) -> None:
        """Applies another smoothing and another size of the tags from the next frame on. A changed
        smoothing resets the average."""
        if config.detect != self._detect:
            self._detect = config.detect
            self._poses = tag_poses(self._camera, config.detect)
        if config.smooth != self._smooth:
            self._smooth = config.smooth
            self._smoother = _smoother(self._names, config.smooth)

    def close(self) -> tuple[SceneEvent, ...]:
        """Returns the final events of everything that is present."""
        return tuple(self._event_detector.reset())

    def _start_epoch(self, epoch: int) -> tuple[SceneEvent, ...]:
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
    """Returns a scene for each camera, by name. names: of the model's classes, in order."""
    return {camera.name: Scene(camera, config, names) for camera in config.camera}
