"""Whole files of every kind that the node reads, from which the campaign makes damaged ones."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import openvino as ov
import torch
import torchvision
from mcap.writer import Writer
from onnx import TensorProto, helper
from openvino import opset13 as ops
from PIL import Image as PILImage

from node.image.frame import Frame, Image, Stamp
from node.image.jpeg import encode_jpeg
from node.image.opencv import cv2
from node.recording.encode import frame_entries, message_entries
from node.recording.mcap_writer import RecordingFile
from node.transport.curve import make_client, make_server
from perception_client.messages.kinds import ImageSize, Label, LabelsMessage, Status

SIZE = (48, 64)
VIDEO_FRAMES = 12
RECORDED_FRAMES = 12
_PLACES = 4
_MATRIX, _TURNED = (
    struct.pack(
        ">9i", *(value << shift for value, shift in zip(row, (16, 16, 30) * 3, strict=True))
    )
    for row in ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 1, 0, -1, 0, 0, 0, 0, 1))
)
"""Display matrices: as stored, and turned by a quarter."""
_CARD = (
    'name = "mine"\ntask = "classify"\nlabels = ["a", "b", "c", "d"]\n[input]\n'
    'size = [48, 64]\nresize = "stretch"\nscale = 0.00784\nmean = [1.0, 1.0, 1.0]\n'
)


def picture(number: int = 0) -> Image:
    """[48, 64, 3] uint8 BGR with edges and noise; another one for each number."""
    noise = np.random.default_rng(number).integers(0, 60, (*SIZE, 3))
    noise[10:30, 10 + number % 20 : 40] += 120
    return noise.astype(np.uint8)


def pictures(folder: Path) -> list[Path]:
    """A file in each format, with the metadata that cameras write."""
    image = PILImage.fromarray(picture()[..., ::-1])
    exif = PILImage.Exif()
    exif[0x0112], exif[0x010F], exif[0x0132] = 6, "camera", "2024:01:01 00:00:00"
    image.save(folder / "exif.jpg", exif=exif, icc_profile=bytes(200))
    image.save(folder / "progressive.jpg", progressive=True)
    image.convert("L").save(folder / "grey.jpg")
    image.save(folder / "plain.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.quantize(8).save(folder / "palette.png")
    image.save(folder / "plain.webp", exif=exif)
    image.save(folder / "plain.bmp")
    image.save(folder / "lzw.tif", compression="tiff_lzw")
    image.quantize(8).save(folder / "plain.gif")
    deep = picture().astype(np.uint16) * 257
    cv2.imwrite(str(folder / "deep.png"), deep)
    cv2.imwrite(str(folder / "deep.tif"), deep)
    cv2.imwrite(str(folder / "plain.ppm"), picture())
    frames = [PILImage.fromarray(picture(number)[..., ::-1]) for number in range(4)]
    for name in ("animated.gif", "animated.webp", "animated.png", "pages.tif"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    return sorted(folder.iterdir())


def videos(folder: Path) -> list[Path]:
    """A file in each container and codec."""
    for name, encoder, pixels in (
        ("h264.mp4", "libx264", "yuv420p"), ("h264.mkv", "libx264", "yuv420p"),
        ("h264.ts", "libx264", "yuv420p"), ("mjpeg.avi", "mjpeg", "yuvj420p"),
        ("mpeg4.mp4", "mpeg4", "yuv420p"), ("vp9.webm", "libvpx-vp9", "yuv420p"),
    ):  # fmt: skip
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(encoder, rate=Fraction(10))
            stream.height, stream.width = SIZE
            stream.pix_fmt = pixels
            for number in range(VIDEO_FRAMES):
                frame = av.VideoFrame.from_ndarray(picture(number), format="bgr24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    turned = bytearray((folder / "h264.mp4").read_bytes())
    at = turned.rindex(_MATRIX)  # of the track; that of the film comes before it
    turned[at : at + len(_MATRIX)] = _TURNED
    (folder / "turned.mp4").write_bytes(turned)
    frames = [PILImage.fromarray(picture(number)[..., ::-1]) for number in range(VIDEO_FRAMES)]
    for kind in ("gif", "webp"):
        frames[0].save(
            folder / f"film.{kind}", save_all=True, append_images=frames[1:], duration=100
        )
    return sorted(folder.iterdir())


def recordings(folder: Path) -> list[Path]:
    """A recording with frames and labels, in several chunks."""
    at_ns = 1_700_000_000_000_000_000
    file = RecordingFile(folder / "drive.mcap", {"session": "s"})
    for number in range(RECORDED_FRAMES):
        stamp = Stamp(at_ns, None, "media")
        frame = Frame(picture(number), "front", number, stamp, None, 0)
        file.write(frame_entries(frame, at_ns, quality=80, lost_before=0))
        message = LabelsMessage(
            node="node", camera="front", session="s", seq=number, status=Status.OK,
            published_ns=at_ns, frame_id=number, stamp_ns=at_ns, image=ImageSize(*SIZE[::-1]),
            labels=(Label(0, "a", 0.5),),
        )  # fmt: skip
        file.write(message_entries(message, at_ns))
        at_ns += 100_000_000
        if number % 3 == 2:
            file.flush()
    file.close()
    _write_ros_bag(folder / "bag.mcap")
    return [folder / "drive.mcap", folder / "bag.mcap"]


def _write_ros_bag(file: Path) -> None:
    """A bag of ROS 2 with compressed pictures."""
    with file.open("wb") as opened:
        writer = Writer(opened, chunk_size=1 << 14)
        writer.start("ros2")
        schema = writer.register_schema("sensor_msgs/msg/CompressedImage", "ros2msg", _ROS_IMAGE)
        channel = writer.register_channel("/front/image/compressed", "cdr", schema)
        for number in range(RECORDED_FRAMES):
            at_ns = 1_700_000_000_000_000_000 + number * 100_000_000
            jpeg = encode_jpeg(picture(number), 80)
            stamp = struct.pack("<II", *divmod(at_ns, 1_000_000_000))
            texts = _cdr_text(b"front") + _cdr_text(b"jpeg")
            data = b"\0\1\0\0" + stamp + texts + struct.pack("<I", len(jpeg)) + jpeg
            writer.add_message(channel, at_ns, data, at_ns)
        writer.finish()


def models(folder: Path) -> list[Path]:
    """A small classifier in each format, each with its card."""
    weights = np.random.default_rng(0).normal(0, 0.01, (_PLACES, 3 * 48 * 64)).astype(np.float32)
    pixels = ops.parameter([-1, 3, *SIZE], ov.Type.f32, name="pixels")
    flat = ops.reshape(pixels, np.array([-1, 3 * 48 * 64]), special_zero=False)
    logits = ops.matmul(flat, weights, transpose_a=False, transpose_b=True)
    ir = ov.Model([logits], [pixels], "mine")
    ov.save_model(ir, folder / "mine_ir.xml", compress_to_fp16=False)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["flat"]),
         helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1)],
        "mine",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, *SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", _PLACES])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "mine_onnx.onnx")
    onnx.save(
        model, folder / "mine_split.onnx", save_as_external_data=True, location="mine_split.data"
    )
    for name in ("mine_ir", "mine_onnx", "mine_split"):
        (folder / f"{name}.toml").write_text(_CARD)
    names = ("mine_ir.xml", "mine_ir.bin", "mine_onnx.onnx", "mine_split.onnx", "mine_split.data")
    return [folder / name for name in names]


def weights(folder: Path) -> list[Path]:
    """A state dict of the smallest network."""
    torch.manual_seed(0)
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (folder / "shuffle.pth").write_bytes(buffer.getvalue())
    return [folder / "shuffle.pth"]


def key_files(folder: Path) -> list[Path]:
    """The folder of a node with one client."""
    make_server(folder)
    make_client(folder, "arm", ("labels", "control"))
    return sorted(file for file in _files(folder) if file.suffix in (".key", ".key_secret"))


def _cdr_text(text: bytes) -> bytes:
    whole = text + b"\0"
    return struct.pack("<I", len(whole)) + whole + bytes(-len(whole) % 4)


_ROS_IMAGE = b"""std_msgs/Header header
string format
uint8[] data
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
