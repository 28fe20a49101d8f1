"""`perception-node record`: labels live and records."""

import threading
from pathlib import Path

import click

from node.cli.options import (
    CONFIG,
    ENDPOINT,
    MODEL,
    MOST_S,
    RUNTIME,
    SETTINGS,
    Number,
    configured,
    together,
)
from node.cli.run import SOURCE, label_live
from node.cli.stopping import stoppable
from node.config.load import changed


@click.command("record")
@together(CONFIG, SOURCE, MODEL, RUNTIME, ENDPOINT, SETTINGS)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder of the files (recording.folder).",
)  # fmt: skip
@click.option("--duration", type=Number(0.1, MOST_S), metavar="S", help="Stop after S seconds.")
def command(
    config_file: Path | None,
    source: str | None,
    model: str | None,
    runtime: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    output: Path | None,
    duration: float | None,
) -> None:
    """Run the node, and record frames, labels, events and health into MCAP files.

    Ctrl-C stops. Foxglove opens the files, and `perception-node replay` labels them again.

    Example: perception-node record --source /dev/video0 --output recordings --duration 60
    """
    config = configured(
        config_file, settings, source=source, model=model, runtime=runtime, endpoint=endpoint
    )
    changes: dict[str, object] = {"recording.enabled": True}
    if output is not None:
        changes["recording.folder"] = str(output)
    config = changed(config, changes)
    with stoppable() as stop:
        timer = threading.Timer(duration, stop.set) if duration is not None else None
        label_live(config, stop, on_ready=lambda: _start(timer))
        if timer is not None:
            timer.cancel()


def _start(timer: threading.Timer | None) -> None:
    if timer is not None and timer.ident is None:  # called once for each model of [degrade]
        timer.daemon = True
        timer.start()
