"""Shared by the commands that read recordings: their options, and how a recording is opened."""

import os
from typing import TYPE_CHECKING

import click

from node.cli.say import say
from node.config.redact import redacted
from node.errors import CHECK_NAME, SourceError
from perception_client.paths import expanded

if TYPE_CHECKING:
    from node.recording.reader import Recording

RUN = click.option(
    "--run", metavar="NAME",
    help="Of a folder with several runs, the one with this name or file; default: the newest.",
)  # fmt: skip
CAMERAS = click.option(
    "--camera", "cameras", multiple=True, metavar="NAME",
    help="Read only this camera of the recording; may be repeated.",
)  # fmt: skip


def check_complete(recording: "Recording") -> None:
    """Raises SourceError where parts of a recording were skipped, after all else was done."""
    losses = recording.losses
    if losses:
        more = f", and {len(losses) - 1} more" if len(losses) > 1 else ""
        raise SourceError(f"parts of the recording were skipped: {losses[0]}{more}")


def opened(source: str, run: str | None, cameras: tuple[str, ...] = ()) -> "Recording":
    """Opens a recording, and says on stderr which of several runs it is. Raises SourceError."""
    from node.recording.runs import open_recording

    chosen = open_recording(source, run, cameras)
    if chosen is None and not os.path.lexists(expanded(source)):
        raise SourceError(
            f"{redacted(source)}: there is no such file or folder",
            fix=CHECK_NAME,
        )
    if chosen is None:
        raise SourceError(
            f"{redacted(source)} is neither a recording (*.mcap) nor a folder of recordings",
            fix="make one: perception-node record --source SRC --output FOLDER",
        )
    if chosen.note is not None:
        say(chosen.note, err=True)
    return chosen.recording
