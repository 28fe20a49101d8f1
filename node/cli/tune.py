"""`perception-node tune`: finds the fastest runtime and precision of a model on this computer."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.cli.media import frames_of, media_of, progress_bar
from node.cli.options import CONFIG, MODEL, SETTINGS, Number, configured, together
from node.errors import SourceError
from perception_client.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.image.frame import Image
    from node.perception.models.model import Model
    from node.perception.runtimes.tuning_result import Measured, TuningResult

log = logging.getLogger(__name__)

MOST_FRAMES = 400
_DEMO_STEP = 6
_TABLE_WIDTH = 120


@click.command("tune")
@together(CONFIG, MODEL, SETTINGS)
@click.option(
    "--frames", "paths", multiple=True, metavar="PATH",
    help="Pictures, folder or video from the robot's cameras; with 50 frames or more int8 is "
    "measured too.",
)  # fmt: skip
@click.option(
    "--floor", type=Number(0, 1), metavar="SHARE",
    help="Minimum share of frames that keep their best label (default 0.99, int8 0.98).",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each row.")
def command(
    config_file: Path | None,
    model: str | None,
    settings: tuple[str, ...],
    paths: tuple[str, ...],
    floor: float | None,
    as_json: bool,
) -> None:
    """Measure this computer's runtimes, precisions and thread counts on real frames, and keep the
    fastest whose labels agree with torch in float32. From then on `runtime = "auto"` uses it.

    With model.threads set, only that thread count is measured. Without --frames it measures on the
    demo pictures, which are too few for int8.

    Example: perception-node tune --frames drive.mp4
    """
    config = configured(config_file, settings, model=model)
    media = media_of(paths) if paths else None
    for error in media.unreadable.values() if media else ():
        log.warning("%s; skipped", error)

    from node.perception.models.registry import load_model
    from node.perception.models.torch_parts import check_torch
    from node.perception.runtimes.tuning_result import keep
    from node.perception.tuning.tune import FLOORS, tune

    floors = FLOORS if floor is None else dict.fromkeys(FLOORS, floor)
    loaded = load_model(config.model.name, config.model.weights)
    loaded.check_network(
        "tune measures engines of networks", "use the model without it; there is nothing to choose"
    )
    if loaded.build is not None:
        check_torch(f"tune: the labels of model {loaded.name!r} are compared with torch's, which")
    with progress_bar(Console(stderr=True)) as progress:
        task = progress.add_task("reading frames", total=None)
        pixels = _pixels(loaded, _images(media.files) if media else _demo_images())
        origin = ", ".join(paths) if paths else "demo"

        def show(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total)

        result = tune(
            loaded, pixels, f"{len(pixels)} frames of {origin}", floors, show, config.model.threads
        )
    _print(result, as_json)
    file = keep(loaded, result)
    winner = result.winner
    if winner is None:
        log.warning("no choice holds the accuracy floor, so auto is unchanged; see %s", file)
    else:
        log.info(
            "auto is now %s %s on %s with %s threads; kept in %s",
            winner.runtime, winner.precision, winner.device, winner.threads or "all", file,
        )  # fmt: skip


def _images(files: list[Path]) -> Iterator["Image"]:
    for file in files:
        try:
            for frame in frames_of(file):
                yield frame.image
        except SourceError as error:
            log.warning("%s; skipped", error)


def _demo_images() -> Iterator["Image"]:
    from node.capture.sources.demo import FPS, PICTURES, SECONDS_A_PICTURE, DemoSource

    source = DemoSource()
    for index in range(round(len(PICTURES) * SECONDS_A_PICTURE * FPS)):
        picture = source.read()
        if index % _DEMO_STEP == 0:
            yield picture.image


def _pixels(model: "Model", images: Iterator["Image"]) -> "list[NDArray[np.uint8]]":
    """The model's input for at most MOST_FRAMES of the images, evenly spread over all of them.

    Each array is what `Preprocessor` returns for one image. Raises SourceError without images.
    """
    from node.perception.preprocess.resize import Preprocessor

    preprocess = Preprocessor(model.preprocess)
    kept: list[NDArray[np.uint8]] = []
    every = 1
    for index, image in enumerate(images):
        if index % every == 0:
            kept.append(preprocess(image).copy())
        if len(kept) > MOST_FRAMES:
            kept, every = kept[::2], 2 * every
    if not kept:
        raise SourceError("tune: none of the frames can be read", fix="name others with --frames")
    return kept


def _print(result: "TuningResult", as_json: bool) -> None:
    winner = result.winner
    if as_json:
        for row in result.measured:
            line = dataclasses.asdict(row) | {"winner": row.choice == winner}
            click.echo(json.dumps(line, default=str))
        return
    table = Table(
        "", "runtime", "precision", "device", "threads", "ms", "10-90 %", "CPU ms", "agreement",
        "score diff.", "", box=None, pad_edge=False,
    )  # fmt: skip
    for row in result.measured:
        table.add_row("*" if row.choice == winner else "", *_cells(row))
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(table)
    caption = f"{result.model} on {result.frames}; ms and CPU ms are of one inference"
    console.print(escape(printable(caption)))


def _cells(row: "Measured") -> tuple[str, ...]:
    choice = row.choice
    precision = choice.precision
    if choice.float_layers:
        precision += f", first {choice.float_layers} float"
    if choice.compiles:
        precision += ", compiled"
    names = (choice.runtime, precision, choice.device, str(choice.threads or "all"))
    if row.median_ms is None:
        return (*names, "", "", "", "", "", escape(printable(f"cannot: {row.refused}")))
    return (
        *names,
        f"{row.median_ms:.2f}",
        f"{row.p10_ms:.2f}-{row.p90_ms:.2f}",
        f"{row.cpu_ms:.2f}",
        "" if row.agreement is None else f"{row.agreement:.1%}",
        f"{row.score_difference:.3f}",
        escape(printable(f"refused: {row.refused}")) if row.refused else "",
    )
