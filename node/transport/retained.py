"""Retained: the newest message of each topic, for subscribers that join late."""

from collections.abc import Iterator

from node.transport.sequencing import Outgoing
from perception_client.messages.kinds import Message, retained

RETAIN_PERIOD_S = 0.1
"""Shortest time between two retained messages of a topic: they go to all its subscribers, so a
subscriber that joins again and again would cost the others."""


class Retained:
    """Keeps messages and decides when they are sent once more. Used by one thread."""

    def __init__(self) -> None:
        self._newest: dict[bytes, dict[str, Message]] = {}
        self._requested: set[bytes] = set()
        self._sent_at: dict[bytes, float] = {}

    @property
    def requested(self) -> bool:
        """Whether a subscriber waits for a retained message."""
        return bool(self._requested)

    def keep(self, outgoing: Outgoing, message: Message) -> None:
        """Keeps a message that was just sent as the newest of its topic and key."""
        newest = self._newest.setdefault(outgoing.topic, {})
        newest.pop(outgoing.key, None)  # so that the order is that of the numbers
        if not outgoing.ends:
            newest[outgoing.key] = message
        if not outgoing.key:
            self._requested.discard(outgoing.topic)  # the subscribers that joined have this message

    def request(self, prefix: bytes) -> None:
        """Requests the messages of all topics with a prefix: a subscriber has joined."""
        self._requested.update(topic for topic in self._newest if topic.startswith(prefix))

    def due(self, now: float) -> Iterator[Message]:
        """The requested messages, marked as retained, of each topic at most once in
        `RETAIN_PERIOD_S`. now: on CLOCK_MONOTONIC in s."""
        for topic in tuple(self._requested):
            if now - self._sent_at.get(topic, -RETAIN_PERIOD_S) >= RETAIN_PERIOD_S:
                self._requested.discard(topic)
                self._sent_at[topic] = now
                yield from map(retained, self._newest[topic].values())
