"""Intake: frames, messages and commands between the threads of the node and the recorder's thread.

It never blocks the thread that gives: a frame or message beyond its bounds is lost, and counted.
"""

import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from node.image.frame import Frame
from node.recording.encode import Clock
from node.recording.folder import MIB
from perception_client.messages.kinds import LabelsMessage, Message

MAX_WAITING_BYTES = 128 * MIB
"""Memory of the waiting frames: about 45 undecoded frames of 720p, more of JPEG."""
MAX_WAITING_MESSAGES = 4096
HOLD_S = 0.1
"""How long a frame waits for its labels before it is encoded: encoding during the inference would
make the inference a third slower on two cores."""

_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class WaitingFrame:
    """A frame to record. log_ns: its time on the recording's clock. lost_before: frames of its
    camera that were lost since the previous waiting frame."""

    frame: Frame
    log_ns: int
    lost_before: int


@dataclass(frozen=True, slots=True)
class WaitingMessage:
    """A message to record. log_ns: its time on the recording's clock."""

    message: Message
    log_ns: int


Command = Callable[[], None]
Item = WaitingMessage | Command


class Intake:
    """Any thread puts; the recorder's thread takes.

    lost_frames, lost_messages: beyond the bounds, or not recordable, since the start.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._frames: deque[WaitingFrame] = deque()
        self._waiting_bytes = 0
        self._lost_by_camera: defaultdict[str, int] = defaultdict(int)
        self._labelled_ns = 0
        self.lost_frames = 0
        self.lost_messages = 0

    def put_frame(self, frame: Frame) -> None:
        """Queues a frame: its JPEG where the camera sent one, else its pixels."""
        stamp = frame.stamp
        log_ns = self._clock.at(None if stamp is None else stamp.mono_ns)
        # The bytes that are counted are the bytes that wait: no decoded copy, no uploaded input.
        kept = replace(frame, image=frame.image if frame.jpeg is None else _NO_PIXELS)
        size = _size(frame)
        with self._lock:
            if self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._lost_by_camera[frame.camera] += 1
                self.lost_frames += 1
                return
            self._waiting_bytes += size
            lost_before = self._lost_by_camera.pop(frame.camera, 0)
            self._frames.append(WaitingFrame(kept, log_ns, lost_before))

    def put_message(self, message: Message) -> None:
        """Queues a message."""
        with self._lock:
            if self._items.qsize() > MAX_WAITING_MESSAGES:
                self.lost_messages += 1
                return
            self._items.put(WaitingMessage(message, self._clock.at(None)))

    def put_command(self, command: Command) -> None:
        """Queues a command; commands are never lost."""
        self._items.put(command)

    def close(self) -> None:
        """Ends the items: `get` returns None after those that were put before."""
        self._items.put(None)

    # The recorder's thread.

    def get(self, timeout_s: float) -> Item | None:
        """The next message or command, None at the end. Raises queue.Empty after the timeout."""
        item = self._items.get(timeout=timeout_s)
        if isinstance(item, WaitingMessage) and isinstance(item.message, LabelsMessage):
            self._labelled_ns = max(item.log_ns, self._labelled_ns)
        return item

    @property
    def frames_waiting(self) -> int:
        """Number of frames that wait."""
        return len(self._frames)

    @property
    def frame_is_due(self) -> bool:
        """Whether the oldest frame is to be encoded: once it is labelled, so that its encoding
        takes no time from the inference, or after `HOLD_S`."""
        held_since_ns = self._clock.at(None) - int(HOLD_S * 1e9)
        return bool(self._frames) and self._frames[0].log_ns < max(held_since_ns, self._labelled_ns)

    def take_frame(self) -> WaitingFrame:
        """Takes the oldest frame. Raises IndexError without one."""
        with self._lock:
            waiting = self._frames.popleft()
            self._waiting_bytes -= _size(waiting.frame)
        return waiting

    def lose_frames(self) -> int:
        """Gives up all frames that wait; how many that are."""
        count = 0
        while self._frames:
            self.take_frame()
            count += 1
        self.count_lost_frames(count)
        return count

    def count_lost_frames(self, count: int) -> None:
        """Counts frames that were taken and could not be recorded."""
        with self._lock:
            self.lost_frames += count

    def count_lost_message(self) -> None:
        """Counts a message that was taken and could not be recorded."""
        with self._lock:
            self.lost_messages += 1


def _size(frame: Frame) -> int:
    return len(frame.jpeg) if frame.jpeg is not None else frame.image.nbytes
