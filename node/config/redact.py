"""Redaction: which part of a source may appear in messages. Passwords occur in camera addresses in
many vendor-specific forms, so only the parts that cannot be a password are kept: scheme, host and
port."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

HIDDEN = "(an address, not shown)"
_MOST_SHOWN = 60
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._*-]+)(:[0-9]{1,5})?")
_MISTYPED = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]+:/"
    r"|(rtsps?|rtmps?|rtp|srt|mms|udp|tcp|tls|https?|ftps?|hls|onvif)\s*([:;]|//|\\)",
    re.IGNORECASE,
)
_ELEMENT = re.compile(r"gst:\s*([a-z][a-z0-9_-]*)(?=[\s!]|$)")
_KEY_NAME = re.compile(r"[\w. -]{1,64}")
_KEY = re.compile(r"-{0,2}[A-Za-z0-9_.-]+=")


def redacted(source: str) -> str:
    """Returns a source in a form that may be shown. An address keeps its scheme, and its host and
    port unless some parser would read them as part of the password. A pipeline keeps its first
    element. Camera numbers, devices, files and other names stay unchanged."""
    if source.startswith("gst:"):
        element = _ELEMENT.match(source)
        return f"gst:{element[1] if element else ''} ..."
    if source.startswith(("ipc://", "file://")):
        return source if _is_plain(source.partition("://")[2]) else f"{source[:7]}..."
    scheme, separator, rest = source.partition("://")
    if separator:
        return f"{scheme}://{_host(rest)}" if _SCHEME.fullmatch(scheme) else HIDDEN
    return source if _is_plain(source) else HIDDEN


def value_shown(value: object) -> str:
    """Returns a value of the configuration for an error message. Every text is redacted, since a
    source may stand at the wrong key."""
    if value is None:
        text = "null"
    elif isinstance(value, str):
        text = repr(redacted(value))
    elif _holds_text(value):
        text = "a table" if isinstance(value, Mapping) else "a list"
    else:
        text = _safe_repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def key_shown(key: str) -> str:
    """Returns a key of the configuration for an error message. For an address with an equals sign
    in place of `key=value`, part of the address is parsed as the key, so unusual keys are
    hidden."""
    return key if _KEY_NAME.fullmatch(key) else HIDDEN


def hidden(text: str, sources: Iterable[str]) -> str:
    """Redacts sources within a text, in each form in which they may occur: unchanged, escaped, as a
    file path."""
    for source in sorted(sources, key=len, reverse=True):
        shown = redacted(source)
        if shown != source:
            for form in _forms(source):
                text = text.replace(form, shown)
    return text


def addresses_in(arguments: Sequence[str]) -> tuple[str, ...]:
    """Returns the arguments of a command, and the values in them (`--source=...`, `--set key=...`),
    that need redaction."""
    candidates = []
    for argument in arguments:
        value = argument
        while (key := _KEY.match(value)) is not None:
            value = value[key.end() :]
        bare = value.strip().strip("\"'")
        if redacted(value) != value or redacted(bare) != bare:
            candidates += [argument, value, bare]
    return tuple(
        candidate for candidate in dict.fromkeys(candidates) if redacted(candidate) != candidate
    )


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):
        # repr() of an integer fails above 4300 digits.
        return "(too long to be shown)"


def _holds_text(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    if isinstance(value, list | tuple | set):
        return any(_holds_text(item) for item in value)
    return isinstance(value, str | bytes | Path)


def _host(rest: str) -> str:
    """Returns host and port of an address if they are unambiguous: parsers disagree on a slash,
    question mark or number sign within a password, and with it on where the host begins."""
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        return "..."
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host):
        return "..."
    return host if authority == rest else f"{host}/..."


def _is_plain(source: str) -> bool:
    """Whether a text without `://` is certainly no address with a mistyped scheme: an existing
    file, or a text without the characters that separate a password."""
    if "@" not in source and "=" not in source and _MISTYPED.match(source) is None:
        return True
    try:
        return os.path.lexists(Path(source).expanduser())
    except (OSError, RuntimeError, ValueError):
        return False


def _forms(source: str) -> list[str]:
    forms = [source, repr(source)[1:-1], source.encode("unicode_escape").decode("ascii")]
    if "\0" not in source:
        forms.append(str(Path(source)))
    return sorted({form for form in forms if len(form) >= 4}, key=len, reverse=True)
