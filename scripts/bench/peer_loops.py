"""Loops that an engineer writes in place of the node, each a process that labels a motion JPEG
stream and publishes what it sees: `python -m bench.peer_loops KIND URL ENDPOINT GRAPH`.

`plain` is the first thing that works: OpenCV's capture, PIL, torchvision's transforms, torch.
`careful-onnxruntime` and `careful-openvino` keep the newest picture in a thread, resize the crop
with OpenCV, infer with two threads that do not spin, and publish with pyzmq and msgpack.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import msgpack
import numpy as np
import zmq
from numpy.typing import NDArray

MARK_PX, MARK_BITS = 16, 12
"""Side of one square of a picture's number, and number of squares: white for 1, at the top left."""
_AGAIN_S = 0.1
_TIMEOUT_S = 2.0
_TOP = 5

Image = NDArray[np.uint8]
Labels = list[dict[str, Any]]


def marked(picture: Image, number: int) -> Image:
    """Returns the picture with its number."""
    result = picture.copy()
    for bit in range(MARK_BITS):
        left = bit * MARK_PX
        result[:MARK_PX, left : left + MARK_PX] = 255 * (number >> bit & 1)
    return result


def number_of(picture: Image) -> int:
    """The number in a picture."""
    middle = MARK_PX // 2
    row = picture[middle, middle : MARK_BITS * MARK_PX : MARK_PX, 1] > 127
    return sum(int(white) << bit for bit, white in enumerate(row))


def plain(url: str) -> tuple[Iterator[Image], Callable[[Image], Labels]]:
    """The pictures and the labels of the plain loop."""
    from node.diagnostics.benchmark import plain_loop
    from node.perception.models.registry import load_model

    classify = plain_loop(load_model("efficientnet_lite0"))

    def pictures() -> Iterator[Image]:
        capture = cv2.VideoCapture(url)
        while True:
            read, picture = capture.read()
            if read:
                yield np.asarray(picture, np.uint8)
                continue
            time.sleep(_AGAIN_S)
            capture = cv2.VideoCapture(url)

    return pictures(), lambda picture: [{"id": int(str(classify(picture)))}]


def careful_labels(engine: str, graph: Path) -> Callable[[Image], Labels]:
    """What labels a picture in a careful loop.

    graph: ONNX file with the input [1, 3, height, width] float32; beside it a JSON file with the
    geometry and the normalisation.
    """
    spec = json.loads(graph.with_suffix(".json").read_text())
    mean, std = (np.array(spec[name], np.float32) for name in ("mean", "std"))
    height, width = spec["crop_px"]
    infer = _onnxruntime(graph) if engine == "careful-onnxruntime" else _openvino(graph)

    def labels(picture: Image) -> Labels:
        zoom = min(picture.shape[:2]) / spec["resize_short_px"]
        crop_h, crop_w = round(height * zoom), round(width * zoom)
        top, left = (picture.shape[0] - crop_h) // 2, (picture.shape[1] - crop_w) // 2
        crop = picture[top : top + crop_h, left : left + crop_w]
        small = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
        pixels = (cv2.cvtColor(small, cv2.COLOR_BGR2RGB) * np.float32(1 / 255) - mean) / std
        logits = infer(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))[0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = np.argsort(scores)[: -_TOP - 1 : -1]
        return [{"id": int(index), "score": float(scores[index])} for index in best]

    return labels


def _onnxruntime(graph: Path) -> Callable[[NDArray[np.float32]], Any]:
    from node.perception.onnxruntime_import import ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def _openvino(graph: Path) -> Callable[[NDArray[np.float32]], Any]:
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 2}
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda pixels: request.infer({0: pixels})[0]


def newest(url: str) -> Iterator[Image]:
    """Yields the newest picture, each once; a thread receives them."""
    changed = threading.Condition()
    waiting: list[bytes] = []

    def receive() -> None:
        while True:
            try:
                for jpeg in _parts(url):
                    with changed:
                        waiting[:] = [jpeg]
                        changed.notify()
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(_AGAIN_S)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        with changed:
            changed.wait_for(lambda: waiting)
            jpeg = waiting.pop()
        yield np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def _parts(url: str) -> Iterator[bytes]:
    """Yields the JPEGs of one connection. Raises OSError, HTTPException or ValueError."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=_TIMEOUT_S)
    connection.request("GET", address.path)
    answer = connection.getresponse()
    while line := answer.readline():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            while answer.readline().strip():
                pass
            yield answer.read(int(value))
    raise OSError("the stream ended")


def main() -> None:
    """Labels until the process is ended."""
    kind, url, endpoint, graph = sys.argv[1:]
    cv2.setNumThreads(1)
    pictures, labels = (
        plain(url) if kind == "plain" else (newest(url), careful_labels(kind, Path(graph)))
    )
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind(endpoint)
        for picture in pictures:
            message = {"number": number_of(picture), "labels": labels(picture)}
            socket.send_multipart([b"labels/", msgpack.packb(message)])


if __name__ == "__main__":
    main()
