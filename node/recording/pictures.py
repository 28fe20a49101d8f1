"""Pictures: reads the records in which this node and other programs record pictures.

The schema of a channel names the kind of its records, and the message encoding their form:
Foxglove's CompressedImage, RawImage and CompressedVideo, and the CompressedImage and Image of ROS,
as protobuf, JSON or in the form of ROS 1 or ROS 2.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from google.protobuf.message import DecodeError

from node.errors import MessageError
from node.image.jpeg import START
from node.recording.picture_forms import JpegPicture, Picture, RawPicture, StillPicture
from node.recording.video import VideoTrack
from perception_client.recordings.facts import MOST_NS
from perception_client.recordings.records import Channel

Kind = Literal["still", "raw", "video", "other"]

_KINDS: dict[str, Kind] = {
    "CompressedImage": "still",
    "RawImage": "raw",
    "Image": "raw",
    "CompressedVideo": "video",
    "FFMPEGPacket": "other",
    "Packet": "other",
}
_SCHEMA = re.compile(
    r"(foxglove|foxglove_msgs|sensor_msgs)(?:[./:]+msg)?[./:]+"
    r"(CompressedImage|RawImage|Image|CompressedVideo)"
    r"|(ffmpeg_image_transport_msgs|theora_image_transport)(?:[./:]+msg)?[./:]+"
    r"(FFMPEGPacket|Packet)"
)
_JPEG = re.compile(r"jpe?g", re.IGNORECASE)
_STILL = re.compile(r"png|webp|bmp|tiff?", re.IGNORECASE)
_DEPTH = re.compile(r"16UC1|32FC1|compressedDepth", re.IGNORECASE)


class UnsupportedPictureError(Exception):
    """Pictures that are recorded in a form that this node does not read. form: in words."""

    def __init__(self, form: str) -> None:
        super().__init__(form)
        self.form = form


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a record of pictures, in whatever form it was recorded. stamp_ns: the time of
    the capture, Unix time; None for a record without a time of its own."""

    data: bytes
    stamp_ns: int | None
    format: str
    """Of compressed pictures and videos."""
    encoding: str
    """Of raw pictures."""
    width: int
    height: int
    step: int
    big_endian: bool


def kind_of(schema: str) -> Kind | None:
    """What a channel with a schema of this name contains; None for anything but pictures."""
    match = _SCHEMA.fullmatch(schema)
    return None if match is None else _KINDS[match[2] or match[4]]


def described(channel: Channel) -> str:
    """A channel's schema and encoding, for messages to people."""
    schema = channel.name or "no schema"
    return f"{schema}, {channel.encoding or 'no encoding'}"


class PictureReader:
    """Reads the pictures of one channel, in their order. Raises UnsupportedPictureError."""

    def __init__(self, channel: Channel) -> None:
        kind = kind_of(channel.name)
        form = _FORMS.get(channel.encoding)
        if kind is None or kind == "other" or form is None:
            raise UnsupportedPictureError(described(channel))
        self._channel = channel
        self._kind = kind
        self._form: Callable[[str, bytes], Fields] = form
        self._video = VideoTrack()

    def read(self, data: bytes) -> tuple[Picture, int | None]:
        """The picture of a record, and the time of its capture, Unix time in ns; None without one.

        Raises MessageError for a damaged record, UnsupportedPictureError for one in an unknown
        form.
        """
        fields = self._form(self._channel.name, data)
        stamp_ns = fields.stamp_ns
        if stamp_ns is not None and not 0 < stamp_ns < MOST_NS:
            stamp_ns = None
        return self._picture(fields), stamp_ns

    def _picture(self, fields: Fields) -> Picture:
        if self._kind == "still":
            return self._still(fields)
        if self._kind == "raw":
            picture = RawPicture(
                fields.data, fields.width, fields.height, fields.step, fields.encoding,
                fields.big_endian,
            )  # fmt: skip
            if not picture.is_supported:
                raise self._unsupported(f"encoding {fields.encoding!r:.40}")
            return picture
        video = self._video.add(fields.format, fields.data)
        if video is None:
            raise self._unsupported(f"format {fields.format!r:.40}")
        return video

    def _still(self, fields: Fields) -> Picture:
        if _DEPTH.search(fields.format):
            raise self._unsupported(f"format {fields.format!r:.40}")
        if fields.data.startswith(START):
            return JpegPicture(fields.data)
        picture = StillPicture(fields.data)
        if picture.is_known:
            return picture
        if not fields.format or _JPEG.search(fields.format):
            return JpegPicture(fields.data)  # damaged
        if _STILL.search(fields.format):
            return picture  # damaged
        raise self._unsupported(f"format {fields.format!r:.40}")

    def _unsupported(self, description: str) -> UnsupportedPictureError:
        return UnsupportedPictureError(f"{described(self._channel)}, {description}")


def guessed_schema(encoding: str, data: bytes) -> str:
    """The schema of a record of a channel without one, where the record contains a compressed
    picture; else empty."""
    form = _FORMS.get(encoding)
    for schema in ("foxglove.CompressedImage", "sensor_msgs/CompressedImage"):
        try:
            content = b"" if form is None else form(schema, data).data
        except MessageError:
            continue
        if content.startswith(START + b"\xff") or StillPicture(content).is_known:
            return schema
    return ""


def _protobuf(schema: str, data: bytes) -> Fields:
    try:
        message = _protobuf_type(schema).FromString(data)
    except DecodeError:
        raise MessageError("a picture is damaged") from None
    return _fields(
        message,
        message.timestamp.ToNanoseconds() if message.HasField("timestamp") else None,
        message.data,
    )


def _protobuf_type(schema: str) -> Any:
    name = re.split(r"[./:]+", schema)[-1]
    if name == "RawImage":
        from foxglove_schemas_protobuf.RawImage_pb2 import RawImage

        return RawImage
    if name == "CompressedVideo":
        from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo

        return CompressedVideo
    return CompressedImage


def _fields(message: object, stamp_ns: int | None, data: bytes) -> Fields:
    return Fields(
        data=data,
        stamp_ns=stamp_ns,
        format=getattr(message, "format", ""),
        encoding=getattr(message, "encoding", ""),
        width=getattr(message, "width", 0),
        height=getattr(message, "height", 0),
        step=getattr(message, "step", 0),
        big_endian=bool(getattr(message, "is_bigendian", False)),
    )


def _json(schema: str, data: bytes) -> Fields:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise MessageError(f"{len(data)} bytes are no JSON") from None
    if not isinstance(content, dict):
        raise MessageError(f"a picture is {type(content).__name__}, not a map")
    header = _typed(content, "header", dict, {})
    return Fields(
        data=_json_data(content),
        stamp_ns=_json_stamp(content.get("timestamp", header.get("stamp"))),
        format=_typed(content, "format", str, ""),
        encoding=_typed(content, "encoding", str, ""),
        width=_typed(content, "width", int, 0),
        height=_typed(content, "height", int, 0),
        step=_typed(content, "step", int, 0),
        big_endian=bool(content.get("is_bigendian")),
    )


def _typed(content: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = content.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MessageError(f"{key} is {value!r:.40}, not {kind.__name__}")
    return value


def _json_data(content: Mapping[str, Any]) -> bytes:
    """Base64, or a list of bytes."""
    value = content.get("data")
    try:
        if isinstance(value, list):
            return bytes(value)
        return base64.b64decode(_typed(content, "data", str, None), validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise MessageError("data is neither base64 nor a list of bytes") from None


def _json_stamp(stamp: object) -> int | None:
    """Seconds and nanoseconds; None for any other form of time."""
    if not isinstance(stamp, dict):
        return None
    seconds = stamp.get("sec", stamp.get("secs"))
    nanoseconds = next((stamp[key] for key in ("nsec", "nanosec", "nsecs") if key in stamp), None)
    if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
        return None
    return seconds * 1_000_000_000 + nanoseconds


def _ros2(schema: str, data: bytes) -> Fields:
    from node.recording.ros import read_ros2

    return _of_ros(read_ros2(schema, data))


def _ros1(schema: str, data: bytes) -> Fields:
    from node.recording.ros import read_ros1

    return _of_ros(read_ros1(schema, data))


def _of_ros(message: Any) -> Fields:
    stamp = message.header.stamp if hasattr(message, "header") else message.timestamp
    stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
    return _fields(message, stamp_ns, message.data.tobytes())


_FORMS: dict[str, Callable[[str, bytes], Fields]] = {
    "protobuf": _protobuf,
    "json": _json,
    "cdr": _ros2,
    "ros1": _ros1,
}
"""By message encoding, as the MCAP registry calls it."""
