"""Reads pictures in the form of ROS 1 and ROS 2. The package rosbags provides the types of ROS;
this module adds Foxglove's."""

import functools
import re
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from node.errors import MessageError
from node.image.limits import limits
from perception_client.recordings.unpack import unpacked_message

# The definitions of https://github.com/foxglove/foxglove-sdk (MIT), without their comments.
_COMPRESSED = "{time} timestamp\nstring frame_id\nuint8[] data\nstring format"
_RAW = (
    "{time} timestamp\nstring frame_id\nuint32 width\nuint32 height\nstring encoding\n"
    "uint32 step\nuint8[] data"
)
_DEFINITIONS = {
    "foxglove_msgs/msg/CompressedImage": _COMPRESSED,
    "foxglove_msgs/msg/CompressedVideo": _COMPRESSED,
    "foxglove_msgs/msg/RawImage": _RAW,
}


@functools.cache
def _types(store_name: Stores) -> Typestore:
    store = get_typestore(store_name)
    for name, definition in _DEFINITIONS.items():
        text = definition.format(time="builtin_interfaces/Time")
        store.register(get_types_from_msg(text, name))
    return store


def read_ros2(schema: str, data: bytes) -> Any:
    """A message in ROS 2's form (CDR), packed or not. Raises MessageError for a damaged one."""
    try:
        content = unpacked_message(data, limits().max_buffer_bytes)
    except Exception as error:  # the library raises any on damaged bytes
        raise MessageError(f"a picture is damaged ({error})") from error
    return _read("deserialize_cdr", Stores.ROS2_HUMBLE, schema, content)


def read_ros1(schema: str, data: bytes) -> Any:
    """A message in ROS 1's form. Raises MessageError for a damaged one."""
    return _read("deserialize_ros1", Stores.ROS1_NOETIC, schema, data)


def _read(method: str, store: Stores, schema: str, data: bytes) -> Any:
    package, *_, name = re.split(r"[./:]+", schema)
    package = "foxglove_msgs" if package == "foxglove" else package
    try:
        return getattr(_types(store), method)(data, f"{package}/msg/{name}")
    except Exception as error:  # the library raises any on damaged bytes
        raise MessageError(f"a picture is damaged ({type(error).__name__})") from error
