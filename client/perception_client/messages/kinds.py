"""All kinds of messages in one import; each kind has a module of its own beside this one."""

from perception_client.messages.clock import boot_id
from perception_client.messages.events import EventKind, EventMessage, SceneEvent
from perception_client.messages.health import (
    CameraHealth,
    HealthMessage,
    Latency,
    NodeState,
    RecordingHealth,
)
from perception_client.messages.info import InfoMessage
from perception_client.messages.labels import (
    Area,
    Box,
    Detection,
    ImageSize,
    Label,
    LabelsMessage,
    Mask,
    ModelInfo,
    Pose,
    Status,
    Timing,
)
from perception_client.messages.topics import KINDS, Message, MessageKind, retained, topic, topic_of
from perception_client.messages.wire import DEFAULT_ENDPOINT, MAX_MESSAGE_BYTES, SCHEMA

__all__ = [
    "DEFAULT_ENDPOINT",
    "KINDS",
    "MAX_MESSAGE_BYTES",
    "SCHEMA",
    "Area",
    "Box",
    "CameraHealth",
    "Detection",
    "EventKind",
    "EventMessage",
    "HealthMessage",
    "ImageSize",
    "InfoMessage",
    "Label",
    "LabelsMessage",
    "Latency",
    "Mask",
    "Message",
    "MessageKind",
    "ModelInfo",
    "NodeState",
    "Pose",
    "RecordingHealth",
    "SceneEvent",
    "Status",
    "Timing",
    "boot_id",
    "retained",
    "topic",
    "topic_of",
]
