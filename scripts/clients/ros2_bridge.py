"""A bridge to ROS 2: subscribes to a perception node and publishes vision_msgs, a topic a camera.

Needs a sourced ROS 2 (Humble or newer) with vision_msgs, and in its Python pyzmq, msgpack and this
project's folder on PYTHONPATH:

    python scripts/clients/ros2_bridge.py tcp://127.0.0.1:5570
    ros2 topic echo /perception/front/detections

While a camera cannot see nothing is published for it, and /diagnostics says why: whoever acts on
these messages has to watch the age of their stamps.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from perception_client.messages.ros2 import DETECTIONS, of_labels, type_of
from perception_client.subscriber import LabelsMessage, NoMessageError, Status, Subscriber

DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"


def topic_of(message: LabelsMessage) -> str:
    """`/perception/front/detections` or `.../classification`."""
    kind = "detections" if type_of(message) == DETECTIONS else "classification"
    camera = "".join(letter if letter.isalnum() else "_" for letter in message.camera)
    return f"/perception/{camera}/{kind}"


class Bridge:
    """Publishes what a subscriber receives. ros: a node of rclpy; find: gives a message class by
    its name."""

    def __init__(self, ros: Any, find: Any) -> None:
        self._ros = ros
        self._find = find
        self._publishers: dict[str, Any] = {}
        self._said: dict[str, Status] = {}

    def make(self, name: str, /, **fields: Any) -> Any:
        """A message of rclpy."""
        return self._find(name)(**fields)

    def handle(self, message: LabelsMessage) -> None:
        """One message of the node."""
        if self._said.get(message.camera) is not message.status:
            self._said[message.camera] = message.status
            self._diagnose(message)
        converted = of_labels(message, self.make)
        if converted is not None:
            self._publish(topic_of(message), type_of(message), converted)

    def _diagnose(self, message: LabelsMessage) -> None:
        level = b"\0" if message.status is Status.OK else b"\2"  # DiagnosticStatus.OK, ERROR
        status = self.make(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=level,
            name=f"perception: camera {message.camera}",
            message=str(message.status),
        )
        array = self.make(DIAGNOSTICS, status=[status])
        array.header.stamp = self._ros.get_clock().now().to_msg()
        self._publish("/diagnostics", DIAGNOSTICS, array)

    def _publish(self, topic: str, kind: str, message: Any) -> None:
        if topic not in self._publishers:
            self._publishers[topic] = self._ros.create_publisher(self._find(kind), topic, 10)
        self._publishers[topic].publish(message)


def main() -> None:
    """Runs until Ctrl-C."""
    import rclpy
    from rosidl_runtime_py.utilities import get_message

    rclpy.init()
    ros = rclpy.create_node("perception_bridge")
    bridge = Bridge(ros, get_message)
    endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5570"
    with Subscriber(endpoint) as subscriber:
        while rclpy.ok():
            try:
                message, _ = subscriber.receive(1.0)
            except NoMessageError:
                ros.get_logger().warning(f"nothing from {endpoint}", throttle_duration_sec=5.0)
                continue
            bridge.handle(message)


if __name__ == "__main__":
    main()
