"""Shared by the offline commands: the pictures and videos of a path, and progress bars."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from node.config.redact import redacted
from node.errors import SourceError
from perception_client.paths import expanded

if TYPE_CHECKING:
    from node.capture.sources.base import Source
    from node.image.frame import Frame


def files_of(path: str) -> Iterator[Path]:
    """Yields the pictures and videos of a path. Raises SourceError where it names none."""
    from node.capture.sources.image_files import find_image_files

    folder = expanded(path)
    if folder.is_dir():
        files = sorted(entry for entry in folder.rglob("*") if _is_media(entry))
        if not files:
            raise SourceError(f"{folder} holds no pictures and no videos")
        yield from files
    elif (photos := find_image_files(path)) is not None:
        yield from photos
    elif folder.exists():
        yield folder
    else:
        raise SourceError(f"{redacted(path)}: there is no such file or folder")


def _is_media(path: Path) -> bool:
    from node.capture.sources.image_files import is_image_file
    from node.capture.sources.video_file import SUFFIXES

    return path.is_file() and (is_image_file(path) or path.suffix.lower() in SUFFIXES)


def frames_of(file: Path) -> Iterator["Frame"]:
    """Yields the frames of a picture or a video. Raises SourceError where none can be decoded."""
    from node.capture.grabber import number
    from node.capture.sources.open import open_file

    source: Source = open_file(file)
    try:
        frame_id = 0
        while (picture := source.read()) is not None:
            yield number(picture, "label", frame_id)
            frame_id += 1
        if not frame_id:
            raise SourceError(f"{file}: no frame in it can be decoded")
    finally:
        source.close()


@contextlib.contextmanager
def share_bar(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar for one long operation; yields a function that sets the share done, 0 to 1."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda done: progress.update(task, completed=done)


def progress_bar(console: Console) -> Progress:
    """A progress bar with a count; invisible where `console` is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
