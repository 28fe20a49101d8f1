"""Mailbox: where frames wait for the model. One slot for each camera, so that nothing can grow."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from node.frame import Frame


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame out of the mailbox. dropped: frames of its camera given up since the last one."""

    frame: Frame
    dropped: int
    wait_ns: int


class Mailbox(Protocol):
    """Many cameras put, one taker takes, cameras in turn."""

    def put(self, frame: Frame) -> None:
        """Leaves a frame for the taker."""
        ...

    def take(self, timeout_s: float) -> Taken | None:
        """The next frame; None when none came within `timeout_s`."""
        ...

    def take_all(self, timeout_s: float, at_most: int) -> list[Taken]:
        """The frames that are there, one of each camera, of up to `at_most` cameras; waits for the
        first up to `timeout_s`."""
        ...

    def poke(self) -> None:
        """Who waits to take has something else to do."""
        ...

    def close(self, camera: str) -> None:
        """This camera puts no more frames."""
        ...

    @property
    def finished(self) -> bool:
        """Every camera is closed and every frame taken."""
        ...

    def dropped(self, camera: str) -> int:
        """Frames of a camera given up since the start."""
        ...


@dataclass(slots=True)
class _Slot:
    frame: Frame | None = None
    put_ns: int = 0
    dropped_since: int = 0
    dropped_ever: int = 0
    closed: bool = False


class _Slots:
    """What both mailboxes share: the slots, one lock, and taking in turn."""

    def __init__(self, cameras: Iterable[str]) -> None:
        self._slots = {camera: _Slot() for camera in cameras}
        self._turn = list(self._slots)
        self._changed = threading.Condition()
        self._poked = False

    def take(self, timeout_s: float) -> Taken | None:
        taken = self.take_all(timeout_s, 1)
        return taken[0] if taken else None

    def take_all(self, timeout_s: float, at_most: int) -> list[Taken]:
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
            return [self._emptied(self._slots[name]) for name in served]

    def _emptied(self, slot: _Slot) -> Taken:
        assert slot.frame is not None
        taken = Taken(slot.frame, slot.dropped_since, time.monotonic_ns() - slot.put_ns)
        slot.frame, slot.dropped_since = None, 0
        return taken

    def poke(self) -> None:
        with self._changed:
            self._poked = True
            self._changed.notify_all()

    def close(self, camera: str) -> None:
        with self._changed:
            self._slots[camera].closed = True
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        with self._changed:
            return self._all_closed() and not self._any_full()

    def dropped(self, camera: str) -> int:
        with self._changed:
            return self._slots[camera].dropped_ever

    def _any_full(self) -> bool:
        return any(slot.frame is not None for slot in self._slots.values())

    def _all_closed(self) -> bool:
        return all(slot.closed for slot in self._slots.values())


class LatestMailbox(_Slots):
    """The newest frame wins: a frame that nobody took in time is dropped and counted."""

    def put(self, frame: Frame) -> None:
        """Never blocks."""
        with self._changed:
            slot = self._slots[frame.camera]
            if slot.frame is not None:
                slot.dropped_since += 1
                slot.dropped_ever += 1
            slot.frame, slot.put_ns = frame, time.monotonic_ns()
            self._changed.notify_all()


class EveryMailbox(_Slots):
    """Every frame is taken once, in order: who puts waits until the slot is free."""

    def __init__(self, cameras: Iterable[str], stop: threading.Event) -> None:
        super().__init__(cameras)
        self._stop = stop

    def put(self, frame: Frame) -> None:
        """Blocks until the frame before was taken, or the stop event is set."""
        with self._changed:
            slot = self._slots[frame.camera]
            while slot.frame is not None:
                if self._stop.is_set():
                    return
                self._changed.wait(0.1)
            slot.frame, slot.put_ns = frame, time.monotonic_ns()
            self._changed.notify_all()
