"""PacketReader: a thread that only reads a stream, so that each picture is stamped on arrival
however long decoding takes."""

import threading
from collections.abc import Callable
from dataclasses import replace

from node.capture.backlog import BacklogMeter
from node.capture.handover import HandOver, Packet
from node.capture.shortfall import Shortfall
from node.capture.sleep_meter import SleepMeter
from node.errors import SourceError
from node.image.frame import Stamp
from node.image.opencv import cv2

CLOSE_S = 0.5
"""Seconds that `close` waits for the thread. A thread that hangs in OpenCV releases the stream when
the call returns."""


class PacketReader:
    """Reads an open `cv2.VideoCapture` that delivers undecoded pictures, and releases it at the
    end.

    Args:
        capture: the open stream.
        label: start of each error message.
        camera: name of the camera.
        backlog_meter: measures the lateness of each picture.
        hand_over: makes the queue for the pictures.
        wants: called on the reader's thread with the arrival of each picture (CLOCK_MONOTONIC, ns);
            returns whether to decode the picture.
    """

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        label: str,
        camera: str,
        backlog_meter: BacklogMeter,
        hand_over: Callable[[Shortfall], HandOver],
        wants: Callable[[int], bool] = lambda came_ns: True,
    ) -> None:
        self._capture = capture
        self._label = label
        self._backlog_meter = backlog_meter
        self._wants = wants
        self.shortfall = Shortfall(camera)
        self._hand_over = hand_over(self.shortfall)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"read-{camera}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of pictures that wait for the decoder."""
        return self._hand_over.waiting

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
        self._hand_over.close()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        meter = SleepMeter()
        try:
            while not self._closing.is_set():
                packet = self._read(meter)
                if packet.arrival.old or self._wants(packet.came_ns):
                    self._hand_over.put(packet)
        except Exception as error:
            # `take` raises the error again, on the camera's thread.
            self._hand_over.end(error)
        finally:
            self._capture.release()
            meter.close()

    def _read(self, meter: SleepMeter) -> Packet:
        slept_before_ns = meter.slept_ns()
        try:
            grabbed = self._capture.grab()
        except cv2.error as error:
            raise SourceError(f"{self._label} failed in OpenCV: {error.err}") from error
        stamp, waited_ns = Stamp.now(), meter.slept_ns() - slept_before_ns
        if not grabbed:
            raise SourceError(f"{self._label} stopped delivering frames")
        assert stamp.mono_ns is not None
        arrival = self._backlog_meter.next(waited_ns, stamp.mono_ns)
        stamp = replace(stamp, uncertainty_ns=arrival.late_ns)
        data = self._bytes()
        # The property describes the picture retrieved last.
        is_key = bool(self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))
        return Packet(data, stamp, is_key, arrival)

    def _bytes(self) -> bytes:
        """Bytes of the grabbed picture; empty on failure, which the decoder rejects."""
        try:
            retrieved, data = self._capture.retrieve()
        except cv2.error:
            return b""
        return data.tobytes() if retrieved and data is not None else b""
