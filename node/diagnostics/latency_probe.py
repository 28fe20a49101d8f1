"""Latency probe: the time from a change in front of the camera to the arrival of its label ("glass
to label"). A picture flashes between dark and bright, and passes through the complete path of a
real run: capture, model, wire, subscriber.
"""

import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from node.config.load import changed
from node.config.schema import NodeConfig
from node.errors import PerceptionError, SourceError
from node.image.frame import Image
from node.image.jpeg import encode_jpeg
from perception_client.messages.kinds import Label
from perception_client.subscriber import LabelsMessage, NoMessageError, Status, Subscriber

if TYPE_CHECKING:
    from node.perception.perceiver import InferenceResult, Perceiver

SIZE = (720, 1280)
FPS = 30
VIEWS = 16
"""Pictures of each brightness: fewer, as many as a driver's buffers, would count as frozen."""
NOISE = 12
"""Grey levels of noise in the software picture: a still picture would count as frozen."""
SETTLE_S = (0.25, 0.6)
"""Range of the random time between two flashes, so that they meet every phase of the camera's
period."""
LEARN_S = 0.5
"""Duration of each brightness before the measurement, in which a camera's exposure settles."""
LONGEST_S = 3.0
"""A flash without a label after this time counts as missed."""
START_S = 60.0
"""Time for the node to load its model and label a first frame."""
_LIGHT = ("dark", "bright")
_LEAST_CONTRAST = 40
"""Grey levels between dark and bright; less may be noise or exposure."""
_NO_WINDOW = (
    "no window can be opened here (no display, or a headless OpenCV); run this on a computer with "
    "a screen, or without --camera for the software source"
)


class Screen(Protocol):
    """A light source that is dark or bright."""

    def show(self, bright: bool) -> int:
        """Sets the brightness; returns the time of the change on CLOCK_MONOTONIC in ns."""
        ...

    def close(self) -> None:
        """Closes the screen."""
        ...


@dataclass(frozen=True, slots=True)
class LatencyProbe:
    """The result: one duration in ms for each flash that a label showed."""

    to_capture: Sequence[float]
    """From the flash to the stamp of its frame."""
    to_publish: Sequence[float]
    """From that stamp to the sending of its labels."""
    total: Sequence[float]
    """From the flash to the arrival of its labels at a subscriber."""
    missed: int
    """Flashes without a label in time."""

    def summary(self) -> dict[str, float | int]:
        """Medians, 95th percentile and maximum, by name."""
        if not self.total:
            return {"flashes": 0, "missed": self.missed}
        return {
            "flashes": len(self.total),
            "missed": self.missed,
            "glass_to_capture_ms": statistics.median(self.to_capture),
            "capture_to_publish_ms": statistics.median(self.to_publish),
            "glass_to_label_ms": statistics.median(self.total),
            "p95_ms": sorted(self.total)[int(0.95 * (len(self.total) - 1))],
            "max_ms": max(self.total),
        }


class SoftwareScreen:
    """A motion JPEG server on loopback that replaces screen and camera: 30 frames a second."""

    def __init__(self) -> None:
        grain = np.random.default_rng(0).integers(0, NOISE, (*SIZE, 3), np.uint8)
        # Many pictures of each brightness: a few repeated ones would count as a frozen camera.
        self._parts = [
            [_part(np.roll(grain, shift, axis=1) + np.uint8(level)) for shift in range(VIEWS)]
            for level in (30, 200)
        ]
        self._bright = False
        self._closing = threading.Event()
        screen = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                screen._serve(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/glass.mjpg"
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="glass", daemon=True
        ).start()

    def show(self, bright: bool) -> int:
        """Sets the brightness from the next picture on, as a real screen does."""
        self._bright = bright
        return time.monotonic_ns()

    def close(self) -> None:
        """Ends the stream."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        due, number = time.monotonic(), 0
        try:
            while not self._closing.is_set():
                handler.wfile.write(self._parts[self._bright][number % VIEWS])
                number += 1
                due = max(due + 1 / FPS, time.monotonic() - 1.0)
                self._closing.wait(max(0.0, due - time.monotonic()))
        except OSError:  # the node has gone
            return


class Window:
    """A full-screen window on this computer's display, for a camera that points at it. Raises
    SourceError without a display."""

    _NAME = "perception-node: point the camera here"

    def __init__(self) -> None:
        from node.image.opencv import cv2

        self._cv2 = cv2
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SourceError(_NO_WINDOW)  # OpenCV's window library would abort the process
        try:
            cv2.namedWindow(self._NAME, cv2.WINDOW_NORMAL)
            cv2.setWindowProperty(self._NAME, cv2.WND_PROP_FULLSCREEN, cv2.WINDOW_FULLSCREEN)
        except cv2.error as error:
            raise SourceError(_NO_WINDOW) from error

    def show(self, bright: bool) -> int:
        """Sets the brightness, and waits until the window system has drawn it."""
        picture = np.full((*SIZE, 3), 255 if bright else 0, np.uint8)
        self._cv2.imshow(self._NAME, picture)
        self._cv2.waitKey(1)
        return time.monotonic_ns()

    def close(self) -> None:
        """Closes the window."""
        self._cv2.destroyWindow(self._NAME)


def measure(
    config: NodeConfig,
    build: Callable[[NodeConfig], "Perceiver"],
    screen: Screen,
    flashes: int,
    progress: Callable[[float], None] = lambda done: None,
) -> LatencyProbe:
    """Measures the latency of a number of flashes with a complete live node.

    The model infers each frame as in any run; then the brightness of the frame's middle replaces
    its labels.

    Args:
        config: its first camera sees the screen.
        build: loads the model.
        screen: flashes; this function closes it.
        flashes: their number.
        progress: called with the share done, 0 to 1.

    Raises PerceptionError where the camera or the model fails, SourceError where dark and bright
    cannot be distinguished in the picture.
    """
    from node.pipeline.live import run_live

    stop = threading.Event()
    failures: list[PerceptionError] = []
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels"
        config = changed(config, {"wire.endpoint": endpoint})

        def run() -> None:
            try:
                run_live(config, lambda config: cast(Any, _Lightmeter(build(config))), stop)
            except PerceptionError as error:
                failures.append(error)

        node = threading.Thread(target=run, name="glass-node", daemon=True)
        node.start()
        try:
            with Subscriber(endpoint) as subscriber:
                _wait_for_labels(subscriber, node)
                _wait_for(subscriber, screen, bright=True)
                return _flash(subscriber, screen, flashes, progress)
        except NoMessageError:
            if failures:
                raise failures[0] from None
            raise
        finally:
            stop.set()
            node.join(3.0)
            screen.close()


def _flash(
    subscriber: Subscriber, screen: Screen, flashes: int, progress: Callable[[float], None]
) -> LatencyProbe:
    to_capture, to_publish, total = [], [], []
    missed = 0
    bright = True
    for index in range(flashes):
        _settle(subscriber, random.uniform(*SETTLE_S))
        bright = not bright
        shown_ns = screen.show(bright)
        message = _next_that_is(subscriber, bright)
        arrived_ns = time.monotonic_ns()
        progress((index + 1) / flashes)
        if message is None:
            missed += 1
            continue
        assert message.stamp_mono_ns is not None
        assert message.published_mono_ns is not None
        to_capture.append((message.stamp_mono_ns - shown_ns) / 1e6)
        to_publish.append((message.published_mono_ns - message.stamp_mono_ns) / 1e6)
        total.append((arrived_ns - shown_ns) / 1e6)
    return LatencyProbe(to_capture, to_publish, total, missed)


def _settle(subscriber: Subscriber, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left_s := until - time.monotonic()) > 0:
        try:
            subscriber.receive(left_s)
        except NoMessageError:
            return


def _next_that_is(subscriber: Subscriber, bright: bool) -> LabelsMessage | None:
    until = time.monotonic() + LONGEST_S
    while (left_s := until - time.monotonic()) > 0:
        try:
            message, _ = subscriber.receive(left_s)
        except NoMessageError:
            return None
        if message.best is not None and message.best.name == _LIGHT[bright]:
            return message
    return None


def _wait_for_labels(subscriber: Subscriber, node: threading.Thread) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and node.is_alive():
        try:
            if subscriber.receive(0.2)[0].status is Status.OK:
                return
        except NoMessageError:
            continue
    raise NoMessageError("the node did not label a frame")


def _wait_for(subscriber: Subscriber, screen: Screen, *, bright: bool) -> None:
    """Shows both levels until labels distinguish them; the light meter learns them from the
    picture."""
    for level in (not bright, bright, not bright):
        screen.show(level)
        _settle(subscriber, LEARN_S)
    screen.show(bright)
    if _next_that_is(subscriber, bright) is not None:
        return
    raise SourceError(
        "dark and bright cannot be distinguished in the picture: point the camera at the screen so "
        "that it fills the middle of the picture, and turn automatic exposure off"
    )


class _Lightmeter:
    """A perceiver that replaces its model's labels with "dark" or "bright" after the inference."""

    def __init__(self, perceiver: "Perceiver") -> None:
        self._perceiver = perceiver
        self._low, self._high = 255.0, 0.0
        self.names = _LIGHT

    def __getattr__(self, name: str) -> Any:
        return getattr(self._perceiver, name)

    def perceive_all(
        self, images: Sequence[Image], ready: Sequence[object | None] = ()
    ) -> "list[InferenceResult]":
        """Infers as `Perceiver.perceive_all` does, and replaces the labels."""
        return list(self._metered(self._perceiver.perceive_all(images, ready), images))

    def _metered(
        self, results: "Iterable[InferenceResult]", images: Sequence[Image]
    ) -> "Iterable[InferenceResult]":
        from node.perception.tasks.base import Prediction

        for result, image in zip(results, images, strict=True):
            height, width = image.shape[:2]
            middle = image[height // 3 : 2 * height // 3 : 4, width // 3 : 2 * width // 3 : 4]
            level = float(middle.mean())
            self._low, self._high = min(self._low, level), max(self._high, level)
            bright = int(level > (self._low + self._high) / 2)
            learnt = self._high - self._low > _LEAST_CONTRAST
            labels = (Label(bright, _LIGHT[bright], level / 255),) if learnt else ()
            yield replace(result, seen=Prediction(labels=labels))


def _part(picture: Image) -> bytes:
    jpeg = encode_jpeg(picture, 80)
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def software_camera(screen: SoftwareScreen) -> dict[str, object]:
    """The settings by which the first camera reads the software screen."""
    return {"camera.0.source": screen.url, "camera.0.at_start": "wait"}
