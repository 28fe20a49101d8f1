"""PacketReader: a thread that only reads a stream, so that each picture is stamped on arrival
however long decoding takes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from node.capture.backlog import Arrival, BacklogMeter
from node.capture.handover import HandOver, Packet
from node.capture.shortfall import Shortfall
from node.capture.sleep_meter import SleepMeter
from node.config.schema import CameraConfig
from node.errors import SourceError
from node.image.frame import Stamp
from node.image.opencv import cv2

STREAM_TIMEOUT_S = 10.0
"""Seconds that a stream may take for one picture, the first included; at least two of its
periods."""
CLOSE_S = 0.5
"""Seconds that `close` waits for the thread. A thread that hangs in OpenCV releases the stream when
the call returns."""
_TIMED_OUT = 0.9
"""Fraction of OpenCV's timeout; a call that fails after a longer time timed out."""


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One coded picture as it arrived.

    Attributes:
        data: its bytes; empty if they could not be received whole.
        stamp: arrival of the last byte.
        is_key: whether a decoder can start with it.
        arrival: its timing, if the source knows it: the source requested the picture when it was
            due. None: to be derived from the arrival times.
    """

    data: bytes
    stamp: Stamp
    is_key: bool = True
    arrival: Arrival | None = None


class CodedSource(Protocol):
    """A stream of coded pictures. One thread reads and releases it."""

    def read(self) -> CodedPicture:
        """Returns the next picture; blocks until it is there. Raises SourceError on failure and at
        the end of the stream."""
        ...

    def interrupt(self) -> None:
        """Makes a `read` in progress return soon, where possible. Called by another thread."""
        ...

    def release(self) -> None:
        """Closes the stream."""
        ...


def timeout_ms(config: CameraConfig) -> int:
    """Returns how long a stream may take for a picture, in ms."""
    period_s = 1 / config.fps if config.fps else 0.0
    return round(1000 * max(STREAM_TIMEOUT_S, config.stall_timeout_s, 2 * period_s))


class OpenCvStream:
    """An open `cv2.VideoCapture` that delivers undecoded pictures, as a `CodedSource`.

    Args:
        capture: the open stream.
        label: start of each error message.
        config: the camera.
    """

    def __init__(self, capture: "cv2.VideoCapture", label: str, config: CameraConfig) -> None:
        self._capture = capture
        self._label = label
        self._timeout_s = timeout_ms(config) / 1000

    def read(self) -> CodedPicture:
        """As `CodedSource.read`."""
        began_s = time.monotonic()
        try:
            grabbed = self._capture.grab()
        except cv2.error as error:
            raise SourceError(f"{self._label} failed in OpenCV: {error.err}") from error
        stamp = Stamp.now()
        if not grabbed:
            raise SourceError(f"{self._label} {end_of_stream(began_s, self._timeout_s)}")
        data = self._bytes()
        # The property describes the picture retrieved last.
        is_key = bool(self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        return CodedPicture(data, stamp, is_key)

    def interrupt(self) -> None:
        """As `CodedSource.interrupt`; OpenCV returns after its timeout."""

    def release(self) -> None:
        """As `CodedSource.release`."""
        self._capture.release()

    def _bytes(self) -> bytes:
        """Bytes of the grabbed picture; empty on failure, which the decoder rejects."""
        try:
            retrieved, data = self._capture.retrieve()
        except cv2.error:
            return b""
        return data.tobytes() if retrieved and data is not None else b""


def end_of_stream(began_s: float, timeout_s: float) -> str:
    """Returns why OpenCV delivers no further picture, in words: it reports no reason.

    Args:
        began_s: start of the call that failed, on the monotonic clock.
        timeout_s: how long OpenCV waits for a picture.
    """
    if time.monotonic() - began_s >= _TIMED_OUT * timeout_s:
        return f"stopped delivering frames: nothing came for {timeout_s:g} s"
    return "stopped delivering frames: the stream ended or broke off"


class PacketReader:
    """Reads a stream of coded pictures, and releases it at the end.

    Args:
        source: the open stream.
        camera: name of the camera.
        backlog_meter: measures the lateness of each picture.
        hand_over: makes the queue for the pictures.
        wants: called on the reader's thread with the arrival of each picture (CLOCK_MONOTONIC, ns);
            returns whether to decode the picture.
    """

    def __init__(
        self,
        source: CodedSource,
        camera: str,
        backlog_meter: BacklogMeter,
        hand_over: Callable[[Shortfall], HandOver],
        wants: Callable[[int], bool] = lambda came_ns: True,
    ) -> None:
        self._source = source
        self._backlog_meter = backlog_meter
        self._wants = wants
        self.shortfall = Shortfall(camera, lambda: self.burst_s)
        self._hand_over = hand_over(self.shortfall)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"read-{camera}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of pictures that wait for the decoder."""
        return self._hand_over.waiting

    @property
    def burst_s(self) -> float | None:
        """As `FallsShort.burst_s`."""
        return self._backlog_meter.burst_s

    def take(self) -> Packet:
        """Returns the next picture to decode; blocks until there is one.

        Raises:
            SourceError: the stream ended.
            BacklogError: pictures arrive, but for a second none could be shown.
        """
        return self._hand_over.take()

    def shown(self) -> None:
        """Records that the newest taken picture could be shown."""
        self._hand_over.shown()

    def close(self) -> None:
        """Ends the thread, which releases the stream."""
        self._closing.set()
        self._source.interrupt()
        self._hand_over.close()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        meter = SleepMeter()
        try:
            while not self._closing.is_set():
                packet, is_due = self._read(meter)
                if packet.arrival.old or is_due or self._wants(packet.came_ns):
                    self._hand_over.put(packet)
        except Exception as error:
            # `take` raises the error again, on the camera's thread.
            self._hand_over.end(error)
        finally:
            self._source.release()
            meter.close()

    def _read(self, meter: SleepMeter) -> tuple[Packet, bool]:
        """Returns the next picture, and whether the source requested it when it was due."""
        slept_before_ns = meter.slept_ns()
        coded = self._source.read()
        waited_ns = meter.slept_ns() - slept_before_ns
        assert coded.stamp.mono_ns is not None
        arrival = coded.arrival or self._backlog_meter.next(waited_ns, coded.stamp.mono_ns)
        stamp = replace(coded.stamp, uncertainty_ns=arrival.late_ns)
        return Packet(coded.data, stamp, coded.is_key, arrival), coded.arrival is not None
