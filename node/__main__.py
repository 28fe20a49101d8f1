"""`python -m node` and the command `perception-node`."""

import os
import signal
import sys

NO_HOME = "/nonexistent"
"""Debian's home of users without one."""


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # During the imports, a third of a second, Ctrl-C would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
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
