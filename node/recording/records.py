"""The channels of a recording, with their schemas.

Each camera has channels for its frames as Foxglove's CompressedImage, for their facts as JSON, and
for their labels as Foxglove's ImageAnnotations. Further channels hold every message of the wire, as
JSON under its own topic, and the configuration in force.
"""

import json
from collections.abc import Callable
from typing import Any

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from perception_client.messages.json_schema import JSON_SCHEMA, json_schema
from perception_client.messages.kinds import MessageKind, topic
from perception_client.recordings.records import Channel

FRAME = "perception.frame"
"""Schema of the facts of a frame."""
ANNOTATIONS = "foxglove.ImageAnnotations"


def schema_of(channel: Channel) -> bytes:
    """The schema of a channel that this node writes."""
    return _SCHEMAS[channel.name]()


def image_channel(camera: str) -> Channel:
    """The pictures of a camera."""
    return Channel(f"/{camera}/image", "protobuf", "foxglove.CompressedImage")


def annotations_channel(camera: str) -> Channel:
    """Boxes and names to draw over a camera's pictures."""
    return Channel(f"/{camera}/annotations", "protobuf", ANNOTATIONS)


def frames_channel(camera: str) -> Channel:
    """The facts of a camera's frames: number, stamp, clock and others."""
    return Channel(f"frames/{camera}/", "json", FRAME)


def config_channel(node: str) -> Channel:
    """The configuration in force."""
    return Channel(f"config/{node}/", "json", "perception.config")


def message_channel(kind: MessageKind, name: str) -> Channel:
    """Messages of the wire, under their own topic."""
    return Channel(topic(kind, name).decode(), "json", f"perception.{kind}")


def as_json(content: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


_FRAME = {
    "$schema": JSON_SCHEMA,
    "title": "perception.frame",
    "type": "object",
    "properties": {
        "frame_id": {"type": "integer"},
        "stamp_ns": {"type": ["integer", "null"]},
        "clock": {"enum": ["driver", "host", "media", None]},
        "stamp_mono_ns": {"type": ["integer", "null"]},
        "media_ns": {"type": ["integer", "null"]},
        "capture_ns": {"type": "integer"},
        "epoch": {"type": "integer"},
        "lost_before": {"type": "integer"},
    },
    "required": ["frame_id"],
}
_CONFIG = {
    "$schema": JSON_SCHEMA,
    "title": "perception.config",
    "type": "object",
    "properties": {"settings": {"type": "integer"}, "config": {"type": "object"}},
    "required": ["settings", "config"],
}


def _with_imports(descriptor: FileDescriptor) -> bytes:
    """A FileDescriptorSet of a message's file and all its imports, as MCAP's registry requires."""
    files = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for imported in file.dependencies:
            add(imported)
        file.CopyToProto(files.file.add())

    add(descriptor)
    packed: bytes = files.SerializeToString()
    return packed


_SCHEMAS: dict[str, Callable[[], bytes]] = {
    "foxglove.CompressedImage": lambda: _with_imports(CompressedImage.DESCRIPTOR.file),
    ANNOTATIONS: lambda: _with_imports(ImageAnnotations.DESCRIPTOR.file),
    FRAME: lambda: as_json(_FRAME),
    "perception.config": lambda: as_json(_CONFIG),
    "perception.labels": lambda: as_json(json_schema("labels")),
    "perception.events": lambda: as_json(json_schema("events")),
    "perception.health": lambda: as_json(json_schema("health")),
    "perception.info": lambda: as_json(json_schema("info")),
}
