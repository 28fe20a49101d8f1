"""say: prints one line on stdout or stderr, safe for names with control characters."""

import click

from perception_client.text import printable


def say(text: str, *, err: bool = False) -> None:
    """Prints a line with its control characters escaped."""
    click.echo(printable(text), err=err)
