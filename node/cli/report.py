"""`perception-node report`: summarises a recording as one HTML page."""

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

    The page is a single file without references; open it in a browser, or send it.

    Example: perception-node report drive.mcap --output drive.html
    """
    limited(settings)
    from node.recording.reader import Recording, find_recording
    from node.recording.report.report import write_report

    files = find_recording(source)
    if files is None:
        raise SourceError(
            f"{redacted(str(source))} is neither a recording (*.mcap) nor a folder of recordings"
        )
    path = expanded(source)
    to = output or (path / "report.html" if path.is_dir() else files[0].with_suffix(".html"))
    recording = Recording(files)
    with share_bar(Console(stderr=True), "report") as progress:
        write_report(recording, to, progress)
    say(str(to))
