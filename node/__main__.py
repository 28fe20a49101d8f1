"""`python -m node` and the command `perception-node`."""

import os
import sys
from pathlib import Path

from node.cli import command_line
from node.cli.standard_streams import lost_result, take_over
from node.errors import OutputError

NO_HOME = "/nonexistent"
"""Debian's home of users without one."""


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
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
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME


if __name__ == "__main__":
    main()
