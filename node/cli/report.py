"""`perception-node report`: summarises a recording as one HTML page."""

from pathlib import Path

import click
from rich.console import Console

from node.cli.media import share_bar
from node.cli.options import LIMITS, limited
from node.cli.recordings import CAMERAS, RUN, check_complete, opened
from node.cli.say import say
from perception_client.paths import expanded


@click.command("report")
@click.argument("source", metavar="RECORDING")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Default: beside the recording, with .html in place of .mcap; report.html for a folder.",
)  # fmt: skip
@RUN
@CAMERAS
@LIMITS
def command(
    source: str,
    output: Path | None,
    run: str | None,
    cameras: tuple[str, ...],
    settings: tuple[str, ...],
) -> None:
    """Write one HTML page: timeline of labels with pictures, latency, drops, gaps, events.

    The page is a single file without references; open it in a browser, or send it.

    Example: perception-node report drive.mcap --output drive.html
    """
    limited(settings)
    from node.recording.report.report import write_report

    recording = opened(source, run, cameras)
    path = expanded(source)
    of_folder = path.is_dir() and run is None
    to = output or (path / "report.html" if of_folder else recording.paths[0].with_suffix(".html"))
    with share_bar(Console(stderr=True), "report") as progress:
        write_report(recording, to, progress)
    say(str(to))
    check_complete(recording)
