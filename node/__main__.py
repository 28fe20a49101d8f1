"""`python -m node` and the command `perception-node`."""

import contextlib
import os
import sys

from node.cli import command_line


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    code = command_line(sys.argv[1:])
    with contextlib.suppress(OSError):  # nobody is left to read it
        sys.stdout.flush()
        sys.stderr.flush()
    # Not sys.exit: a thread that hangs in a camera's driver must not hold the process, and what
    # has to be put away was put away before the command returned.
    os._exit(code)


if __name__ == "__main__":
    main()
