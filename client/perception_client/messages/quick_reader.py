"""Quick readers: functions that build a dataclass from the decoded map of its fields, written from
the annotations of the dataclass. They read what a node usually sends in three fifths of the strict
readers' time.

A quick reader never decides that a value is wrong: whatever is not the usual (a missing field, an
integer where a float belongs, a wrong type) goes to the strict reader, which converts it or says
what is wrong. So both accept the same maps, and give the same results.
"""

from collections.abc import Callable
from dataclasses import Field, fields
from types import UnionType
from typing import Any, Union, get_args, get_origin

Reader = Callable[[Any], Any]

_CHECKS = {
    int: "type({0}) is int and -18446744073709551616 < {0} < 18446744073709551616",
    float: "type({0}) is float and {0} - {0} == 0.0",  # neither infinite nor nan
    str: "type({0}) is str and ({0}.isascii() or is_text({0}))",
    bool: "type({0}) is bool",
}


def quick_reader(
    cls: type, hints: dict[str, Any], reader_of: Callable[[Any], Reader], strict: Reader
) -> Reader:
    """Returns the quick reader of a dataclass.

    Args:
        cls: the dataclass, frozen.
        hints: the types of its fields, resolved.
        reader_of: makes the reader of a type that is not an int, float, str or bool; the reader
            raises an exception for a wrong value.
        strict: reads what is unusual.
    """
    scope: dict[str, Any] = {"cls": cls, "strict": strict, "is_text": _is_text}
    loads, checks, arguments = [], [], []
    for index, field in enumerate(fields(cls)):
        value, hint = f"v{index}", hints[field.name]
        loads.append(f"{value} = raw[{field.name!r}]")
        check = _check(hint, value)
        if check is not None:
            checks.append(check)
        else:
            scope[f"r{index}"] = reader_of(hint)
            value = f"r{index}({value})"
        arguments.append(_argument(field, value))
    source = (
        "def read(raw):\n"
        "    try:\n"
        f"        {'; '.join(loads)}\n"
        f"        if {' and '.join(checks) or True}:\n"
        f"            return cls({', '.join(arguments)})\n"
        "    except Exception:\n"
        "        pass\n"  # the strict reader says what is wrong
        "    return strict(raw)\n"
    )
    exec(source, scope)  # of names and types of this package alone
    read: Reader = scope["read"]
    return _remembering(read) if all(hint is str for hint in hints.values()) else read


def _argument(field: "Field[Any]", value: str) -> str:
    return f"{field.name}={value}" if field.kw_only else value


def _check(hint: Any, value: str) -> str | None:
    """The condition for a usual value of a plain type; None for another type."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        check = _check(kinds[0], value) if len(kinds) == 1 else None
        return None if check is None else f"({value} is None or {check})"
    return _CHECKS[hint].format(value) if hint in _CHECKS else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remembering(read: Reader) -> Reader:
    """Returns the previous object for the same map again: a node names its model in each message.
    Only for fields that are all text, since equal numbers may be of another type."""
    last: tuple[Any, Any] = (None, None)

    def read_or_remember(raw: Any) -> Any:
        nonlocal last
        known, built = last
        try:
            is_new = raw != known or built is None
        except RecursionError:  # an unknown field, nested a thousand levels deep
            return read(raw)
        if is_new:
            built = read(raw)
            last = (dict(raw), built)  # the caller may change its map
        return built

    return read_or_remember
