"""The messages as bytes and JSON, and back: msgpack on the wire, one reader per type.

The readers are built once, from the annotations of the types; a message then takes a few
microseconds to read, which ten subscribers on a small computer pay for each message.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from perception_client.errors import MessageError
from perception_client.messages.quick_reader import Reader, quick_reader
from perception_client.messages.topics import KINDS, Message, topic_of
from perception_client.messages.wire import MAX_MESSAGE_BYTES, SCHEMA
from perception_client.text import printable_json

_Read = TypeVar("_Read")


def encode(message: Message) -> list[bytes]:
    """The two parts of a message: topic, msgpack map."""
    return [topic_of(message), msgpack.packb(message, default=_as_map)]


def to_map(message: Message) -> dict[str, Any]:
    """The message as the map that travels; the same keys in msgpack and in JSON."""
    content: dict[str, Any] = _nested(message)
    return content


def to_json(message: Message, **extra: str) -> str:
    """The message as one line of JSON, followed by `extra`."""
    return printable_json(
        json.dumps({**_as_map(message), **extra}, default=_as_map, ensure_ascii=False)
    )


def decode(parts: list[bytes]) -> Message:
    """The message in the two parts that were received.

    Unknown keys are ignored. Raises MessageError for anything that is not a message of this
    schema: wrong parts, not msgpack, a missing key, a wrong type, a newer schema.
    """
    if len(parts) != 2:
        raise MessageError(f"a message has {len(parts)} parts where schema {SCHEMA} has 2")
    head, body = parts
    kind = head.partition(b"/")[0].decode("ascii", "replace")
    if kind not in KINDS:
        raise MessageError(f"topic {head[:40]!r} is none of {', '.join(KINDS)}")
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageError(
            f"{len(body)} bytes on {head[:40]!r}", fix=f"at most {MAX_MESSAGE_BYTES}"
        )
    try:
        content = msgpack.unpackb(body, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # msgpack raises ValueErrors and its own kinds; all mean this
        raise MessageError(f"{len(body)} bytes on {head[:40]!r} are not msgpack") from error
    return from_map(kind, content)


def from_map(kind: str, content: object) -> Message:
    """The message in a decoded map; raises MessageError as `decode` does."""
    if not isinstance(content, dict):
        raise MessageError(f"a {kind} message is a map, this is {type(content).__name__}")
    schema = content.get("schema")
    if type(schema) is not int:
        raise MessageError(f"a {kind} message without a schema number")
    if schema > SCHEMA:
        raise MessageError(
            f"a {kind} message of schema {schema}, newer than the {SCHEMA} read here: "
            "update perception-node on this computer"
        )
    built = from_plain(KINDS[kind], kind, content)
    assert isinstance(built, Message)
    return built


def from_plain(cls: type[_Read], name: str, content: object) -> _Read:
    """A dataclass, built from the decoded map of its fields; unknown keys are ignored.

    name: of the value, for the error. Raises MessageError where a field is missing or of the wrong
    type.
    """
    kind: type = cls
    try:
        built = _class_reader(kind)(content)
    except _Unfit as unfit:
        raise MessageError(f"{name}{unfit.path} {unfit.why}") from None
    except RecursionError:  # msgpack takes 1024 levels, repr() and comparisons of Python fewer
        raise MessageError(f"{name}: its lists and maps are nested too deeply") from None
    assert isinstance(built, cls)
    return built


# Writing.


@functools.cache
def _names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def _as_map(value: Any) -> dict[str, Any]:
    cls: type = type(value)
    return {name: getattr(value, name) for name in _names(cls)}


def _nested(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_nested(item) for item in value)
    if is_dataclass(value):
        return {name: _nested(item) for name, item in _as_map(value).items()}
    return value


# Reading.

_MOST_EXACT = 2**64
"""The largest integer of msgpack; JSON can hold integers that no float can."""
# A Reader converts a decoded value to its type, or raises _Unfit.


class _Unfit(Exception):
    """A value of the wrong type. path: of the field, built from the inside out."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.path = ""

    def within(self, field: str) -> "_Unfit":
        """The same error, with the path as of one level further out."""
        self.path = field + self.path
        return self


@functools.cache
def _class_reader(cls: type) -> Reader:
    hints = get_type_hints(cls)
    return quick_reader(cls, hints, _reader, _strict_reader(cls, hints))


def _strict_reader(cls: type, hints: dict[str, Any]) -> Reader:
    entries = tuple(
        (field.name, field.default is MISSING, _reader(hints[field.name])) for field in fields(cls)
    )

    def read(raw: Any) -> Any:
        if type(raw) is not dict:
            raise _Unfit(f"is {raw!r:.40}, not {cls.__name__}")
        values, name = {}, ""
        try:
            for name, required, reader in entries:
                if name in raw:
                    values[name] = reader(raw[name])
                elif required:
                    raise _Unfit("is missing")
        except _Unfit as unfit:
            raise unfit.within(f".{name}") from None
        try:
            return cls(**values)
        except ValueError as error:  # what a class itself refuses
            raise _Unfit(str(error)) from None

    return read


def _reader(hint: Any) -> Reader:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        (inner,) = (kind for kind in get_args(hint) if kind is not type(None))
        return _optional(_reader(inner))
    if origin is tuple:
        first, *others = get_args(hint)
        length = None if Ellipsis in others else 1 + len(others)
        return _list(_reader(first), length)
    if origin is Literal:
        return _one_of({value: value for value in get_args(hint)})
    kind: type = hint
    if issubclass(kind, StrEnum):
        return _one_of({str(value): value for value in kind})
    if is_dataclass(kind):
        return _class_reader(hint)
    if kind in (int, str):
        return _integer if kind is int else _text
    return _number if kind is float else _plain(kind)


def _optional(reader: Reader) -> Reader:
    return lambda raw: None if raw is None else reader(raw)


def _list(reader: Reader, length: int | None) -> Reader:
    """length: of the list; None for any."""

    def read(raw: Any) -> Any:
        if not isinstance(raw, (list, tuple)):
            raise _Unfit(f"is {type(raw).__name__}, not a list")
        if length is not None and len(raw) != length:
            raise _Unfit(f"has {len(raw)} items, not {length}")
        return tuple([reader(entry) for entry in raw])

    return read


def _one_of(known: Mapping[str, Any]) -> Reader:
    def read(raw: Any) -> Any:
        if isinstance(raw, str) and raw in known:
            return known[raw]
        raise _Unfit(f"is {raw!r:.40}, none of {', '.join(known)}")

    return read


def _number(raw: Any) -> float:
    if type(raw) is float and math.isfinite(raw):
        return raw
    if type(raw) is int and -_MOST_EXACT < raw < _MOST_EXACT:
        return float(raw)
    raise _Unfit(f"is {raw!r:.40}, not float")


def _plain(kind: type) -> Reader:
    def read(raw: Any) -> Any:
        if type(raw) is not kind:
            raise _Unfit(f"is {raw!r:.40}, not {kind.__name__}")
        return raw

    return read


def _text(raw: Any) -> str:
    if type(raw) is not str:
        raise _Unfit(f"is {raw!r:.40}, not str")
    if not raw.isascii():
        try:
            raw.encode()
        except UnicodeEncodeError:  # JSON's escapes can name halves of a character
            raise _Unfit(f"is {raw!a:.40}, which is no text") from None
    return raw


def _integer(raw: Any) -> int:
    if type(raw) is int and -_MOST_EXACT < raw < _MOST_EXACT:
        return raw
    description = f"of {raw.bit_length()} bits" if type(raw) is int else f"{raw!r:.40}"
    raise _Unfit(f"is {description}, not int")
