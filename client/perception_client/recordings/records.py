"""Entry: one record of a recording. Channel: its topic and schema."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Channel:
    """Topic, encoding and schema of records of one kind and origin."""

    topic: str
    encoding: str
    """Of the messages, as the MCAP registry calls it: the node writes protobuf and json."""
    name: str
    """Of the schema; empty without one."""

    @property
    def schema_encoding(self) -> str:
        """The schema's encoding, as the MCAP registry calls it."""
        return "protobuf" if self.encoding == "protobuf" else "jsonschema"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record."""

    channel: Channel
    log_ns: int
    """Time on the recording's clock, which is Unix time at its start and monotonic from then on."""
    publish_ns: int
    """Unix time of the capture or publication."""
    sequence: int
    data: bytes
