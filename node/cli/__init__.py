"""The command line: which commands there are, and how an error ends one. Each command is a module
that is loaded when it is used, so that `--help` does not wait for torch."""

import importlib
import io
import os
from collections.abc import Sequence

import click

from node import __version__
from node.cli.say import say
from node.cli.standard_streams import ReaderGoneError
from node.cli.stopping import stop_on_signals
from node.config.redact import addresses_in, hidden
from node.errors import PerceptionError
from perception_client.text import printable_lines

COMMANDS = {
    "run": "Label a camera live: the newest frame wins.",
    "replay": "Label every frame of a recording once, in order.",
    "record": "Do as run does, and record what is seen and said.",
    "report": "Write one HTML page that tells what happened in a recording.",
    "export": "Write a recording as video, JSON lines, a dataset or a ROS 2 bag.",
    "recover": "Mend recordings that were cut off or damaged.",
    "watch": "Print the labels that a node publishes.",
    "label": "Label pictures, folders and videos offline.",
    "ctl": "Ask a running node to pause, change settings or its model, or for a snapshot.",
    "models": "List the models and whether their weights are here; fetch them.",
    "tune": "Find the fastest way to run a model on this computer.",
    "bench": "Measure this computer: against the plain loop, or stage by stage.",
    "doctor": "Say what this computer has, what is wrong, and the fix.",
    "keys": "Make keys, so that only known clients receive labels or control the node.",
    "config": "Check a configuration file, or write one for the camera that is found.",
    "completion": "Print what makes the shell complete commands and options.",
}


_ECHOES = (click.UsageError, click.NoSuchOption)
"""Errors of click that repeat an argument which it does not know: the rest of an address that the
shell took apart at its spaces."""


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"node.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="perception-node")
def commands() -> None:
    """Labels camera frames on a robot and broadcasts the labels to its control processes.

    Exit codes: 0 done, 1 a check failed, 2 bad usage or configuration, 3 a source or model could
    not be opened, 4 the model failed again and again or hung.

    Example: perception-node run --source demo
    """


def command_line(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; a mistake of the user's is one line on stderr."""
    if "_PERCEPTION_NODE_COMPLETE" in os.environ:
        return _complete(os.environ["_PERCEPTION_NODE_COMPLETE"])
    with stop_on_signals():
        try:
            commands.main(arguments, prog_name="perception-node", standalone_mode=False)
        except ReaderGoneError as gone:
            return gone.exit_code
        except PerceptionError as error:
            _say(str(error), arguments)
            return error.exit_code
        except click.exceptions.Exit as exit_:
            return exit_.exit_code
        except click.ClickException as error:
            _show(error, arguments)
            return error.exit_code
        except OSError as error:  # of the computer: no mistake of the program's to trace
            said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            _say(said, arguments)
            return 1
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else 0
        return 0


def _say(what: str, arguments: Sequence[str]) -> None:
    """Prints an error, which may name an argument that is a stream's address."""
    say(f"error: {hidden(what, addresses_in(arguments))}", err=True)


def _show(error: click.ClickException, arguments: Sequence[str]) -> None:
    addresses = addresses_in(arguments)
    if addresses and type(error) in _ECHOES:
        error = click.UsageError(
            "something stands beside an address and is no option; put an address in quotes, with "
            "its spaces (it is not shown here, as it may hold a password)",
            getattr(error, "ctx", None),
        )
    told = io.StringIO()
    error.show(told)
    click.echo(printable_lines(hidden(told.getvalue(), addresses)), err=True, nl=False)


def _complete(instruction: str) -> int:
    """What the shell asks for while somebody types."""
    from click.shell_completion import shell_complete

    return shell_complete(commands, {}, "perception-node", "_PERCEPTION_NODE_COMPLETE", instruction)
