"""Sequencer: gives each outgoing message its number and its stamps.

The one thread that hands messages over numbers and stamps them at that moment, so the numbers of a
topic have no gaps.
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
    """The fields that a message gets at its hand-over: number, and the time in ns as Unix time, on
    CLOCK_MONOTONIC and on CLOCK_BOOTTIME (None where the system lacks that clock)."""

    seq: int
    published_ns: int
    published_mono_ns: int
    published_boot_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message without its header.

    topic: the topic, whose messages are numbered together. finalise: builds the message with its
    header. key: late subscribers get the newest message of each key of a topic. ends: the message
    removes the retained message of its key, and is not retained itself. on_finalised: called with
    the finished message, on the thread that hands over; quick, and never raises.
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
        """The finished message, with the next number of its topic."""
        seq = self._next[outgoing.topic]
        self._next[outgoing.topic] = seq + 1
        envelope = Header(seq, time.time_ns(), time.monotonic_ns(), boottime_ns())
        message = outgoing.finalise(envelope)
        if outgoing.on_finalised is not None:
            outgoing.on_finalised(message)
        return message

    def answer(self, query: "SequenceQuery") -> None:
        """Answers a query with the next number of each of its topics."""
        query.on_reached(tuple(self._next[topic] for topic in query.topics))


@dataclass(frozen=True, slots=True)
class SequenceQuery:
    """A query, in order with the messages, for the next number of each topic."""

    topics: tuple[bytes, ...]
    on_reached: Callable[[tuple[int, ...]], None]


Observer = Callable[[Message], None]
"""Called with each finished message, in order, on the thread that hands it over."""


class Sink(Protocol):
    """The destination of the messages of a pipeline."""

    def send(self, outgoing: Outgoing | SequenceQuery) -> None:
        """Accepts a message; may block while earlier messages are being sent."""
        ...

    def close(self) -> None:
        """Hands the accepted messages over, then releases all resources."""
        ...


class LocalSink:
    """A sink without a socket: calls the observer, on the thread that sends."""

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
        """Has no effect."""
