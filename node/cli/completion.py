"""`perception-node completion`: the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

from node.cli import commands


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that lets the shell complete commands and options.

    Example: perception-node completion bash >> ~/.bashrc
    """
    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(commands, {}, "perception-node", "_PERCEPTION_NODE_COMPLETE").source())
