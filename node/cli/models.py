"""`perception-node models`: lists the models, and fetches their weights."""

import dataclasses
import json

import click
from rich.console import Console
from rich.table import Table


@click.group("models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the models by name, task and size, and whether their weights are on this computer.

    Example: perception-node models
    """
    if context.invoked_subcommand is None:
        _list(as_json)


@command.command("fetch")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def fetch_command(names: tuple[str, ...]) -> None:
    """Download weights now, so that a robot needs no network later; prints the path of each.

    Example: perception-node models fetch yolox_nano
    """
    from node.perception.models.registry import fetch

    for name in names:
        file = fetch(name)
        if file is None:
            click.echo(f"{name}: has no weights, so there is nothing to download", err=True)
        else:
            click.echo(file)


def _list(as_json: bool) -> None:
    from node.perception.models.registry import entries

    if as_json:
        for entry in entries():
            click.echo(json.dumps(dataclasses.asdict(entry)))
        return
    table = Table("name", "task", "weights", "here", box=None, pad_edge=False)
    for entry in entries():
        size = "?" if entry.size_mb is None else f"{entry.size_mb:.1f} MB"
        if not entry.parameters:
            size = "no network"
        table.add_row(entry.name, entry.task, size, "yes" if entry.weights_here else "download")
    console = Console()
    console.print(table)
    if not console.is_terminal:
        return
    console.print("\nAny of them: perception-node run --model NAME", highlight=False)
