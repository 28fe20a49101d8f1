"""`perception-node export`: writes recordings in the formats of other tools."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from node.cli.jsonl import json_lines
from node.cli.media import share_bar
from node.cli.options import LIMITS, Number, limited, together
from node.cli.recordings import CAMERAS, RUN, check_complete, opened
from node.cli.say import say

if TYPE_CHECKING:
    from node.recording.export.media import Choice
    from node.recording.reader import Recording

_Command = TypeVar("_Command", bound=Callable[..., Any])

SOURCE = click.argument("source", metavar="RECORDING")
TO = click.argument("to", type=click.Path(path_type=Path), metavar="OUTPUT")
LABELS = click.option(
    "--label", "labels", multiple=True, metavar="NAME",
    help="Only frames with this label; may be repeated.",
)  # fmt: skip
SCORE = click.option(
    "--min-score", type=Number(0, 1), default=0.0, metavar="S", help="Lowest score of a label."
)
EVERY = click.option(
    "--every", type=click.IntRange(1), default=1, metavar="N",
    help="Export one of every N matching frames.",
)  # fmt: skip


@click.group("export")
@LIMITS
def command(settings: tuple[str, ...]) -> None:
    """Write a recording as a video, JSON lines, a dataset or a ROS 2 bag.

    RECORDING is an MCAP file or a folder of them, of which the newest run is written.

    Example: perception-node export video drive.mcap drive.mp4
    """
    limited(settings)


@command.command("video")
@together(SOURCE, TO, RUN)
@click.option("--camera", metavar="NAME", help="Camera of the video; default: the first by name.")
def video_command(source: str, to: Path, run: str | None, camera: str | None) -> None:
    """Write a video of one camera with boxes or labels drawn.

    Example: perception-node export video drive.mcap drive.mp4 --camera front
    """
    from node.recording.export.video import write_video

    recording = opened(source, run, () if camera is None else (camera,))
    if len(recording.cameras) > 1:
        first, *others = recording.cameras
        say(
            f"the video is of camera {first!r}; --camera NAME writes another: {', '.join(others)}",
            err=True,
        )
    with share_bar(Console(stderr=True), "video") as progress:
        count = write_video(recording, to, camera, progress)
    _done(recording, f"{to}: {count} frames")


@command.command("jsonl")
@together(SOURCE, RUN)
@click.argument("target", metavar="OUTPUT", default="-")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(["labels", "events", "health", "info"]),
    default=("labels",), show_default=True, help="Kind of messages; may be repeated.",
)  # fmt: skip
def jsonl_command(source: str, target: str, run: str | None, kinds: tuple[str, ...]) -> None:
    """Write the recorded messages, one a line; - is stdout.

    Example: perception-node export jsonl drive.mcap drive.jsonl --kind labels --kind events
    """
    from node.recording.export.media import write_jsonl

    recording = opened(source, run)
    with json_lines(target) as write:
        count = write_jsonl(recording, write, kinds)
    if not count and "labels" in kinds:
        _say_unlabelled(recording)
    _done(recording, f"{target}: {count} messages")


@command.command("coco")
@together(SOURCE, TO, RUN, CAMERAS, LABELS, SCORE, EVERY)
def coco_command(
    source: str,
    to: Path,
    run: str | None,
    cameras: tuple[str, ...],
    labels: tuple[str, ...],
    min_score: float,
    every: int,
) -> None:
    """Write frames and boxes of a detector as a COCO dataset.

    Example: perception-node export coco drive.mcap dataset --label person --min-score 0.6
    """
    from node.recording.export.media import write_coco

    recording = opened(source, run, cameras)
    choice = _choice(recording, labels, min_score, every, "detect")
    with share_bar(Console(stderr=True), "coco") as progress:
        count = write_coco(recording, to, choice, progress)
    _say_if_none(recording, count)
    _done(recording, f"{to}: {count} frames")


@command.command("imagefolder")
@together(SOURCE, TO, RUN, CAMERAS, LABELS, SCORE, EVERY)
def imagefolder_command(
    source: str,
    to: Path,
    run: str | None,
    cameras: tuple[str, ...],
    labels: tuple[str, ...],
    min_score: float,
    every: int,
) -> None:
    """Write frames of a classifier, into one folder for each label.

    Example: perception-node export imagefolder drive.mcap dataset --min-score 0.8 --every 10
    """
    from node.recording.export.media import write_image_folder

    recording = opened(source, run, cameras)
    choice = _choice(recording, labels, min_score, every, "classify")
    with share_bar(Console(stderr=True), "imagefolder") as progress:
        count = write_image_folder(recording, to, choice, progress)
    _say_if_none(recording, count)
    _done(recording, f"{to}: {count} frames")


@command.command("ros2")
@together(SOURCE, TO, RUN, CAMERAS)
def ros2_command(source: str, to: Path, run: str | None, cameras: tuple[str, ...]) -> None:
    """Write a ROS 2 bag with sensor_msgs/CompressedImage and vision_msgs.

    Example: perception-node export ros2 drive.mcap drive_bag
    """
    from node.recording.export.ros2 import write_bag

    recording = opened(source, run, cameras)
    with share_bar(Console(stderr=True), "ros2") as progress:
        count = write_bag(recording, to, progress)
    _done(recording, f"{to}: {count} messages")


def _choice(
    recording: "Recording", labels: tuple[str, ...], min_score: float, every: int, task: str
) -> "Choice":
    """Returns the choice of frames. Raises ConfigError for a label that the recording has not."""
    from node.recording.export.media import Choice, check_labels

    if labels:
        check_labels(recording, labels, task)
    return Choice(frozenset(labels) or None, min_score, every)


def _done(recording: "Recording", summary: str) -> None:
    for problem in recording.problems:
        say(f"warning: {problem}", err=True)
    say(summary, err=True)
    check_complete(recording)


def _say_if_none(recording: "Recording", count: int) -> None:
    if count:
        return
    if next(iter(recording.messages("labels")), None) is None:
        _say_unlabelled(recording)
    else:
        say(
            "warning: no frame matches --label and --min-score; 'perception-node report' shows the "
            "recorded labels", err=True,
        )  # fmt: skip


def _say_unlabelled(recording: "Recording") -> None:
    say(
        f"warning: {recording.paths[0]} contains no labels of a node; 'perception-node replay' "
        "labels its pictures, with --jsonl into a file", err=True,
    )  # fmt: skip
