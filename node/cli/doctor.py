"""`perception-node doctor`: what this computer has and what is wrong."""

import dataclasses
import json
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from node.cli.options import CONFIG, SETTINGS, configured, together

_MARKS = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "wrong": "[red]wrong[/]"}


@click.command("doctor")
@together(CONFIG, SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(config_file: Path | None, settings: tuple[str, ...], as_json: bool) -> None:
    """Say what this computer has (cameras, GPU, runtimes, OpenCV's back ends, threads), what is
    wrong, and the mend. Exit 1 if anything is wrong.

    Example: perception-node doctor --config config/default.toml
    """
    config = configured(config_file, settings)
    from node.doctor import examine

    console = Console(soft_wrap=True, highlight=False)
    wrong = 0
    for finding in examine(config):
        wrong += finding.verdict == "wrong"
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(finding)))
            continue
        console.print(f"{_MARKS[finding.verdict]}  {finding.what}: {escape(finding.found)}")
        if finding.mend:
            console.print(f"         {escape(finding.mend)}")
    if wrong:
        raise SystemExit(1)
