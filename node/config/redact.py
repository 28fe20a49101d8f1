"""What of a source may be shown. Addresses of cameras carry passwords in every form that a vendor
could think of, so nothing of them is shown but what is known to be none: scheme, host and port."""

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
    """A source as it may be shown. An address keeps its scheme, and its host and port where no
    reading of it makes them a part of the password; a pipeline keeps its first element. Cameras,
    devices, files and the like are shown as they are.
    """
    if source.startswith("gst:"):
        found = _ELEMENT.match(source)
        return f"gst:{found[1] if found else ''} ..."
    if source.startswith(("ipc://", "file://")):
        return source if _is_plain(source.partition("://")[2]) else f"{source[:7]}..."
    scheme, separator, rest = source.partition("://")
    if separator:
        return f"{scheme}://{_host(rest)}" if _SCHEME.fullmatch(scheme) else HIDDEN
    return source if _is_plain(source) else HIDDEN


def value_shown(value: object) -> str:
    """A value of a configuration as an error shows it: somebody may have put a source in the wrong
    place."""
    if isinstance(value, str):
        text = repr(redacted(value))
    elif _holds_text(value):
        text = "a table" if isinstance(value, Mapping) else "a list"
    else:
        text = _written(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def key_shown(key: str) -> str:
    """A key of a configuration as an error shows it: where an address with an equals sign stands in
    the place of `key=value`, a part of it is taken for the key."""
    return key if _KEY_NAME.fullmatch(key) else HIDDEN


def hidden(text: str, sources: Iterable[str]) -> str:
    """A text without these sources, in whatever form they got into it: as they are, quoted, as the
    path of a file."""
    for source in sorted(sources, key=len, reverse=True):
        shown = redacted(source)
        if shown != source:
            for form in _forms(source):
                text = text.replace(form, shown)
    return text


def addresses_in(arguments: Sequence[str]) -> tuple[str, ...]:
    """The arguments of a command, and values in them (`--source=...`, `--set key=...`), of which
    not all may be shown."""
    found = []
    for argument in arguments:
        value = argument
        while (key := _KEY.match(value)) is not None:
            value = value[key.end() :]
        bare = value.strip().strip("\"'")
        if redacted(value) != value or redacted(bare) != bare:
            found += [argument, value, bare]
    return tuple(x for x in dict.fromkeys(found) if redacted(x) != x)


def _written(value: object) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # repr of an integer stops at 4300 digits
        return "(too long to be shown)"


def _holds_text(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    if isinstance(value, list | tuple | set):
        return any(_holds_text(item) for item in value)
    return isinstance(value, str | bytes | Path)


def _host(rest: str) -> str:
    """Host and port of an address, where there is one reading of it only: a slash, a question mark
    or a number sign in a password makes the host a part of it for some, and not for others."""
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        return "..."
    host = authority.rpartition("@")[2]
    if not _HOST.fullmatch(host):
        return "..."
    return host if authority == rest else f"{host}/..."


def _is_plain(source: str) -> bool:
    """Whether a text without a scheme is certainly no address whose scheme was mistyped: the name
    of a file that is there, or one without what passwords are told by."""
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
