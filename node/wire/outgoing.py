"""Outgoing: messages before they have their number, and the sequencer that gives it to them.

A message is numbered and stamped when it is handed over, by the one thread that hands over, so
that the numbers of a topic have no holes.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from node.wire.messages import Message


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a message gets when it is handed over: number, Unix time and CLOCK_MONOTONIC in ns."""

    seq: int
    published_ns: int
    published_mono_ns: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message but for its envelope. topic: what its number counts on.

    key: of the messages of a topic the newest of each key is sent again to late joiners; one that
    `ends` is not, and takes that of its key away.
    """

    topic: bytes
    seal: Callable[[Envelope], Message]
    key: str = ""
    ends: bool = False


class Sequencer:
    """Numbers each topic from 0. Used by one thread."""

    def __init__(self) -> None:
        self._next: defaultdict[bytes, int] = defaultdict(int)

    def seal(self, outgoing: Outgoing) -> Message:
        """The finished message."""
        seq = self._next[outgoing.topic]
        self._next[outgoing.topic] = seq + 1
        return outgoing.seal(Envelope(seq, time.time_ns(), time.monotonic_ns()))


Observer = Callable[[Message], None]
"""Called with each finished message, in order, on the thread that hands it over."""


class Sink(Protocol):
    """Where a pipeline's messages go."""

    def send(self, outgoing: Outgoing) -> None:
        """Takes a message; may block while the ones before it are on their way."""
        ...

    def close(self) -> None:
        """Hands over what was taken, then lets go of everything."""
        ...


class LocalSink:
    """No socket: the observer alone sees the messages, on the thread that sends."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._sequencer = Sequencer()

    def send(self, outgoing: Outgoing) -> None:
        """Hands the message to the observer."""
        self._observer(self._sequencer.seal(outgoing))

    def close(self) -> None:
        """Nothing is held."""
