"""JSON lines to a file or to stdout."""

import contextlib
from collections.abc import Callable, Iterator

from node.errors import ConfigError


@contextlib.contextmanager
def json_lines(target: str | None) -> Iterator[Callable[[str], None]]:
    """A function that writes one line to `target`: a path, `-` for stdout, None for nowhere.

    Each line is flushed, so that a reader of a pipe sees it at once. Raises ConfigError where the
    file cannot be written.
    """
    if target is None:
        yield lambda line: None
        return
    if target == "-":
        yield lambda line: print(line, flush=True)
        return
    try:
        file = open(target, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    with file:
        yield lambda line: print(line, file=file, flush=True)
