"""Writes JSON lines to a file or to stdout."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from node.cli.standard_streams import ESCAPED, print_line
from node.errors import ConfigError, OutputError
from node.process.output_files import remedy

Write = Callable[[str], None]


@contextlib.contextmanager
def json_lines(target: str | None) -> Iterator[Write]:
    """Yields a function that writes one line to `target`: a path, `-` for stdout, None for nowhere.

    Each line is flushed, so that the reader of a pipe gets it at once. The file's former content is
    deleted at the first line, or at the end of a successful run without lines; a command that fails
    earlier leaves it.

    Raises:
        ConfigError: the file cannot be opened.
        OutputError: a line cannot be written.
        ReaderGoneError: the reader of stdout has gone.
    """
    if target is None:
        yield lambda line: None
    elif target == "-":
        yield print_line
    else:
        lines = _Lines(Path(target))
        try:
            yield lines.write
            lines.empty()
        finally:
            lines.close()


class _Lines:
    """Lines that replace a file's former content."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _opened(path)
        self._begun = False
        self._written = 0

    def write(self, line: str) -> None:
        self.empty()
        try:
            print(line, file=self._file, flush=True)
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror}; {self._written} lines are in "
                f"it; {remedy(error, 'name another file')}, and run this again"
            ) from error
        self._written += 1

    def empty(self) -> None:
        if not self._begun and self._path.is_file():  # not a device or a pipe
            self._file.truncate(0)
        self._begun = True

    def close(self) -> None:
        with contextlib.suppress(OSError):  # `write` has reported it
            self._file.close()


def _opened(path: Path) -> TextIO:
    try:
        return path.open(
            "a", encoding="utf-8", errors=ESCAPED
        )  # unlike "w", it empties nothing yet
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
