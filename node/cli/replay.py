"""`perception-node replay`: lossless labelling of a recording."""

import logging
from pathlib import Path

import click

from node.cli.jsonl import json_lines
from node.cli.options import (
    CONFIG,
    ENDPOINT,
    MODEL,
    RUNTIME,
    SETTINGS,
    configured,
    load_perceiver,
    together,
)
from node.cli.stopping import stoppable
from node.errors import ConfigError
from node.golden import Comparison, read_golden
from node.wire.messages import LabelsMessage, Message, to_json, to_map

log = logging.getLogger(__name__)


class _Speed(click.ParamType[float | None]):
    name = "speed"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value == "max":
            return None
        try:
            speed = float(str(value))
        except ValueError:
            speed = 0.0
        if not 0 < speed <= 1000:
            self.fail(f"{value!r} is neither 'max' nor a number above 0 and up to 1000", param, ctx)
        return speed


@click.command("replay")
@click.argument("source", metavar="SRC")
@together(CONFIG, MODEL, RUNTIME, ENDPOINT, SETTINGS)
@click.option(
    "--speed", type=_Speed(), default="1.0", show_default=True, metavar="X",
    help="A multiple of the recording's own rate, or max.",
)  # fmt: skip
@click.option("--jsonl", metavar="FILE", help="Write one message a line; - is stdout.")
@click.option(
    "--expect", type=click.Path(path_type=Path), metavar="FILE",
    help="Compare with an earlier --jsonl file; exit 1 on a difference.",
)  # fmt: skip
@click.option(
    "--wait-for-subscriber", is_flag=True, help="Start when a subscriber has joined the endpoint."
)
def command(
    source: str,
    config_file: Path | None,
    model: str | None,
    runtime: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    speed: float | None,
    jsonl: str | None,
    expect: Path | None,
    wait_for_subscriber: bool,
) -> None:
    """Label every frame of a video or folder of pictures once, in order.

    Publishes as `run` does; with --jsonl or --expect only where --endpoint asks for it.

    Example: perception-node replay drive.mp4 --speed max --jsonl labels.jsonl
    """
    config = configured(
        config_file, settings, source=source, model=model, runtime=runtime, endpoint=endpoint
    )
    golden = read_golden(expect) if expect else None
    camera = config.camera[0]

    from node.capture.open import check_source, is_live

    if is_live(source) or source == "demo":
        raise ConfigError(
            f"replay reads recordings, which have an end; label {source} with "
            f"'perception-node run --source {source}'"
        )
    if camera.loop:
        raise ConfigError(f"camera.{camera.name}.loop = true: a replay has to end; leave it out")
    publishes = endpoint is not None or (jsonl is None and expect is None)
    if wait_for_subscriber and not publishes:
        raise ConfigError("--wait-for-subscriber needs --endpoint: nothing is published here")
    check_source(camera)

    from node.pipeline import run_replay
    from node.wire.compose import Composer
    from node.wire.outgoing import LocalSink
    from node.wire.publisher import Publisher

    comparison = Comparison(golden) if golden is not None else None

    with json_lines(jsonl) as write, stoppable() as stop:

        def observe(message: Message) -> None:
            if isinstance(message, LabelsMessage):
                write(to_json(message))
                if comparison is not None:
                    comparison.add(to_map(message))

        sink: Publisher | LocalSink = LocalSink(observe)
        if publishes:
            sink = Publisher(
                config.wire.endpoint, lossless=True, observer=observe, keys=config.wire.keys
            )
            log.info("publishing on %s", config.wire.endpoint)
        try:
            if isinstance(sink, Publisher) and wait_for_subscriber:
                sink.wait_for_subscriber(stop)
            outcome = run_replay(
                config,
                load_perceiver,
                Composer(config.name),
                sink,
                stop,
                speed=speed,
            )
        finally:
            sink.close()
    for summary in outcome.summaries:
        log.info("%s", summary)
    if comparison is not None and not outcome.stopped:
        raise SystemExit(comparison.report())
