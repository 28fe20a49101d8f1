"""Outgoing: messages before they have their number, and the sequencer that gives it to them.

A message is numbered and stamped when it is handed over, by the one thread that hands over, so
that the numbers of a topic have no holes.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from perception_client.messages.clock import boottime_ns
from perception_client.messages.kinds import Message


@dataclass(frozen=True, slots=True)
class Header:
    """What a message gets when it is handed over: number, Unix time, CLOCK_MONOTONIC and
    CLOCK_BOOTTIME in ns."""

    seq: int
    published_ns: int
    published_mono_ns: int
    published_boot_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message but for its envelope. topic: what its number counts on.

    key: of the messages of a topic the newest of each key is sent again to late joiners; one that
    `ends` is not, and takes that of its key away. on_sealed: called with the finished message, on
    the thread that hands over; quick, and never raising.
    """

    topic: bytes
    finalise: Callable[[Header], Message]
    key: str = ""
    ends: bool = False
    on_finalised: Callable[[Message], None] | None = None


class Sequencer:
    """Numbers each topic from 0. Used by one thread."""

    def __init__(self) -> None:
        self._next: defaultdict[bytes, int] = defaultdict(int)

    def finalise(self, outgoing: Outgoing) -> Message:
        """The finished message."""
        seq = self._next[outgoing.topic]
        self._next[outgoing.topic] = seq + 1
        envelope = Header(seq, time.time_ns(), time.monotonic_ns(), boottime_ns())
        message = outgoing.finalise(envelope)
        if outgoing.on_finalised is not None:
            outgoing.on_finalised(message)
        return message

    def answer(self, probe: "SequenceQuery") -> None:
        """Says the numbers that a probe asks for."""
        probe.on_reached(tuple(self._next[topic] for topic in probe.topics))


@dataclass(frozen=True, slots=True)
class SequenceQuery:
    """Asks, in its place among the messages, for the next number of each topic."""

    topics: tuple[bytes, ...]
    on_reached: Callable[[tuple[int, ...]], None]


Observer = Callable[[Message], None]
"""Called with each finished message, in order, on the thread that hands it over."""


class Sink(Protocol):
    """Where a pipeline's messages go."""

    def send(self, outgoing: Outgoing | SequenceQuery) -> None:
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

    def send(self, outgoing: Outgoing | SequenceQuery) -> None:
        """Hands the message to the observer."""
        if isinstance(outgoing, SequenceQuery):
            self._sequencer.answer(outgoing)
        else:
            self._observer(self._sequencer.finalise(outgoing))

    def close(self) -> None:
        """Nothing is held."""
