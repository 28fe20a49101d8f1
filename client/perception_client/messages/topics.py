"""The kinds of messages, and the topic that each goes out on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from perception_client.messages.events import EventMessage
from perception_client.messages.health import HealthMessage
from perception_client.messages.info import InfoMessage
from perception_client.messages.labels import LabelsMessage

MessageKind = Literal["labels", "events", "health", "info"]
Message = LabelsMessage | EventMessage | HealthMessage | InfoMessage

KINDS: Mapping[str, type[Message]] = {
    "labels": LabelsMessage,
    "events": EventMessage,
    "health": HealthMessage,
    "info": InfoMessage,
}


def topic(kind: MessageKind, name: str) -> bytes:
    """`labels/<camera>/`: the closing slash keeps a prefix from matching a longer name."""
    return f"{kind}/{name}/".encode(errors="surrogateescape")


def topic_of(message: Message) -> bytes:
    """The topic that a message goes out on."""
    match message:
        case LabelsMessage():
            return topic("labels", message.camera)
        case EventMessage():
            return topic("events", message.camera)
        case HealthMessage():
            return topic("health", message.node)
        case InfoMessage():
            return topic("info", message.node)


def retained(message: Message) -> Message:
    """The same message, marked as sent again for a late joiner."""
    return replace(message, retained=True)
