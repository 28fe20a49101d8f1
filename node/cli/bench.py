"""`perception-node bench`: measures a configuration on this computer."""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from node.cli.options import (
    CONFIG,
    MODEL,
    RUNTIME,
    SETTINGS,
    Number,
    configured,
    load_perceiver,
    together,
)
from node.cli.run import SOURCE
from node.config.redact import redacted
from node.diagnostics.latency_profile import Profile, Profiler, Spread
from node.errors import PerceptionError, SourceError
from perception_client.subscriber import NoMessageError, Subscriber
from perception_client.text import printable

if TYPE_CHECKING:
    from node.config.schema import NodeConfig
    from node.diagnostics.benchmark import Row
    from node.image.frame import Image

_FRAMES = 30
_TABLE_WIDTH = 150
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_POLL_S = 0.2


@click.command("bench")
@together(CONFIG, SOURCE, MODEL, RUNTIME, SETTINGS)
@click.option("--profile", is_flag=True, help="Run the node, and measure each stage of a frame.")
@click.option(
    "--seconds", type=Number(1, 86_400), default=10.0, show_default=True, metavar="S",
    help="How long to profile.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(5), default=60, show_default=True, metavar="N",
    help="Frames of each comparison.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    config_file: Path | None,
    source: str | None,
    model: str | None,
    runtime: str | None,
    settings: tuple[str, ...],
    profile: bool,
    seconds: float,
    rounds: int,
    as_json: bool,
) -> None:
    """Compare the node, on frames of its first camera, with the plain torchvision loop, with the
    bare runtime and with the reference preprocessing, alternately.

    With --profile it runs the node instead, receives its labels in this process, and prints p50,
    p95, p99 and maximum of their age and of each stage.

    Example: perception-node bench --profile --source drive.mp4
    """
    config = configured(config_file, settings, source=source, model=model, runtime=runtime)
    if profile:
        arguments = _run_arguments(config_file, source, model, runtime, settings)
        _print_profile(_profiled(arguments, config.camera[0].name, seconds), as_json)
    else:
        _print_rows(_compared(config, rounds), as_json)


def _compared(config: "NodeConfig", rounds: int) -> list["Row"]:
    frames = _frames(config)

    from node.perception.models.registry import load_model
    from node.perception.models.torch_parts import check_torch

    loaded = load_model(config.model.name, config.model.weights)
    loaded.check_network("bench compares with the plain loop of a network", "write --profile")
    check_torch(
        "bench: the plain loop that the node is compared with", or_else=", or write --profile"
    )

    from node.diagnostics.benchmark import preprocessing, rows
    from node.perception.runtimes.select import build_runtime

    perceiver = load_perceiver(config)
    info = perceiver.info
    height, width = frames[0].shape[:2]
    return [
        *rows(
            f"{info.name} {info.runtime} {info.precision}", loaded, perceiver,
            build_runtime(loaded, config.model), frames, rounds,
        ),
        preprocessing(f"{width}x{height}", loaded, frames, rounds),
    ]  # fmt: skip


def _frames(config: "NodeConfig") -> list["Image"]:
    """The first `_FRAMES` frames of the first camera. Raises SourceError where none decodes."""
    from node.capture.sources.open import open_source

    source = open_source(config.camera[0])
    frames: list[Image] = []
    try:
        while len(frames) < _FRAMES and (picture := source.read()) is not None:
            frames.append(picture.image)
    finally:
        source.close()
    if not frames:
        raise SourceError(f"{redacted(config.camera[0].source)}: no frame in it can be decoded")
    return frames


def _run_arguments(
    config_file: Path | None,
    source: str | None,
    model: str | None,
    runtime: str | None,
    settings: tuple[str, ...],
) -> list[str]:
    options = {"--config": config_file, "--source": source, "--model": model, "--runtime": runtime}
    arguments = [f"{name}={value}" for name, value in options.items() if value is not None]
    return arguments + [f"--set={setting}" for setting in settings]


def _profiled(arguments: list[str], camera: str, seconds: float) -> Profile:
    """Runs the node in its own process, as on the robot, and receives its labels in this one.

    Raises PerceptionError with the node's exit code where no labels arrive.
    """
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/labels.ipc"
        with (Path(folder) / "log").open("w+") as log_file:
            node = subprocess.Popen(
                [sys.executable, "-m", "node", "run", *arguments, "--endpoint", endpoint],
                stdout=subprocess.DEVNULL, stderr=log_file,
            )  # fmt: skip
            try:
                result = _received(node, endpoint, camera, seconds)
            finally:
                node.terminate()
                try:
                    node.wait(_STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    node.kill()
            log_file.seek(0)
            last_line = (log_file.read().strip().splitlines() or ["its log is empty"])[-1]
    if result is None:
        error = PerceptionError(f"bench: no labels arrived; {last_line.removeprefix('error: ')}")
        error.exit_code = node.returncode if node.returncode in (2, 3) else 1
        raise error
    return result


def _received(
    node: "subprocess.Popen[bytes]", endpoint: str, camera: str, seconds: float
) -> Profile | None:
    profiler = Profiler()
    deadline = time.monotonic() + _START_TIMEOUT_S
    first = True
    with Subscriber(endpoint, camera) as subscriber:
        while time.monotonic() < deadline:
            try:
                message, _ = subscriber.receive(_POLL_S)
            except NoMessageError:
                if node.poll() is not None:
                    break
                continue
            profiler.add(message, time.monotonic_ns())
            if first and message.timing_ns is not None:
                first, deadline = False, time.monotonic() + seconds
    return profiler.result()


def _print_profile(profile: Profile, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(profile.as_json()))
        return
    table = Table("ms", "p50", "p95", "p99", "max", box=None, pad_edge=False)
    for name, spread in profile.stages.items():
        table.add_row(name, *_cells(spread))
    table.add_row("capture to subscriber", *_cells(profile.total))
    table.add_row("between two messages", *_cells(profile.interval))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{profile.messages} messages, {profile.fps:.1f} a second, jitter {profile.jitter_ms:.2f} "
        f"ms; {profile.lost} lost, {profile.dropped} frames dropped for newer ones"
    )


def _cells(spread: Spread) -> tuple[str, ...]:
    return tuple(f"{value:.2f}" for value in (spread.p50, spread.p95, spread.p99, spread.max))


def _print_rows(rows: list["Row"], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"rows": [dataclasses.asdict(row) for row in rows]}))
        return
    console = Console(highlight=False)
    console.width = max(console.width, _TABLE_WIDTH)
    console.print(rows_table(rows))


def rows_table(rows: list["Row"]) -> Table:
    """The comparisons as a table."""
    table = Table(
        "comparison", "theirs ms", "ours ms", "times", "beyond", "CPU ms", "",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows:
        theirs, ours = row.theirs, row.ours
        table.add_row(
            escape(printable(row.name)),
            f"{theirs.ms:.2f} ({theirs.p10_ms:.2f}-{theirs.p90_ms:.2f})",
            f"{ours.ms:.2f} ({ours.p10_ms:.2f}-{ours.p90_ms:.2f})",
            f"{row.ratio:.2f}",
            f"{row.beyond:+.1%}",
            f"{theirs.cpu_ms:.1f} / {ours.cpu_ms:.1f}",
            escape(printable(row.note)),
        )
    return table
