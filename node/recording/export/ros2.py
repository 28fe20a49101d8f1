"""ROS 2 bags: frames and labels as sensor_msgs and vision_msgs. The package rosbags provides the
types; this module adds vision_msgs (Humble to Jazzy) from its published definitions."""

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from node.errors import OutputError, PictureError, SourceError
from node.process.output_files import unwritable
from node.recording.frames import RecordedFrame
from node.recording.reader import Recording
from perception_client.messages.kinds import LabelsMessage
from perception_client.messages.ros2 import CLASSIFICATION, DETECTIONS, of_labels, stamped

Progress = Callable[[float], None]

IMAGE = "sensor_msgs/msg/CompressedImage"
_MOST_STAMP_NS = 2**31 * 1_000_000_000
"""ROS 2 counts seconds in 32 bits (builtin_interfaces/Time), up to January 2038."""

# The definitions of https://github.com/ros-perception/vision_msgs, branch ros2 (Apache-2.0),
# without their comments.
_DEFINITIONS = {
    "vision_msgs/msg/Point2D": "float64 x\nfloat64 y",
    "vision_msgs/msg/Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "vision_msgs/msg/BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/msg/Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id"
    ),
    DETECTIONS: "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    CLASSIFICATION: "std_msgs/Header header\nvision_msgs/ObjectHypothesis[] results",
}


@functools.cache
def typestore() -> Typestore:
    """The types of ROS 2 Humble and of vision_msgs."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in _DEFINITIONS.items():
        store.register(get_types_from_msg(definition, name))
    return store


def make(name: str, /, **fields: Any) -> Any:
    """Creates a message of the typestore."""
    if name == "geometry_msgs/msg/PoseWithCovariance":
        fields["covariance"] = np.asarray(fields["covariance"], np.float64)
    return typestore().types[name](**fields)


def of_frame(frame: RecordedFrame) -> Any:
    """A frame as CompressedImage. Raises SourceError for a stamp that ROS 2 cannot represent."""
    stamp_ns = frame.stamp_ns or frame.log_ns
    _check_stamp(stamp_ns, frame.camera)
    return make(
        IMAGE,
        header=stamped(stamp_ns, frame.camera, make),
        format="jpeg",
        data=np.frombuffer(frame.jpeg, np.uint8),
    )


def _check_stamp(stamp_ns: int, camera: str) -> None:
    if stamp_ns >= _MOST_STAMP_NS:
        raise SourceError(
            f"camera '{camera}': a stamp of {stamp_ns / 1e9:.0f} s is beyond January 2038, the "
            "end of ROS 2's time",
            fix="export it as jsonl instead",
        )


def write_bag(recording: Recording, to: Path, progress: Progress = lambda done: None) -> int:
    """Writes a rosbag2 folder (storage mcap) with `/CAMERA/image/compressed` and
    `/CAMERA/detections` or `/CAMERA/classification`.

    Returns the number of messages. Raises OutputError, and SourceError for a stamp that ROS 2
    cannot represent; then leaves no folder.
    """
    if to.exists():
        raise OutputError(f"{to} is there already", fix="name another folder")
    try:
        return _write_bag(recording, to, progress)
    except BaseException as error:
        shutil.rmtree(to, ignore_errors=True)
        if isinstance(error, OSError):
            raise unwritable(to, error) from error
        raise


def _write_bag(recording: Recording, to: Path, progress: Progress) -> int:
    count = 0
    with Writer(to, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connections: dict[str, Any] = {}
        for topic, log_ns, message in _messages(recording, progress):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = bag.add_connection(topic, kind, typestore=typestore())
            data = typestore().serialize_cdr(message, kind)
            bag.write(connections[topic], log_ns, data)
            count += 1
    return count


def _messages(recording: Recording, progress: Progress) -> Iterator[tuple[str, int, Any]]:
    frames = recording.frames()
    duration_ns = max(recording.end_ns - recording.start_ns, 1)
    labels = (
        (log_ns, message)
        for log_ns, message in recording.messages("labels")
        if isinstance(message, LabelsMessage)
    )
    frame, label = next(frames, None), next(labels, None)
    while frame is not None or label is not None:
        if label is None or (frame is not None and frame.log_ns <= label[0]):
            assert frame is not None
            progress(frame.media_ns / duration_ns)
            try:
                yield f"/{frame.camera}/image/compressed", frame.log_ns, of_frame(frame)
            except PictureError as error:
                recording.note_problem(f"camera {frame.camera!r}: a frame is skipped: {error}")
            frame = next(frames, None)
            continue
        log_ns, message = label
        _check_stamp(message.stamp_ns or message.published_ns, message.camera)
        converted = of_labels(message, make)
        if converted is not None:
            kind = "detections" if converted.__msgtype__ == DETECTIONS else "classification"
            yield f"/{message.camera}/{kind}", log_ns, converted
        label = next(labels, None)
