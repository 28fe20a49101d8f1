"""say: one line on stdout or stderr, whatever the names in it hold."""

import click

from perception_client.text import printable


def say(text: str, *, err: bool = False) -> None:
    """Prints a line with its control characters written out."""
    click.echo(printable(text), err=err)
