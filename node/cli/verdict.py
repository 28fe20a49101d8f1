"""Prints the result of a comparison: a table for people, JSON for machines."""

import json
from collections import Counter
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from node.cli.say import say
from node.replay.golden import Verdict
from perception_client.text import printable, printable_json

MOST_SHOWN = 20


def print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """Prints a verdict on stdout."""
    if as_json:
        document = json.dumps({"same": verdict.same, **asdict(verdict)}, ensure_ascii=False)
        click.echo(printable_json(document))
        return
    if not verdict.same:
        Console(highlight=False, markup=False, width=None).print(_table(verdict))
        hidden = len(verdict.differences) - MOST_SHOWN
        if hidden > 0:
            click.echo(f"... and {hidden} more; --json shows all")
    counts = Counter(difference.kind for difference in verdict.differences)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    within = f" within {verdict.tolerance:g}" if verdict.tolerance else ""
    result = "the same as expected" if verdict.same else "not as expected"
    details = "" if verdict.same else f": {summary}"
    click.echo(f"{verdict.messages} messages, {result}{within}{details}")
    if any(difference.what == "model.runtime" for difference in verdict.differences):
        say("the file was made with another runtime; --tolerance 0.005 allows for that", err=True)


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("line", "camera", "frame", "at", "change", "of", "expected", "got"):
        table.add_column(column, overflow="fold")
    for difference in verdict.differences[:MOST_SHOWN]:
        media_ns = difference.media_ns
        table.add_row(
            "" if difference.line is None else str(difference.line),
            printable(difference.camera),
            "" if difference.frame_id is None else str(difference.frame_id),
            "" if media_ns is None else f"{media_ns / 1e9:.3f} s",
            difference.kind,
            printable(difference.what),
            printable(difference.expected),
            printable(difference.got),
        )
    return table
