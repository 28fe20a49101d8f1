"""Standard streams: stdin, stdout and stderr as commands can rely on, however they were started.

- One that is closed is /dev/null, so that no socket or file that is opened later gets its number
  and what is printed.
- Where stdout's reader has gone (`| head -1`), or it cannot be written (a full disk), a command
  still does all that it was asked for; one that prints for as long as it runs (`print_line`) ends.
  The first is no error; the second prints one line and never exits 0.
- What cannot be written to stderr is lost: there is nowhere left to say so.
- What an encoding cannot write comes as JSON's escapes, `\\u00e9`.
"""

import codecs
import contextlib
import errno
import io
import json
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from node.errors import OutputError, PerceptionError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ESCAPED = "perception_node.escaped"
"""Handler of characters that an encoding cannot write, for `open` and `str.encode`."""


class ReaderGoneError(PerceptionError):
    """Whoever read our stdout has gone: the command ends, and nothing is wrong."""

    exit_code = 0


class _Stdout(io.FileIO):
    """Descriptor 1. reader_has_gone: nobody reads any more. failure: why results are missing, which
    is to be said once."""

    reader_has_gone = False
    failure: str | None = None
    said = False

    def say_failure(self) -> str | None:
        """Why results are missing; None where that was printed already."""
        failure = None if self.said else self.failure
        self.said = self.said or failure is not None
        return failure

    def write(self, data: "ReadableBuffer") -> int:
        """All of it; nothing more once that failed, or the reader has gone."""
        view = memoryview(data).cast("B")
        written = 0
        while written < len(view) and not self.reader_has_gone and self.failure is None:
            try:
                count = super().write(view[written:])
            except BrokenPipeError:
                self.reader_has_gone = True
            except OSError as error:
                if error.errno == errno.EIO and self.isatty():  # a terminal that was closed
                    self.reader_has_gone = True
                    continue
                why = error.strerror
                self.failure = f"stdout cannot be written: {why}; results are missing from it"
            else:
                if count is None:  # somebody made it non-blocking
                    select.select([], [self], [])
                written += count or 0
        return len(view)


class _Stderr(io.FileIO):
    def write(self, data: "ReadableBuffer") -> int:
        view = memoryview(data).cast("B")
        with contextlib.suppress(OSError):
            super().write(view)
        return len(view)


def take_over() -> None:
    """Puts streams with these properties in place of the process's own. Before anything else is
    opened, threads are started, or a line is printed."""
    _reserve()
    if not os.environ.get("COLUMNS", "80").strip("0"):  # some shells and jobs: tables of no width
        del os.environ["COLUMNS"]
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Stdout(1, "wb", closefd=False), sys.stdout, ESCAPED)
    sys.stderr = _text(_Stderr(2, "wb", closefd=False), sys.stderr, "backslashreplace")


def lost_result() -> str | None:
    """Why results are missing from stdout; None where none are, or somebody said so already."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    return raw.say_failure() if isinstance(raw, _Stdout) else None


def print_line(line: str) -> None:
    """One line of results to stdout, at once. Raises ReaderGoneError where nobody reads it, and
    OutputError where it cannot be written."""
    print(line, flush=True)
    raw = _raw(sys.stdout)
    if isinstance(raw, _Stdout) and raw.failure is not None:
        raise OutputError(raw.say_failure() or raw.failure)
    if isinstance(raw, _Stdout) and raw.reader_has_gone:
        raise ReaderGoneError("nobody reads stdout any more")


def _reserve() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _text(raw: io.FileIO, before: TextIO | None, errors: str) -> io.TextIOWrapper:
    buffered = io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffered,
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=errors,
        line_buffering=getattr(before, "line_buffering", False),
        write_through=getattr(before, "write_through", False),
    )


def _raw(stream: TextIO) -> object:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _escape)
