"""`perception-node label`: labels pictures, folders and videos offline."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from node.capture.sources.skipped import Skipped
from node.cli.jsonl import Write, json_lines
from node.cli.media import frames_of, media_of, progress_bar
from node.cli.options import (
    CONFIG,
    MODEL,
    RUNTIME,
    SETTINGS,
    configured,
    load_perceiver,
    together,
)
from node.cli.say import say
from node.cli.seen import figure, named, things_in
from node.config.schema import NodeConfig
from node.errors import FrameError, SourceError
from perception_client.messages.codec import to_json
from perception_client.messages.kinds import LabelsMessage, Message, Timing
from perception_client.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from node.image.frame import Frame
    from node.perception.classical.tag_pose import TagPoses
    from node.perception.perceiver import Perceiver
    from node.pipeline.message_builder import MessageBuilder
    from node.transport.sequencing import Outgoing

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

    Prints the best label of each, or with --jsonl complete messages, each with its `file`.
    Unreadable files are reported, skipped and counted; the exit code is then 3.

    Example: perception-node label holiday/ --jsonl labels.jsonl
    """
    config = configured(config_file, settings, model=model, runtime=runtime)
    media = media_of(paths)
    skipped = Skipped()
    for path, error in media.unreadable.items():
        log.warning("%s; skipped", error)
        skipped.add(path, error)
    with json_lines(jsonl) as write, progress_bar(Console(stderr=True)) as progress:
        show = write if jsonl is not None else None
        labelled = _label(media.files, config, show, skipped, progress)
    if media.others is not None:
        log.info("%s", media.others)
    files = len(media.files) + len(media.unreadable)
    if not labelled:
        raise SourceError(f"nothing was labelled: none of {files} files can be read: {skipped.why}")
    if skipped.count:
        raise SourceError(
            f"{labelled} labelled, {skipped.count} of {files} files skipped: {skipped.why}"
        )
    log.info("%d labelled, 0 skipped", labelled)


def _label(
    files: list[Path],
    config: NodeConfig,
    write: Write | None,
    skipped: Skipped,
    progress: "Progress",
) -> int:
    """Labels each file; one that fails costs only itself. Returns the number of labelled frames."""
    from node.perception.classical.tag_pose import tag_poses
    from node.pipeline.message_builder import MessageBuilder
    from node.transport.sequencing import LocalSink

    current = files[0]
    labelled = 0
    perceiver = load_perceiver(config)
    poses = tag_poses(config.camera[0], config.detect)

    def show(message: Message) -> None:
        assert isinstance(message, LabelsMessage)
        if write is not None:
            write(to_json(message, file=str(current)))
        else:
            say(f"{current}{_position(message)}: {_seen(message)}")

    message_builder = MessageBuilder(config.name)
    sink = LocalSink(show)
    task = progress.add_task("", total=len(files))
    for current in files:
        before = labelled
        try:
            for frame in frames_of(current):
                sink.send(_labels(message_builder, perceiver, poses, frame))
                labelled += 1
                progress.update(
                    task, description=f"{escape(printable(current.name))}, {labelled} labelled"
                )
        except (SourceError, FrameError) as error:
            log.warning("%s; skipped%s", error, " from there" if labelled > before else "")
            skipped.add(current, error)
        progress.advance(task)
    return labelled


def _labels(
    message_builder: "MessageBuilder",
    perceiver: "Perceiver",
    poses: "TagPoses | None",
    frame: "Frame",
) -> "Outgoing":
    """poses: of the tags, by the calibration of the first camera."""
    result = perceiver.perceive(frame.image)
    detections = result.detections
    if poses is not None:
        detections = poses.added(detections, *frame.image.shape[:2])
    return message_builder.labels(
        frame,
        dropped=0,
        timing=Timing(
            frame.capture_ns, 0, result.preprocess_ns, result.infer_ns, result.postprocess_ns
        ),
        model=perceiver.info,
        labels=result.labels,
        detections=detections,
        areas=result.seen.areas,
        masks=result.seen.masks,
    )


def _seen(message: LabelsMessage) -> str:
    seen = [f"{named(thing)} {figure(thing, 3)}" for thing in things_in(message, labels=1)]
    return ", ".join(seen) or "nothing seen"


def _position(message: LabelsMessage) -> str:
    """Where in its file the picture is: a time, or the page from the second on."""
    if message.media_ns is not None:
        return f" at {message.media_ns / 1e9:.3f} s"
    return f" page {message.frame_id + 1}" if message.frame_id else ""
