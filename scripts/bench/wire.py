"""Measures the wire with real sockets and processes: the latency from publishing to receiving with
many subscribers, and the cost to the node of a subscriber that stopped reading."""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil
import zmq

from node.diagnostics.latency_profile import Spread
from node.image.frame import Frame, Stamp
from node.pipeline.message_builder import MessageBuilder
from node.transport.publisher import Publisher
from node.transport.sequencing import Outgoing, Sequencer
from perception_client.messages.codec import encode
from perception_client.messages.kinds import Label, Message, ModelInfo, Timing
from perception_client.subscriber import NoMessageError, Subscriber

_PATIENCE_S = 60.0
"""Until the readers' processes have begun."""
_QUIET_S = 2.0
_CAMERA = "front"
_MODEL = ModelInfo("efficientnet_lite0", "classify", "openvino", "bf16", "cpu", "0" * 64)
_IMAGE = np.zeros((720, 1280, 3), np.uint8)
_LABELS = tuple(Label(id=i, name=f"a label of usual length {i}", score=0.2) for i in range(5))


def publish_to_receive(subscribers: int, rate_hz: float, seconds: float) -> dict[str, object]:
    """Latency over all subscribers, each a process, on ipc: p50, p95, p99 and maximum in ms."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels.ipc"
        publisher = Publisher(endpoint)
        try:
            readers = [_reader(endpoint, seconds) for _ in range(subscribers)]
            _wait_for(publisher, subscribers)
            sent = _publish(publisher, rate_hz, seconds + 0.5)
            late_ns = [value for reader in readers for value in _late_ns(reader)]
        finally:
            publisher.close()
    spread = Spread.of(late_ns)
    return {
        "subscribers": subscribers, "rate_hz": rate_hz, "sent": sent, "received": len(late_ns),
        "p50_ms": spread.p50, "p95_ms": spread.p95, "p99_ms": spread.p99, "max_ms": spread.max,
    }  # fmt: skip


def bare_zmq(subscribers: int, rate_hz: float, seconds: float) -> dict[str, object]:
    """The same with plain ZeroMQ: a PUB socket, and subscribers that read only the time in a
    message of the same size. The result is the share of this computer's scheduler."""
    body = b"\0" * len(encode(_sealed())[1])
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        endpoint = f"ipc://{folder}/labels.ipc"
        with context.socket(zmq.XPUB) as socket:
            socket.setsockopt(zmq.XPUB_VERBOSER, 1)
            socket.bind(endpoint)
            readers = [_reader(endpoint, seconds, "--bare-reader") for _ in range(subscribers)]
            for _ in readers:
                if not socket.poll(int(_PATIENCE_S * 1000)):
                    raise SystemExit(f"not all {subscribers} subscribers came")
                socket.recv()
            started, sent = time.monotonic(), 0
            while time.monotonic() - started < seconds + 0.5:
                socket.send_multipart([b"labels/", struct.pack("<q", time.monotonic_ns()), body])
                sent += 1
                time.sleep(max(0.0, started + sent / rate_hz - time.monotonic()))
            late_ns = [value for reader in readers for value in _late_ns(reader)]
    spread = Spread.of(late_ns)
    return {"p50_ms": spread.p50, "p95_ms": spread.p95, "p99_ms": spread.p99, "max_ms": spread.max}


def stopped_subscriber(seconds: float) -> dict[str, object]:
    """Publishes at 1,000 Hz to a subscriber that never reads. Measures the hand-over in the first
    and the last tenth, in us, and the growth of memory after the first tenth, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels.ipc"
        publisher = Publisher(endpoint)
        try:
            with Subscriber(endpoint, _CAMERA):
                _wait_for(publisher, 1)
                message_builder, process = MessageBuilder("bench"), psutil.Process()
                many = int(seconds * 1000)
                took_us, memory = [], []
                for frame_id in range(many):
                    message = _message(message_builder, frame_id)
                    started = time.perf_counter()
                    publisher.send(message)
                    took_us.append((time.perf_counter() - started) * 1e6)
                    memory.append(process.memory_info().rss)
                    time.sleep(0.001)
        finally:
            publisher.close()
    tenth = many // 10
    return {
        "messages": many,
        "send_us_first": sorted(took_us[:tenth])[tenth // 2],
        "send_us_last": sorted(took_us[-tenth:])[tenth // 2],
        "grown_mib": (memory[-1] - memory[tenth]) / 2**20,
    }


def _sealed() -> Message:
    return Sequencer().finalise(_message(MessageBuilder("bench"), 0))


def _message(message_builder: MessageBuilder, frame_id: int) -> Outgoing:
    frame = Frame(_IMAGE, _CAMERA, frame_id, Stamp.now(), None, 0)
    return message_builder.labels(
        frame, dropped=0, timing=Timing(0, 0, 0, 0, 0), model=_MODEL, labels=_LABELS
    )


def _publish(publisher: Publisher, rate_hz: float, seconds: float) -> int:
    message_builder = MessageBuilder("bench")
    started = time.monotonic()
    sent = 0
    while time.monotonic() - started < seconds:
        publisher.send(_message(message_builder, sent))
        sent += 1
        time.sleep(max(0.0, started + sent / rate_hz - time.monotonic()))
    return sent


def _wait_for(publisher: Publisher, subscribers: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while publisher.subscriptions < subscribers:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {publisher.subscriptions} of {subscribers} subscribers came")
        time.sleep(0.01)
    time.sleep(0.3)


def _reader(endpoint: str, seconds: float, kind: str = "--reader") -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, kind, endpoint, "--seconds", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wire_rows(seconds: float, subscribers: int = 10) -> list[dict[str, object]]:
    """Measures at 30 and 200 messages a second, ours and then plain ZeroMQ."""
    return [
        {
            **publish_to_receive(subscribers, hz, seconds),
            "bare_zmq": bare_zmq(subscribers, hz, seconds),
        }
        for hz in (30, 200)
    ]


def _late_ns(reader: "subprocess.Popen[str]") -> list[int]:
    output, _ = reader.communicate(timeout=_PATIENCE_S)
    values: list[int] = json.loads(output)
    return values


def _read(endpoint: str, seconds: float) -> None:
    late_ns = []
    with Subscriber(endpoint, _CAMERA) as subscriber:
        subscriber.receive(_PATIENCE_S)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                message, _ = subscriber.receive(_QUIET_S)
            except NoMessageError:
                break  # this process began so late that the publisher has ended
            now = time.monotonic_ns()
            if not message.retained and message.published_mono_ns is not None:
                late_ns.append(now - message.published_mono_ns)
    print(json.dumps(late_ns))


def _read_bare(endpoint: str, seconds: float) -> None:
    late_ns = []
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.subscribe(b"labels/")
        socket.connect(endpoint)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not socket.poll(int(_QUIET_S * 1000)):
                break
            _, sent, _ = socket.recv_multipart()
            late_ns.append(time.monotonic_ns() - struct.unpack("<q", sent)[0])
    print(json.dumps(late_ns))


def main() -> None:
    """Runs and prints all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--subscribers", type=int, default=10, help="processes that receive")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--reader", metavar="EP", help=argparse.SUPPRESS)
    parser.add_argument("--bare-reader", metavar="EP", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_reader:
        _read_bare(arguments.bare_reader, arguments.seconds)
        return
    if arguments.reader:
        _read(arguments.reader, arguments.seconds)
        return
    results = {
        "publish_to_receive": wire_rows(arguments.seconds, arguments.subscribers),
        "stopped_subscriber": stopped_subscriber(arguments.seconds),
    }
    if arguments.json:
        print(json.dumps(results))
        return
    for row in [*results["publish_to_receive"], results["stopped_subscriber"]]:
        print(", ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
