"""PacketReader: the thread that reads a stream and does nothing else, so that each picture is
stamped when it comes, however slowly pictures are decoded."""

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
"""How long closing waits for the thread; one that hangs in OpenCV lets go of the stream when it
comes back."""


class PacketReader:
    """Owns an open `cv2.VideoCapture` that delivers undecoded pictures, and releases it.

    who: for errors. camera: its name. wants: asked with each picture's moment whether it is to be
    decoded, on the reader's thread.
    """

    def __init__(
        self,
        capture: "cv2.VideoCapture",
        who: str,
        camera: str,
        arrivals: BacklogMeter,
        hand_over: Callable[[Shortfall], HandOver],
        wants: Callable[[int], bool] = lambda came_ns: True,
    ) -> None:
        self._capture = capture
        self._who = who
        self._arrivals = arrivals
        self._wants = wants
        self.shortfall = Shortfall(camera)
        self._hand_over = hand_over(self.shortfall)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"read-{camera}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that wait to be decoded."""
        return self._hand_over.waiting

    def take(self) -> Packet:
        """The next picture to decode; waits for it. Raises SourceError where the stream ended,
        BacklogError where pictures come and for a second none was shown."""
        return self._hand_over.take()

    def shown(self) -> None:
        """The newest one that was taken could be shown."""
        self._hand_over.shown()

    def close(self) -> None:
        """Ends the thread, which gives the stream back."""
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
        except Exception as error:  # raised again by `take`, on the thread of the camera
            self._hand_over.end(error)
        finally:
            self._capture.release()
            meter.close()

    def _read(self, meter: SleepMeter) -> Packet:
        before_ns = meter.slept_ns()
        try:
            grabbed = self._capture.grab()
        except cv2.error as error:
            raise SourceError(f"{self._who} failed in OpenCV: {error.err}") from error
        stamp, waited_ns = Stamp.now(), meter.slept_ns() - before_ns
        if not grabbed:
            raise SourceError(f"{self._who} stopped delivering frames")
        assert stamp.mono_ns is not None
        arrival = self._arrivals.next(waited_ns, stamp.mono_ns)
        stamp = replace(stamp, uncertainty_ns=arrival.late_ns)
        data = self._bytes()
        is_key = bool(self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME))  # of what was retrieved
        return Packet(data, stamp, is_key, arrival)

    def _bytes(self) -> bytes:
        """Bytes of the grabbed picture; empty where there are none, so the decoder refuses it."""
        try:
            taken, data = self._capture.retrieve()
        except cv2.error:
            return b""
        return data.tobytes() if taken and data is not None else b""
