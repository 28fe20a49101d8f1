"""Recordings as other programs write them: MCAP files in every layout that the format allows, with
pictures in the forms of Foxglove and ROS."""

import base64
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from foxglove_schemas_protobuf.RawImage_pb2 import RawImage
from mcap.writer import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from node.image.frame import Image

START_NS = 1_650_000_000_000_000_000
STEP_NS = 50_000_000
LATE_NS = 3_000_000
"""From the capture of a picture, which it names itself, to its record."""


@dataclass(frozen=True)
class Channel:
    topic: str
    schema: str
    encoding: str


@dataclass(frozen=True)
class Record:
    channel: Channel
    log_ns: int
    data: bytes


def picture(number: int, width: int = 64, height: int = 48) -> Image:
    """Smooth, so that every form of compression keeps it, and different for each number."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    planes = (x * 3 + number * 9) % 200, y * 4 % 220, np.full_like(x, 40 + number * 7)
    return np.stack(planes, axis=2).astype(np.uint8)


def write(path: Path, records: Iterable[Record], **options: Any) -> Path:
    with path.open("wb") as stream:
        writer = Writer(stream, **options)
        writer.start(profile="", library="another program")
        add(writer, records)
        writer.finish()
    return path


def add(writer: Writer, records: Iterable[Record]) -> None:
    channels: dict[Channel, int] = {}
    schemas: dict[str, int] = {"": 0}
    for record in records:
        channel = record.channel
        if channel.schema not in schemas:
            schemas[channel.schema] = writer.register_schema(channel.schema, "", b"")
        if channel not in channels:
            channels[channel] = writer.register_channel(
                channel.topic, channel.encoding, schemas[channel.schema]
            )
        writer.add_message(channels[channel], record.log_ns, record.data, record.log_ns)


def at(number: int) -> int:
    """When a picture was captured."""
    return START_NS + number * STEP_NS


Payload = Callable[[int], bytes]


def records(channel: Channel, payload: Payload, count: int = 10) -> Iterator[Record]:
    for number in range(count):
        yield Record(channel, at(number) + LATE_NS, payload(number))


def coded(number: int, suffix: str = ".jpg") -> bytes:
    return bytes(cv2.imencode(suffix, picture(number))[1].tobytes())


def still(form: str, suffix: str = ".jpg", name: str | None = None) -> Payload:
    """A CompressedImage. form: of the record. name: the format that it names."""
    name = suffix[1:] if name is None else name
    return lambda number: _record(
        form, "CompressedImage", number, {"format": name, "data": coded(number, suffix)}
    )


def raw(form: str, encoding: str, pixels: Callable[[Image], Image], padding: int = 0) -> Payload:
    """A RawImage or Image. pixels: from [height, width, 3] BGR to the bytes of each row."""

    def payload(number: int) -> bytes:
        image = picture(number)
        rows = np.ascontiguousarray(pixels(image))
        rows = rows.reshape(rows.shape[0], -1)
        rows = np.pad(rows, ((0, 0), (0, padding)))
        return _record(form, "RawImage", number, {
            "width": image.shape[1], "height": image.shape[0], "encoding": encoding,
            "step": rows.shape[1], "data": rows.tobytes(),
        })  # fmt: skip

    return payload


def _record(form: str, kind: str, number: int, fields: dict[str, Any]) -> bytes:
    if form == "protobuf":
        return _protobuf(kind, number, fields)
    if form == "json":
        seconds, nanoseconds = divmod(at(number), 10**9)
        content = {**fields, "data": base64.b64encode(fields["data"]).decode()}
        return json.dumps({"timestamp": {"sec": seconds, "nsec": nanoseconds}, **content}).encode()
    return _ros(form, kind, number, fields)


def _protobuf(kind: str, number: int, fields: dict[str, Any]) -> bytes:
    types = {"CompressedImage": CompressedImage, "RawImage": RawImage,
             "CompressedVideo": CompressedVideo}  # fmt: skip
    message = types[kind](frame_id="optical", **fields)
    message.timestamp.FromNanoseconds(at(number))
    return bytes(message.SerializeToString())


@functools.cache
def _types(store: Stores) -> Any:
    types = get_typestore(store)
    head = "builtin_interfaces/Time timestamp\nstring frame_id\n"
    compressed = head + "uint8[] data\nstring format"
    raw_fields = "uint32 width\nuint32 height\nstring encoding\nuint32 step\nuint8[] data"
    for name, text in (("CompressedImage", compressed), ("RawImage", head + raw_fields)):
        types.register(get_types_from_msg(text, f"foxglove_msgs/msg/{name}"))
    return types


def _ros(form: str, kind: str, number: int, fields: dict[str, Any]) -> bytes:
    """form: `cdr` or `ros1`, of sensor_msgs, or after `foxglove ` of foxglove_msgs."""
    foxglove, form = form.startswith("foxglove "), form.removeprefix("foxglove ")
    types = _types(Stores.ROS2_HUMBLE if form == "cdr" else Stores.ROS1_NOETIC)
    seconds, nanoseconds = divmod(at(number), 10**9)
    stamp = types.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    fields = {**fields, "data": np.frombuffer(fields["data"], np.uint8)}
    if foxglove:
        name = f"foxglove_msgs/msg/{kind}"
        fields |= {"timestamp": stamp, "frame_id": "optical"}
    else:
        name = f"sensor_msgs/msg/{'Image' if kind == 'RawImage' else kind}"
        head = {"seq": 7} if form == "ros1" else {}
        header = types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="optical", **head)
        fields["header"] = header
        if kind == "RawImage":
            fields["is_bigendian"] = 0
    serialize = types.serialize_cdr if form == "cdr" else types.serialize_ros1
    return bytes(serialize(types.types[name](**fields), name))


def video(codec: str, count: int, **options: str) -> list[bytes]:
    """The coded pictures of a video, each of 64 x 48 pixels, by their order in the stream."""
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = 64, 48, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 20), Fraction(20)
    context.options = {"tune": "zerolatency", **options}
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24")
        frame.pts = number
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]


def of_video(packets: list[bytes], name: str) -> Payload:
    return lambda number: _protobuf(
        "CompressedVideo", number, {"format": name, "data": packets[number]}
    )
