"""Facts of a frame and of the node, validated when a recording is read."""

from dataclasses import dataclass
from typing import Any

from node.errors import MessageError
from node.image.frame import Clock
from perception_client.messages.codec import from_plain
from perception_client.recordings.facts import MOST_COUNT, MOST_NS, check_range, read_json


@dataclass(frozen=True, slots=True)
class FrameFacts:
    """The facts of a frame that its picture does not contain; as in `RecordedFrame`."""

    frame_id: int
    stamp_ns: int | None = None
    clock: Clock | None = None
    epoch: int = 0
    lost_before: int = 0


def read_frame_facts(data: bytes) -> FrameFacts:
    """Reads the facts of a frame. Raises MessageError, which names the invalid fact."""
    facts = from_plain(FrameFacts, "frame", read_json(data))
    for name in ("frame_id", "epoch", "lost_before"):
        check_range(f"frame.{name}", getattr(facts, name), MOST_COUNT)
    check_range("frame.stamp_ns", facts.stamp_ns, MOST_NS)
    return facts


def read_configuration(data: bytes) -> dict[str, Any]:
    """Reads the configuration in force. Raises MessageError where `data` is none."""
    content = read_json(data)
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise MessageError(f"config is {type(config).__name__}, not a map")
    return config
