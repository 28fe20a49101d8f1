"""Standard streams: makes stdin, stdout and stderr reliable, however the process was started.

- A closed stream becomes /dev/null, so that no socket or file that is opened later gets its
  descriptor, and receives printed text.
- If stdout's reader has gone (`| head -1`), or stdout cannot be written (a full disk), a command
  still completes its work; a command that prints for as long as it runs (`print_line`) ends. A
  reader that has gone is no error; a failed write prints one line, and the exit code is not 0.
- Text that cannot be written to stderr is discarded, since no other place remains to report it.
- Characters that an encoding cannot represent become JSON escapes, `\\u00e9`.
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
"""Error handler for characters that an encoding cannot represent, for `open` and `str.encode`."""


class ReaderGoneError(PerceptionError):
    """The reader of stdout has gone: the command ends successfully."""

    exit_code = 0


class _Stdout(io.FileIO):
    """Descriptor 1.

    Attributes:
        reader_has_gone: the pipe's reader or the terminal is closed.
        failure: why results are missing; None while all were written.
        reported: `take_failure` has returned `failure`.
    """

    reader_has_gone = False
    failure: str | None = None
    reported = False

    def take_failure(self) -> str | None:
        """Returns why results are missing, the first time; later None."""
        failure = None if self.reported else self.failure
        self.reported = self.reported or failure is not None
        return failure

    def write(self, data: "ReadableBuffer") -> int:
        """Writes all of `data`; discards it after a failure, or when the reader has gone."""
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
                reason = error.strerror
                self.failure = f"stdout cannot be written: {reason}; results are missing from it"
            else:
                if count is None:  # another process made the descriptor non-blocking
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
    """Replaces the process's streams. Call it before any file is opened, any thread is started, or
    any line is printed."""
    _reserve()
    if not os.environ.get("COLUMNS", "80").strip("0"):  # some shells and jobs: tables of no width
        del os.environ["COLUMNS"]
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Stdout(1, "wb", closefd=False), sys.stdout, ESCAPED)
    sys.stderr = _text(_Stderr(2, "wb", closefd=False), sys.stderr, "backslashreplace")


def lost_result() -> str | None:
    """Returns why results are missing from stdout; None where none are, or it was reported."""
    sys.stdout.flush()
    raw = _raw(sys.stdout)
    return raw.take_failure() if isinstance(raw, _Stdout) else None


def print_line(line: str) -> None:
    """Prints one line of results to stdout, and flushes it. Raises ReaderGoneError where the reader
    has gone, and OutputError where stdout cannot be written."""
    print(line, flush=True)
    raw = _raw(sys.stdout)
    if isinstance(raw, _Stdout) and raw.failure is not None:
        raise OutputError(raw.take_failure() or raw.failure)
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
