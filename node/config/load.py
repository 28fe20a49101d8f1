"""Loads the configuration: a TOML file, then `--set key=value`. Every error is one line that names
the file, the key, the value and the allowed values."""

import copy
import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from node.config.redact import key_shown, redacted, value_shown
from node.config.schema import CameraConfig, NodeConfig, as_tuples
from node.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def load_config(
    file: Path | None = None,
    settings: Iterable[str] = (),
    options: Mapping[str, str] = MappingProxyType({}),
    base: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """Loads and validates a configuration.

    A key is dotted (`model.top_k`); a camera is addressed by name or index (`camera.front.fps`,
    `camera.0.fps`). A value is parsed as TOML, else taken as text; `null` unsets a key whose
    default is none.

    Args:
        file: the TOML file; None: the defaults.
        settings: texts of the form `key=value`, applied to the content of the file.
        options: values of a command's own options by key, applied last and never parsed.
        base: content that stands in for a file; None: the defaults.

    Raises:
        ConfigError: the file cannot be read, or a key or value is invalid.
    """
    content = _read_toml(file) if file else copy.deepcopy(dict(base or {}))
    where = str(file) if file else "settings"
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(
                f"--set {redacted(setting)}: write it as key=value, for example model.top_k=3"
            )
        _apply(content, key, toml_value(text.strip()))
        where = f"{file} and the command line" if file else "command line"
    for key, value in options.items():
        _apply(content, key, value)
        where = f"{file} and the command line" if file else "command line"
    try:
        return NodeConfig.model_validate(content)
    except ValidationError as error:
        first, *others = _all_problems(error, content)
        more = f"and {len(others)} more: perception-node config check {file}" if file else None
        raise ConfigError(f"{where}: {first}", fix=more if others else None) from error


def problems_in(file: Path) -> list[str]:
    """Returns everything that is wrong with the keys and values of a configuration file, one line
    each; empty for a valid file. Raises ConfigError for a file that cannot be read, or is not
    TOML."""
    content = _read_toml(file)
    try:
        NodeConfig.model_validate(content)
    except ValidationError as error:
        return _all_problems(error, content)
    return []


def models_in(file: Path) -> Iterator[tuple[str, str]]:
    """Yields each key of a configuration file that names a model, with the name. Raises
    ConfigError as `problems_in`."""
    content = _read_toml(file)
    sections = [("model", "name"), ("crops", "model")]
    named = [(f"{section}.{key}", content.get(section), key) for section, key in sections]
    degrade = content.get("degrade")
    steps = degrade.get("steps") if isinstance(degrade, dict) else None
    for index, step in enumerate(steps if isinstance(steps, list) else ()):
        named.append((f"degrade.steps.{index}.model", step, "model"))
    for path, section, key in named:
        name = section.get(key) if isinstance(section, dict) else None
        if isinstance(name, str) and name:
            yield path, name


def changed(config: NodeConfig, settings: Mapping[str, object]) -> NodeConfig:
    """Returns a configuration with new values for some dotted keys; None unsets a key whose default
    is none. Raises ConfigError."""
    content = config.model_dump()
    content["camera"] = list(content["camera"])
    for key, value in settings.items():
        _apply(content, key, as_tuples(value))
    try:
        return NodeConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_described(_details(error)[0], content)) from error


def toml_value(text: str) -> Any:
    """Parses a value as TOML, or as null, which TOML does not have. Returns the text itself if it
    is neither."""
    if text == "null":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        # Also for numbers and lists that exceed the parser's limits.
        return text


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            f"{file}: there is no such file", fix="start from config/default.toml"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{file} is a folder", fix="give the TOML file in it") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file} is not UTF-8 text (byte {error.start})", fix="is it TOML?"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"{file} is not valid TOML: its lists are nested too deeply") from None


_OWN_KEYS = ["detect", "class_scores"]
"""The table whose keys are the user's own: null removes one."""


def _apply(content: dict[str, Any], key: str, value: object) -> None:
    path = [part.strip() for part in key.split(".")]
    if not all(path):
        raise ConfigError(f"{key_shown(key)}: write the key with dots, for example model.top_k=3")
    target: Any = content
    for index, part in enumerate(path[:-1]):
        target = _step(target, part, first=index == 0, key=key)
    if not isinstance(target, dict):
        raise ConfigError(
            f"{key_shown(key)}: name the camera, for example camera.0.{key_shown(path[-1])}"
        )
    if value is None and path[:-1] == _OWN_KEYS and path[-1] in target:
        del target[path[-1]]
    else:
        target[path[-1]] = value


def _step(target: Any, part: str, *, first: bool, key: str) -> Any:
    if isinstance(target, list):
        names = [camera.get("name", CameraConfig().name) for camera in target]
        if part in names:
            return target[names.index(part)]
        if part.isdecimal() and int(part) < len(target):
            return target[int(part)]
        shown = [redacted(str(name)) for name in names]
        raise ConfigError(
            f"{key_shown(key)}: no camera {key_shown(part)!r}", fix=f"cameras: {', '.join(shown)}"
        )
    if not isinstance(target, dict):
        raise ConfigError(f"{key_shown(key)}: {key_shown(part)!r} is inside a value, not a section")
    return target.setdefault(part, [{}] if first and part == "camera" else {})


def _all_problems(error: ValidationError, content: Mapping[str, Any]) -> list[str]:
    """Describes the problems of a content, also those between several keys or sections, which
    pydantic checks only where each of them is valid: those of the content without the invalid ones.
    A problem that names a removed key may come from that key's default, and is omitted."""
    problems: list[str] = []
    rest = copy.deepcopy(dict(content))
    removed: set[str] = set()
    further: ValidationError | None = error
    while further is not None:
        details = _details(further)
        texts = [_described(problem, rest) for problem in details]
        problems += [text for text in texts if not any(key in text for key in removed)]
        keys = [(problem["type"], _remove(rest, problem["loc"])) for problem in details]
        removed |= {key for kind, key in keys if key and kind != "extra_forbidden"}
        further = _error_of(rest) if any(key for _, key in keys) else None
    return problems


def _error_of(content: Mapping[str, Any]) -> ValidationError | None:
    try:
        NodeConfig.model_validate(content)
    except ValidationError as error:
        return error
    return None


def _remove(content: dict[str, Any], location: tuple[int | str, ...]) -> str | None:
    """Removes the innermost key at a location from a content; returns the key, or None if the
    location is no key of the content."""
    target: Any = content
    innermost: tuple[dict[str, Any], str] | None = None
    for part in location:
        if isinstance(target, dict) and isinstance(part, str) and part in target:
            innermost = target, part
        elif not (
            isinstance(target, list | tuple) and isinstance(part, int) and part < len(target)
        ):
            break
        target = target[part]
    if innermost is None:
        return None
    section, key = innermost
    del section[key]
    return key


def _details(error: ValidationError) -> list["ErrorDetails"]:
    """Returns the innermost errors: pydantic counts a list of wrong items as too short as well."""
    problems = error.errors()
    within = {
        problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))
    }
    return [problem for problem in problems if problem["loc"] not in within]


def _described(problem: "ErrorDetails", content: Mapping[str, Any]) -> str:
    key = _dotted(problem["loc"], content)
    value = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            shown_value = "" if isinstance(value, str) else f" (its value is {value_shown(value)})"
            return f"{key}: unknown key{shown_value}; {_nearest(problem['loc'])}"
        case "value_error":
            reason = str(problem["ctx"]["error"])
            return f"{key}: {reason}" if key else reason
        case "tuple_type":
            if problem["loc"] == ("camera",):
                return f"{key} = {value_shown(value)}: write each camera as a [[camera]] section"
            return f"{key} = {value_shown(value)}: write a list, in brackets: [...]"
        case "model_type" | "model_attributes_type":
            section = "[[camera]]" if problem["loc"][0] == "camera" else f"[{key}]"
            return f"{key} = {value_shown(value)}: must be a section, {section}"
        case "bool_type" | "bool_parsing":
            return f"{key} = {value_shown(value)}: should be true or false, without quotes"
        case "too_short" | "too_long" as kind:
            at, bound = _BOUND_OF_LENGTH[kind]
            length, number = problem["ctx"]["actual_length"], problem["ctx"][bound]
            return f"{key}: should have {at} {number} item{'s' * (number != 1)}, and has {length}"
        case "string_unicode":
            return f"{key} = {value_shown(value)}: is not UTF-8 text; rename the file"
        case "string_pattern_mismatch":
            return f"{key} = {value_shown(value)}: must match {problem['ctx']['pattern']}"
    if value is None:
        return f"{key} = null: cannot be unset{_default_of(problem['loc'])}"
    allowed = problem["msg"].removeprefix("Input ")
    message = f"{key} = {value_shown(value)}: {allowed[0].lower()}{allowed[1:]}"
    limits = _range_of(problem["loc"]) if problem["type"] in _OF_NUMBERS else None
    return f"{message}; allowed: {limits}" if limits else message


_BOUND_OF_LENGTH = {"too_short": ("at least", "min_length"), "too_long": ("at most", "max_length")}

_OF_NUMBERS = frozenset(
    {
        "finite_number",
        "float_type",
        "greater_than",
        "greater_than_equal",
        "int_type",
        "less_than",
        "less_than_equal",
    }
)


def _range_of(location: tuple[int | str, ...]) -> str | None:
    """Returns the allowed range of the number at a location, `0.01 to 1000`; None if the location
    is no key with a range."""
    if not location or not isinstance(location[-1], str):
        return None
    field = _section_at(location[:-1]).model_fields.get(location[-1])
    limits = _limits(field) if field is not None else {}
    if "ge" not in limits or "le" not in limits:
        return None
    return f"{limits['ge']:.6g} to {limits['le']:.6g}"


def _default_of(location: tuple[int | str, ...]) -> str:
    """Returns what a key that cannot be unset can be set to, its default, as the end of a sentence;
    empty if the location is no key with a default that fits into one."""
    field = _section_at(location[:-1]).model_fields.get(str(location[-1]))
    if field is None or not isinstance(field.default, str | int | float | Path):
        return ""
    return f"; its default is {json.dumps(field.default, default=str)}"


def _limits(field: FieldInfo) -> dict[str, float]:
    """Returns the bounds `ge` and `le` of a field, or of the type in an optional field."""
    bounds: dict[str, float] = {}
    inner = [
        inner_constraint
        for member in get_args(field.annotation)
        for inner_constraint in getattr(member, "__metadata__", ())
    ]
    for constraint in (*field.metadata, *inner):
        for part in getattr(constraint, "metadata", (constraint,)):
            for bound_name in ("ge", "le"):
                if (limit := getattr(part, bound_name, None)) is not None:
                    bounds[bound_name] = limit
    return bounds


def _dotted(location: tuple[int | str, ...], content: Mapping[str, Any]) -> str:
    parts = [key_shown(str(part)) for part in location]
    if len(location) > 1 and location[0] == "camera" and isinstance(location[1], int):
        name = _camera_name(content, location[1])
        parts[:2] = [f"camera.{name}" if name else f"camera.{location[1]}"]
    return ".".join(parts)


def _camera_name(content: Mapping[str, Any], index: int) -> str | None:
    camera = content["camera"][index]
    name = camera.get("name") if isinstance(camera, Mapping) else None
    return redacted(name) if isinstance(name, str) else None


def _nearest(location: tuple[int | str, ...]) -> str:
    section = _section_at(location[:-1])
    keys = list(section.model_fields)
    similar = difflib.get_close_matches(str(location[-1]), keys, n=1, cutoff=0.5)
    allowed = f"keys here: {', '.join(keys)}"
    return f"did you mean {similar[0]}? {allowed}" if similar else allowed


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Returns the section that contains a location."""
    section: type[BaseModel] = NodeConfig
    for part in location:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    sections = (_section_in(argument) for argument in get_args(annotation))
    return next((section for section in sections if section is not None), None)
