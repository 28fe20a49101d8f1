"""What a comparison found: a table for people, JSON for machines."""

import json
from collections import Counter
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from node.replay.golden import Verdict
from perception_client.text import printable, printable_json

MOST_SHOWN = 20


def print_verdict(verdict: Verdict, *, as_json: bool) -> None:
    """On stdout."""
    if as_json:
        told = json.dumps({"same": verdict.same, **asdict(verdict)}, ensure_ascii=False)
        click.echo(printable_json(told))
        return
    if not verdict.same:
        Console(highlight=False, markup=False, width=None).print(_table(verdict))
        hidden = len(verdict.differences) - MOST_SHOWN
        if hidden > 0:
            click.echo(f"... and {hidden} more; --json shows all")
    counts = Counter(one.kind for one in verdict.differences)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    within = f" within {verdict.tolerance:g}" if verdict.tolerance else ""
    result = f"the same as expected{within}" if verdict.same else f"not as expected{within}: {told}"
    click.echo(f"{verdict.messages} messages, {result}")


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("line", "camera", "frame", "at", "change", "of", "expected", "got"):
        table.add_column(column, overflow="fold")
    for one in verdict.differences[:MOST_SHOWN]:
        table.add_row(
            "" if one.line is None else str(one.line),
            printable(one.camera),
            "" if one.frame_id is None else str(one.frame_id),
            "" if one.media_ns is None else f"{one.media_ns / 1e9:.3f} s",
            one.kind,
            printable(one.what),
            printable(one.expected),
            printable(one.got),
        )
    return table
