"""`perception-node label`: pictures, folders and videos, offline."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from node.cli.jsonl import json_lines
from node.cli.options import (
    CONFIG,
    MODEL,
    RUNTIME,
    SETTINGS,
    configured,
    load_perceiver,
    together,
)
from node.errors import SourceError
from node.wire.messages import LabelsMessage, Message, Timing, to_json

if TYPE_CHECKING:
    from node.capture.source import Source
    from node.frame import Frame

log = logging.getLogger(__name__)


@click.command("label")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@together(CONFIG, MODEL, RUNTIME, SETTINGS)
@click.option("--jsonl", metavar="FILE", help="Write one message a line; - is stdout.")
def command(
    paths: tuple[str, ...],
    config_file: Path | None,
    model: str | None,
    runtime: str | None,
    settings: tuple[str, ...],
    jsonl: str | None,
) -> None:
    """Label pictures, folders, globs and videos.

    Prints the best label of each, or with --jsonl whole messages, each with its `file`. What
    cannot be read is reported, left out and counted.

    Example: perception-node label holiday/ --jsonl labels.jsonl
    """
    config = configured(config_file, settings, model=model, runtime=runtime)
    files = [file for path in paths for file in _files(path)]

    from node.wire.compose import Composer
    from node.wire.outgoing import LocalSink

    current = files[0]
    left_out = labelled = 0
    console = Console(stderr=True)
    perceiver = load_perceiver(config.model)
    with json_lines(jsonl) as write, _progress(console) as progress:

        def show(message: Message) -> None:
            assert isinstance(message, LabelsMessage)
            if jsonl is not None:
                write(to_json(message, file=str(current)))
            elif message.best is not None:
                click.echo(
                    f"{current}{_position(message)}: {message.best.name} {message.best.score:.3f}"
                )

        composer = Composer(config.name)
        sink = LocalSink(show)
        task = progress.add_task("", total=len(files))
        for current in files:
            try:
                for frame in _frames(current):
                    seen = perceiver.perceive(frame.image)
                    timing = Timing(
                        frame.capture_ns, 0, seen.preprocess_ns, seen.infer_ns, seen.postprocess_ns
                    )
                    sink.send(
                        composer.looked(
                            frame,
                            dropped=0,
                            timing=timing,
                            model=perceiver.info,
                            labels=seen.labels,
                        )
                    )
                    labelled += 1
                    progress.update(task, description=f"{current.name}, {labelled} labelled")
            except SourceError as error:
                left_out += 1
                log.warning("%s; left out", error)
            progress.advance(task)
    log.info("%d labelled, %d left out because they cannot be read", labelled, left_out)
    if not labelled:
        raise SourceError(f"nothing was labelled: none of {len(files)} files can be read")


def _files(path: str) -> Iterator[Path]:
    """The pictures and videos that a path names. Raises SourceError where there are none."""
    from node.capture.photos import find_photos

    folder = Path(path).expanduser()
    if folder.is_dir():
        found = sorted(entry for entry in folder.rglob("*") if _is_media(entry))
        if not found:
            raise SourceError(f"{folder} holds no pictures and no videos")
        yield from found
    elif (photos := find_photos(path)) is not None:
        yield from photos
    elif folder.exists():
        yield folder
    else:
        raise SourceError(f"{path}: there is no such file or folder")


def _is_media(path: Path) -> bool:
    from node.capture.photos import is_photo
    from node.capture.video import SUFFIXES

    return path.is_file() and (is_photo(path) or path.suffix.lower() in SUFFIXES)


def _frames(file: Path) -> Iterator["Frame"]:
    from node.capture.grabber import number
    from node.capture.open import open_file

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


def _position(message: LabelsMessage) -> str:
    return f" at {message.media_ns / 1e9:.3f} s" if message.media_ns is not None else ""


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
