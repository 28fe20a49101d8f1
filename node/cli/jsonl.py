"""JSON lines to a file or to stdout."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from node.errors import ConfigError

Write = Callable[[str], None]


@contextlib.contextmanager
def json_lines(target: str | None) -> Iterator[Write]:
    """A function that writes one line to `target`: a path, `-` for stdout, None for nowhere.

    Each line is flushed, so that a reader of a pipe sees it at once. What a file held before goes
    with the first line, or with the end of a run without one; a command that fails before loses
    nothing. Raises ConfigError where the file cannot be written.
    """
    if target is None:
        yield lambda line: None
    elif target == "-":
        yield lambda line: print(line, flush=True)
    else:
        with _opened(Path(target)) as file:
            lines = _Lines(file)
            yield lines.write
            lines.empty()


class _Lines:
    """Lines that take the place of what a file held before."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._begun = False

    def write(self, line: str) -> None:
        self.empty()
        print(line, file=self._file, flush=True)

    def empty(self) -> None:
        if not self._begun:
            self._file.truncate(0)
            self._begun = True


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a", encoding="utf-8")  # unlike "w", it empties nothing yet
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
