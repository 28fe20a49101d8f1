"""JSON lines to a file or to stdout."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from node.cli.standard_streams import ESCAPED, print_line
from node.errors import ConfigError, OutputError

Write = Callable[[str], None]


@contextlib.contextmanager
def json_lines(target: str | None) -> Iterator[Write]:
    """A function that writes one line to `target`: a path, `-` for stdout, None for nowhere.

    Each line is flushed, so that a reader of a pipe sees it at once. What a file held before goes
    with the first line, or with the end of a run without one; a command that fails before loses
    nothing. Raises ConfigError where the file cannot be opened, OutputError where a line cannot be
    written, ReaderGoneError where nobody reads stdout any more.
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
    """Lines that take the place of what a file held before."""

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
                "it; make room, or name another file, and run this again"
            ) from error
        self._written += 1

    def empty(self) -> None:
        if not self._begun and self._path.is_file():  # not a device or a pipe
            self._file.truncate(0)
        self._begun = True

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a line that was reported already
            self._file.close()


def _opened(path: Path) -> TextIO:
    try:
        return path.open(
            "a", encoding="utf-8", errors=ESCAPED
        )  # unlike "w", it empties nothing yet
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
