"""Measures the way from a camera's bytes to the sent message: decode, label, publish. By turns: the
loop that everybody writes, a careful engineer's loop (`bench.peer_loops`), and the node."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgpack
import numpy as np
import zmq

from bench.peer_loops import Labels, careful_labels
from bench.peers import careful_graph
from node.config.schema import ModelConfig
from node.diagnostics.benchmark import LiveNode, Row, compared, plain_loop
from node.image.frame import Image
from node.image.jpeg import decode_jpeg, encode_jpeg
from node.image.opencv import cv2
from node.perception.models.registry import load_model
from node.perception.perceiver import build_perceiver
from perception_client.messages.codec import encode

QUALITY = 85


def bytes_to_message(frames: Sequence[Image], rounds: int) -> list[Row]:
    """Compares the node with both loops on JPEGs of the frames, [height, width, 3] uint8 BGR. Each
    side decodes, labels and sends over a ZeroMQ socket to nobody."""
    jpegs = [encode_jpeg(frame, QUALITY) for frame in frames]
    perceiver = build_perceiver(ModelConfig())
    classify = plain_loop(load_model("efficientnet_lite0"))
    with (
        tempfile.TemporaryDirectory() as folder,
        zmq.Context() as context,
        context.socket(zmq.PUB) as socket,
    ):
        socket.bind(f"ipc://{folder}/labels")
        careful = careful_labels("careful-openvino", careful_graph(Path(folder)))
        node = LiveNode(perceiver)

        def loop(labels: Callable[[Image], Labels]) -> Callable[[bytes], None]:
            def run(jpeg: bytes) -> None:
                picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
                content = {"labels": labels(np.asarray(picture, np.uint8))}
                socket.send_multipart([b"labels/", msgpack.packb(content)])

            return run

        def of_node(jpeg: bytes) -> None:
            socket.send_multipart(encode(node.label(decode_jpeg(jpeg))))

        try:
            return [
                compared(f"bytes to message: {name} / ours", loop(labels), of_node, jpegs, rounds)
                for name, labels in (
                    ("plain loop", lambda picture: [{"id": int(str(classify(picture)))}]),
                    ("careful loop, OpenVINO", careful),
                )
            ]
        finally:
            node.close()
