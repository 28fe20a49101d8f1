"""`python -m node` and the command `perception-node`."""

import os
import signal
import sys

NO_HOME = "/nonexistent"
"""Debian's home of users without one."""


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    _end_on_signals()
    # Imported here: a signal during the imports, a third of a second, would print a traceback.
    from node.cli import command_line
    from node.cli.standard_streams import lost_result, take_over
    from node.errors import OutputError

    take_over()
    _ensure_home()
    code = command_line(sys.argv[1:])
    failure = lost_result()
    if failure is not None:
        print(f"error: {failure}", file=sys.stderr)
        code = code or OutputError.exit_code
    sys.stderr.flush()
    # Not sys.exit: a thread that hangs in a camera's driver must not keep the process alive. The
    # command has released its resources before it returned.
    os._exit(code)


def _end_on_signals() -> None:
    """Ends the process with exit code 0 at a signal, until the command line handles signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(0))


def _ensure_home() -> None:
    """Names a home for a user without HOME and without an entry in /etc/passwd, as in a container:
    libraries ask for it while they are imported."""
    from pathlib import Path

    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME


if __name__ == "__main__":
    main()
