"""From labels to ROS 2's vision_msgs. Needs nothing of ROS by itself: whoever calls says how a
message is made, so that a bridge fills rclpy's types and a bag those of the package rosbags."""

from collections.abc import Callable, Sequence
from typing import Any

from perception_client.messages.labels import Detection, LabelsMessage, Pose, Status

CLASSIFICATION = "vision_msgs/msg/Classification"
DETECTIONS = "vision_msgs/msg/Detection2DArray"

Make = Callable[..., Any]
"""`make("std_msgs/msg/Header", stamp=..., frame_id=...)`: a message of a type with these fields."""


def of_labels(message: LabelsMessage, make: Make) -> Any:
    """Classification for labels, Detection2DArray for detections; None for a message that tells of
    no frame (a status other than `ok`): ROS has no word for "cannot see" there."""
    if message.status is not Status.OK:
        return None
    if type_of(message) == DETECTIONS:
        detections = [_detection(detection, message, make) for detection in message.detections]
        return make(DETECTIONS, header=header(message, make), detections=detections)
    hypotheses = [_hypothesis(label.name, label.score, make) for label in message.labels]
    return make(CLASSIFICATION, header=header(message, make), results=hypotheses)


def type_of(message: LabelsMessage) -> str:
    """Which of the two a message becomes."""
    detects = message.model is not None and message.model.task == "detect"
    return DETECTIONS if detects else CLASSIFICATION


def header(message: LabelsMessage, make: Make) -> Any:
    """The frame's stamp, and the camera as frame_id."""
    return stamped(message.stamp_ns or message.published_ns, message.camera, make)


def stamped(stamp_ns: int, frame_id: str, make: Make) -> Any:
    """std_msgs/Header."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _detection(detection: Detection, message: LabelsMessage, make: Make) -> Any:
    point = make("vision_msgs/msg/Point2D", x=detection.box.cx, y=detection.box.cy)
    center = make("vision_msgs/msg/Pose2D", position=point, theta=0.0)
    box = make(
        "vision_msgs/msg/BoundingBox2D",
        center=center,
        size_x=detection.box.w,
        size_y=detection.box.h,
    )
    result = make(
        "vision_msgs/msg/ObjectHypothesisWithPose",
        hypothesis=_hypothesis(detection.name, detection.score, make),
        pose=_pose(detection.pose, make),
    )
    return make(
        "vision_msgs/msg/Detection2D",
        header=header(message, make),
        results=[result],
        bbox=box,
        id="" if detection.track is None else str(detection.track),
    )


def _hypothesis(name: str, score: float, make: Make) -> Any:
    return make("vision_msgs/msg/ObjectHypothesis", class_id=name, score=score)


def _pose(known: Pose | None, make: Make) -> Any:
    """A tag's pose in the camera's optical frame; zeros and no turn where it is not known. The
    covariance is not known: zeros."""
    x, y, z = known.translation_m if known else (0.0, 0.0, 0.0)
    turns = known.rotation if known else (0.0, 0.0, 0.0, 1.0)
    point = make("geometry_msgs/msg/Point", x=x, y=y, z=z)
    turn = make(
        "geometry_msgs/msg/Quaternion", **dict(zip(("x", "y", "z", "w"), turns, strict=True))
    )
    pose = make("geometry_msgs/msg/Pose", position=point, orientation=turn)
    nothing: Sequence[float] = [0.0] * 36
    return make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=nothing)
