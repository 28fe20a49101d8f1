"""Writes config/messages.schema.json, the messages as JSON Schema, from the message types. With
--check: exit 1 if the file differs from them."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from perception_client.messages.json_schema import JSON_SCHEMA, json_schema
from perception_client.messages.kinds import KINDS

FILE = Path(__file__).parents[1] / "config" / "messages.schema.json"


def document() -> str:
    """The text of the file."""
    kinds = {
        kind: {key: value for key, value in json_schema(kind).items() if key != "$schema"}
        for kind in KINDS
    }
    content = {
        "$schema": JSON_SCHEMA,
        "title": "perception-node messages, schema 1",
        "description": (
            "Two-part ZeroMQ messages: topic, msgpack map with these keys. Topics: "
            "labels/<camera>/, events/<camera>/, health/<node>/, info/<node>/. Readers ignore keys "
            "that they do not know; null stands for what is not known."
        ),
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in KINDS],
        "$defs": kinds,
    }
    return json.dumps(content, indent=1) + "\n"


def main() -> int:
    """Writes or checks the file; returns the exit code."""
    if "--check" not in sys.argv:
        FILE.write_text(document(), encoding="utf-8")
        return 0
    if FILE.read_text(encoding="utf-8") == document():
        return 0
    print(f"{FILE.name} is not what the messages are; run scripts/schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
