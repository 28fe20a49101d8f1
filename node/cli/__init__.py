"""The command line: the list of commands, and the exit code of each error.

Each command is a module that is imported when it is used, so that `--help` does not wait for torch.
"""

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
    "record": "Run the node, and record its frames and messages.",
    "report": "Write one HTML page that summarises a recording.",
    "export": "Write a recording as video, JSON lines, a dataset or a ROS 2 bag.",
    "recover": "Repair recordings that were cut off or damaged.",
    "watch": "Print the labels that a node publishes.",
    "label": "Label pictures, folders and videos offline.",
    "ctl": "Control a running node: pause, settings, model, snapshot, recording.",
    "models": "List the models, fetch their weights, begin the card of a model file.",
    "tune": "Find the fastest runtime and precision of a model on this computer.",
    "bench": "Measure this computer: against the plain loop, or stage by stage.",
    "doctor": "Check this computer, and report each problem with its fix.",
    "keys": "Generate keys, so that only known clients receive labels or control the node.",
    "config": "Check a configuration file, or write one for this computer's camera.",
    "completion": "Print the completion script of a shell.",
}


_ECHOES = (click.UsageError, click.NoSuchOption)
"""Errors of click that repeat an unknown argument. That argument may be the rest of an address that
the shell split at its spaces, and contain its password."""


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
    not be opened, or a file of several could not be read, 4 the model failed again and again or
    hung.

    Example: perception-node run --source demo
    """


def command_line(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; a user's mistake prints one line on stderr."""
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
        except OSError as error:  # the computer's fault, not a defect: no traceback
            reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            _say(reason, arguments)
            return 1
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0
            # Of a signal before the command began: a comparison that was not made is no success.
            if not code and any(argument.startswith("--expect") for argument in arguments):
                _say("stopped before the comparison", arguments)
                return 1
            return code
        return 0


def _say(text: str, arguments: Sequence[str]) -> None:
    """Prints an error, with the passwords hidden of stream addresses among the arguments."""
    say(f"error: {hidden(text, addresses_in(arguments))}", err=True)


def _show(error: click.ClickException, arguments: Sequence[str]) -> None:
    addresses = addresses_in(arguments)
    if addresses and type(error) in _ECHOES:
        error = click.UsageError(
            "something stands beside an address and is no option; put an address in quotes, with "
            "its spaces (it is not shown here, as it may hold a password)",
            getattr(error, "ctx", None),
        )
    elif isinstance(error, click.NoSuchOption):
        error = _of_the_group(error) or error
    output = io.StringIO()
    error.show(output)
    click.echo(printable_lines(hidden(output.getvalue(), addresses)), err=True, nl=False)


def _of_the_group(error: click.NoSuchOption) -> click.UsageError | None:
    """Returns an error that says where an option of a group stands, which followed the group's
    command; None for an option that no group has."""
    context = error.ctx and error.ctx.parent
    while context is not None:
        if any(error.option_name in parameter.opts for parameter in context.command.params):
            return click.UsageError(
                f"{error.option_name} stands before the command: {context.command_path} "
                f"{error.option_name} ... {context.invoked_subcommand}",
                error.ctx,
            )
        context = context.parent
    return None


def _complete(instruction: str) -> int:
    """Answers the shell's completion request; returns the exit code."""
    from click.shell_completion import shell_complete

    return shell_complete(commands, {}, "perception-node", "_PERCEPTION_NODE_COMPLETE", instruction)
