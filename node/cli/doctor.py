"""`perception-node doctor`: checks this computer."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from node.cli.media import share_bar
from node.cli.options import CONFIG, SETTINGS, configured, load_perceiver, together
from node.config.load import changed
from node.config.schema import NodeConfig
from node.errors import ConfigError, SourceError
from perception_client.text import printable

if TYPE_CHECKING:
    from node.diagnostics.latency_probe import LatencyProbe
    from node.perception.perceiver import Perceiver

_MARKS = {"ok": "[green]ok[/]   ", "note": "[yellow]note[/] ", "wrong": "[red]wrong[/]"}


@click.command("doctor")
@together(CONFIG, SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--latency", is_flag=True,
    help="Measure the time from light to label instead, with a software picture that flashes.",
)  # fmt: skip
@click.option(
    "--camera", is_flag=True,
    help="With --latency: flash this computer's screen in front of the configured camera.",
)  # fmt: skip
@click.option("--flashes", type=click.IntRange(1, 1000), default=30, show_default=True)
def command(
    config_file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
    latency: bool,
    camera: bool,
    flashes: int,
) -> None:
    """Check this computer's cameras, GPU, runtimes, OpenCV back ends, threads, ports and disk, load
    the model and label a black frame, and report each problem with its fix. Exit 1 if anything is
    wrong.

    Example: perception-node doctor --config config/default.toml
    """
    config = configured(config_file, settings)
    if latency:
        _print_latency(_glass_to_label(config, camera, flashes), as_json)
        return
    if camera:
        raise ConfigError("--camera is for --latency")
    from node.diagnostics.doctor import examine

    console = Console(soft_wrap=True, highlight=False)
    wrong = 0

    def build(config: NodeConfig) -> "Perceiver":
        return load_perceiver(config, cameras=len(config.camera))

    for finding in examine(config, build):
        wrong += finding.verdict == "wrong"
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(finding)))
            continue
        line = escape(printable(f"{finding.what}: {finding.found}"))
        console.print(f"{_MARKS[finding.verdict]}  {line}")
        if finding.fix:
            console.print(f"         {escape(printable(finding.fix))}")
    if wrong:
        raise SystemExit(1)


def _glass_to_label(config: NodeConfig, camera: bool, flashes: int) -> "LatencyProbe":
    from node.diagnostics.latency_probe import SoftwareScreen, Window, measure, software_camera

    screen: SoftwareScreen | Window
    if camera:
        screen = Window()
    else:
        screen = SoftwareScreen()
        config = changed(config, software_camera(screen))
    with share_bar(Console(stderr=True), "flashing") as progress:
        return measure(config, load_perceiver, screen, flashes, progress)


def _print_latency(probe: "LatencyProbe", as_json: bool) -> None:
    summary = probe.summary()
    if as_json:
        click.echo(json.dumps(summary))
    elif not probe.total:
        raise SourceError(f"no label showed any of {probe.missed} flashes in time")
    else:
        click.echo(
            f"glass to label {summary['glass_to_label_ms']:.0f} ms (median of "
            f"{summary['flashes']} flashes), 95 % within {summary['p95_ms']:.0f}, longest "
            f"{summary['max_ms']:.0f}: {summary['glass_to_capture_ms']:.0f} to the frame's stamp, "
            f"{summary['capture_to_publish_ms']:.0f} from there to its labels; "
            f"{summary['missed']} missed"
        )
