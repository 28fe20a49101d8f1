"""say: one line on stdout or stderr, whatever the names in it hold."""

import click

from node.printable import printable


def say(text: str, *, err: bool = False) -> None:
    """Prints a line with its control characters written out."""
    click.echo(printable(text), err=err)
