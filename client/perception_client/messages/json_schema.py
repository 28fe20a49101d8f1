"""The message schema as JSON Schema, made from the message types themselves, so that it cannot
differ from them. For recordings, documents and other languages."""

import functools
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from perception_client.messages.topics import KINDS, MessageKind

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

_PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean"}


@functools.cache
def json_schema(kind: MessageKind) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one kind of message. Maps in msgpack have the same keys.

    A reader has to ignore keys that it does not know.
    """
    return {"$schema": JSON_SCHEMA, "title": f"perception.{kind}", **_of_class(KINDS[kind])}


def _of_class(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    described = fields(cls)
    return {
        "type": "object",
        "properties": {field.name: _of_hint(hints[field.name]) for field in described},
        "required": [
            field.name
            for field in described
            if field.default is MISSING and field.default_factory is MISSING
        ],
    }


def _of_hint(hint: Any) -> dict[str, Any]:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return {"anyOf": [_of_hint(argument) for argument in get_args(hint)]}
    if hint is type(None):
        return {"type": "null"}
    if origin is tuple:
        first, *others = get_args(hint)
        items = {"type": "array", "items": _of_hint(first)}
        length = 1 + len(others)
        return items if Ellipsis in others else {**items, "minItems": length, "maxItems": length}
    if origin is Literal:
        return {"enum": list(get_args(hint))}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": [str(member) for member in hint]}
    assert is_dataclass(hint), hint
    assert isinstance(hint, type)
    return _of_class(hint)
