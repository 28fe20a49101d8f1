"""`perception-node models`: the catalogue."""

import dataclasses
import json

import click
from rich.console import Console
from rich.table import Table


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(as_json: bool) -> None:
    """List the models by name, task and size, and whether their weights are already here.

    Example: perception-node models
    """
    from node.perception.catalogue import entries

    if as_json:
        for entry in entries():
            click.echo(json.dumps(dataclasses.asdict(entry)))
        return
    table = Table("name", "task", "weights", "here", box=None, pad_edge=False)
    for entry in entries():
        size = f"{entry.size_mb:.1f} MB" if entry.size_mb is not None else "?"
        table.add_row(entry.name, entry.task, size, "yes" if entry.weights_here else "download")
    console = Console()
    console.print(table)
    if not console.is_terminal:
        return
    console.print("\nAny of them: perception-node run --model NAME", highlight=False)
