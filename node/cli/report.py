"""`perception-node report`: what happened in a recording, as one HTML page."""

from pathlib import Path

import click
from rich.console import Console

from node.cli.media import share_bar
from node.cli.options import LIMITS, limited
from node.cli.say import say
from node.config.redact import redacted
from node.errors import SourceError
from perception_client.paths import expanded


@click.command("report")
@click.argument("source", metavar="RECORDING")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Default: beside the recording, with .html in place of .mcap.",
)  # fmt: skip
@LIMITS
def command(source: str, output: Path | None, settings: tuple[str, ...]) -> None:
    """Write one HTML page: timeline of labels with pictures, latency, drops, gaps, events.

    The page holds all that it shows; send it to somebody, or open it in a browser.

    Example: perception-node report drive.mcap --output drive.html
    """
    limited(settings)
    from node.recording.reader import Recording, find_recording
    from node.recording.report.report import write_report

    files = find_recording(source)
    if files is None:
        raise SourceError(
            f"{redacted(str(source))} names no recording (*.mcap), and is no folder of some"
        )
    path = expanded(source)
    to = output or (path / "report.html" if path.is_dir() else files[0].with_suffix(".html"))
    recording = Recording(files)
    with share_bar(Console(stderr=True), "report") as progress:
        write_report(recording, to, progress)
    say(str(to))
