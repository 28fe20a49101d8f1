"""`perception-node models`: lists the models, fetches their weights, and writes model cards."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from node.cli.say import say
from node.errors import ModelError, OutputError
from node.process.output_files import write_whole

if TYPE_CHECKING:
    from node.perception.models.guessed_card import GuessedCard


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


@command.command("card")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def card_command(file: Path) -> None:
    """Write the model card of an ONNX or OpenVINO FILE beside it, from what the file says about
    itself; a comment marks each guess. A card that is there already stays.

    Example: perception-node models card detector.onnx
    """
    from node.perception.models.card_text import card_text
    from node.perception.models.guessed_card import NO_NAMES, guess_card
    from node.perception.models.model_card import DESCRIBED, card_file, has_card
    from node.perception.models.model_file import check_file

    check_file(file)
    if file.suffix.lower() not in DESCRIBED:
        raise ModelError(f"model {file}: only {' and '.join(DESCRIBED)} files describe themselves")
    card = card_file(file)
    if has_card(file):
        raise OutputError(f"{card} is there already", fix="rename it, to have another written")
    guess = guess_card(file)
    write_whole(card, card_text(file, guess).encode())
    text = f"{card} is written"
    if steps := list(_left_to_do(card, guess)):
        text += f"; before it works, {', and '.join(steps)}"
    is_known = guess.decoder is not None or guess.kind != "detect"
    if is_known and guess.missing not in (None, NO_NAMES):
        text += f"; check it: {guess.missing}"
    say(text)


def _left_to_do(card: Path, guess: "GuessedCard") -> Iterator[str]:
    """Yields what a user has to add to a written card, in words."""
    if guess.labels is None:
        number = f"the {guess.classes} names" if guess.classes else "the names"
        yield f"write {card.parent / 'labels.txt'}, {number} of the classes, one a line"
    if guess.kind == "detect" and guess.decoder is None:
        yield f"name its decoder, for the outputs {guess.outputs}"


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
