"""Mailboxes: where frames wait for the model. They have slots and no queue, so nothing can grow."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from node.image.frame import Frame


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """A frame out of the mailbox. dropped: frames of its camera given up since the last one."""

    frame: Frame
    dropped: int
    wait_ns: int


class FrameSink(Protocol):
    """The side of a mailbox that cameras see."""

    def put(self, frame: Frame) -> None:
        """Leaves a frame for the taker."""
        ...

    def close(self, camera: str) -> None:
        """This camera puts no more frames."""
        ...


class FrameQueue(Protocol):
    """The side of a mailbox that the labeller sees."""

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        """The frames that are there, one of each camera, of up to `at_most` cameras; waits for the
        first up to `timeout_s`."""
        ...

    def wake(self) -> None:
        """Who waits to take has something else to do."""
        ...

    @property
    def finished(self) -> bool:
        """Every camera is closed and every frame taken."""
        ...


@dataclass(slots=True)
class _Slot:
    frame: Frame | None = None
    put_ns: int = 0
    dropped_since: int = 0
    dropped_ever: int = 0
    closed: bool = False


def _emptied(slot: _Slot) -> QueuedFrame:
    assert slot.frame is not None
    taken = QueuedFrame(slot.frame, slot.dropped_since, time.monotonic_ns() - slot.put_ns)
    slot.frame, slot.dropped_since = None, 0
    return taken


class LatestMailbox:
    """The newest frame wins: a frame that nobody took in time is dropped and counted. One slot for
    each camera; cameras are served in turn."""

    def __init__(self, cameras: Iterable[str]) -> None:
        self._slots = {camera: _Slot() for camera in cameras}
        self._turn = list(self._slots)
        self._changed = threading.Condition()
        self._poked = False

    def put(self, frame: Frame) -> None:
        """Never blocks."""
        with self._changed:
            slot = self._slots[frame.camera]
            if slot.frame is not None:
                slot.dropped_since += 1
                slot.dropped_ever += 1
            slot.dropped_since += frame.dropped
            slot.dropped_ever += frame.dropped
            slot.frame, slot.put_ns = frame, time.monotonic_ns()
            self._changed.notify_all()

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        """The frames that are there, one of each camera."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._any_full() or self._all_closed() or self._poked, timeout_s
            )
            self._poked = False
            served = [name for name in self._turn if self._slots[name].frame is not None][:at_most]
            for name in served:  # who was served goes to the back
                self._turn.remove(name)
                self._turn.append(name)
            if served:
                self._changed.notify_all()
            return [_emptied(self._slots[name]) for name in served]

    def wake(self) -> None:
        """Who waits to take has something else to do."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def close(self, camera: str) -> None:
        """This camera puts no more frames."""
        with self._changed:
            self._slots[camera].closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Every camera is closed and every frame taken."""
        with self._changed:
            return self._all_closed() and not self._any_full()

    def dropped(self, camera: str) -> int:
        """Frames of a camera given up since the start."""
        with self._changed:
            return self._slots[camera].dropped_ever

    def _any_full(self) -> bool:
        return any(slot.frame is not None for slot in self._slots.values())

    def _all_closed(self) -> bool:
        return all(slot.closed for slot in self._slots.values())


class LosslessMailbox:
    """Every frame is taken once, in the order in which they were put, whatever their camera: who
    puts waits until the one slot is free."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._slot = _Slot()
        self._changed = threading.Condition()
        self._poked = False

    def put(self, frame: Frame, dropped: int = 0) -> None:
        """Blocks until the frame before was taken, or the stop event is set. dropped: frames of
        this camera that were left out before it."""
        with self._changed:
            while self._slot.frame is not None:
                if self._stop.is_set():
                    return
                self._changed.wait(0.1)
            self._slot.frame, self._slot.put_ns = frame, time.monotonic_ns()
            self._slot.dropped_since = dropped
            self._slot.dropped_ever += dropped
            self._changed.notify_all()

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        """One frame at most: what a batch makes of a frame depends on the others in it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._slot.frame is not None or self._slot.closed or self._poked, timeout_s
            )
            self._poked = False
            if self._slot.frame is None:
                return []
            self._changed.notify_all()
            return [_emptied(self._slot)]

    def wake(self) -> None:
        """Who waits to take has something else to do."""
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def close_all(self) -> None:
        """Nobody puts any more."""
        with self._changed:
            self._slot.closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """All is put and taken."""
        with self._changed:
            return self._slot.closed and self._slot.frame is None

    @property
    def dropped_ever(self) -> int:
        """Frames that were left out, of all cameras."""
        with self._changed:
            return self._slot.dropped_ever
