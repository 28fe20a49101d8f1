"""Mailboxes: hold captured frames until inference takes them. Each has a fixed number of slots and
no queue, so neither memory nor latency can grow."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from node.image.frame import Frame


@dataclass(frozen=True, slots=True)
class QueuedFrame:
    """A frame taken from a mailbox.

    Attributes:
        frame: the frame.
        dropped: frames of the same camera dropped since the previously taken one.
        wait_ns: time that the frame spent in the mailbox.
        prefetched: the frame's network input, made ahead of inference; None where inference makes
            it. Only perception reads it.
    """

    frame: Frame
    dropped: int
    wait_ns: int
    prefetched: object | None = None


class FrameSink(Protocol):
    """The producer's side of a mailbox, used by cameras."""

    def put(self, frame: Frame) -> None:
        """Puts a frame."""
        ...

    def close(self, camera: str) -> None:
        """Marks a camera as ended: it puts no more frames."""
        ...


class FrameQueue(Protocol):
    """The consumer's side of a mailbox, used by inference."""

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        """Takes the waiting frames: at most one of each camera, of at most `at_most` cameras.
        Blocks up to `timeout_s` seconds for the first; empty after the timeout, after `wake` and at
        the end."""
        ...

    def wake(self) -> None:
        """Wakes the consumer blocked in `take_all`, so that it runs queued commands."""
        ...

    @property
    def finished(self) -> bool:
        """Whether every camera is closed and every frame taken."""
        ...


@dataclass(slots=True)
class _Slot:
    frame: Frame | None = None
    prefetched: object | None = None
    put_ns: int = 0
    dropped_since: int = 0
    dropped_ever: int = 0
    closed: bool = False


def _take(slot: _Slot) -> QueuedFrame:
    assert slot.frame is not None
    wait_ns = time.monotonic_ns() - slot.put_ns
    queued_frame = QueuedFrame(slot.frame, slot.dropped_since, wait_ns, slot.prefetched)
    slot.frame, slot.prefetched, slot.dropped_since = None, None, 0
    return queued_frame


class LatestMailbox:
    """Keeps the newest frame of each camera: a newer frame replaces one that was not taken, which
    is dropped and counted. Cameras are served in turn. Thread-safe.

    Args:
        cameras: the names of all cameras.
    """

    def __init__(self, cameras: Iterable[str]) -> None:
        self._slots = {camera: _Slot() for camera in cameras}
        self._turn = list(self._slots)
        self._changed = threading.Condition()
        self._woken = False

    def put(self, frame: Frame, *, prefetched: object | None = None) -> None:
        """Puts a frame, and its network input where that is made ahead of inference; never
        blocks."""
        with self._changed:
            slot = self._slots[frame.camera]
            if slot.frame is not None:
                slot.dropped_since += 1
                slot.dropped_ever += 1
            slot.dropped_since += frame.dropped
            slot.dropped_ever += frame.dropped
            slot.frame, slot.prefetched, slot.put_ns = frame, prefetched, time.monotonic_ns()
            self._changed.notify_all()

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        """As `FrameQueue.take_all`."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._any_full() or self._all_closed() or self._woken, timeout_s
            )
            self._woken = False
            served_cameras = [
                camera for camera in self._turn if self._slots[camera].frame is not None
            ][:at_most]
            # Served cameras go to the back of the line.
            for camera in served_cameras:
                self._turn.remove(camera)
                self._turn.append(camera)
            if served_cameras:
                self._changed.notify_all()
            return [_take(self._slots[camera]) for camera in served_cameras]

    def wake(self) -> None:
        """As `FrameQueue.wake`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self, camera: str) -> None:
        """As `FrameSink.close`."""
        with self._changed:
            self._slots[camera].closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """As `FrameQueue.finished`."""
        with self._changed:
            return self._all_closed() and not self._any_full()

    def dropped(self, camera: str) -> int:
        """Returns the number of frames of a camera dropped since the start."""
        with self._changed:
            return self._slots[camera].dropped_ever

    def _any_full(self) -> bool:
        return any(slot.frame is not None for slot in self._slots.values())

    def _all_closed(self) -> bool:
        return all(slot.closed for slot in self._slots.values())


class LosslessMailbox:
    """Delivers every frame once, in the order of `put`, across all cameras. Has one slot: `put`
    blocks until it is free. Thread-safe.

    Args:
        stop: releases a blocked `put` when set.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._slot = _Slot()
        self._changed = threading.Condition()
        self._woken = False

    def put(self, frame: Frame, dropped: int = 0, *, prefetched: object | None = None) -> None:
        """Puts a frame; blocks until the previous frame was taken or the stop event is set.

        Args:
            frame: the frame.
            dropped: frames of the same camera dropped before this one.
            prefetched: its network input, where it was made ahead of inference.
        """
        with self._changed:
            while self._slot.frame is not None:
                if self._stop.is_set():
                    return
                self._changed.wait(0.1)
            self._slot.frame, self._slot.put_ns = frame, time.monotonic_ns()
            self._slot.prefetched = prefetched
            self._slot.dropped_since = dropped
            self._slot.dropped_ever += dropped
            self._changed.notify_all()

    def take_all(self, timeout_s: float, at_most: int) -> list[QueuedFrame]:
        """As `FrameQueue.take_all`, but at most one frame: the result for a frame may depend on the
        others in its batch."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._slot.frame is not None or self._slot.closed or self._woken, timeout_s
            )
            self._woken = False
            if self._slot.frame is None:
                return []
            self._changed.notify_all()
            return [_take(self._slot)]

    def wake(self) -> None:
        """As `FrameQueue.wake`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close_all(self) -> None:
        """Marks the end: no frame is put any more."""
        with self._changed:
            self._slot.closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether the mailbox is closed and every frame taken."""
        with self._changed:
            return self._slot.closed and self._slot.frame is None

    @property
    def dropped_ever(self) -> int:
        """Frames of all cameras dropped before `put`, since the start."""
        with self._changed:
            return self._slot.dropped_ever
