"""`perception-node run`: labels live."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

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
from node.config.schema import NodeConfig

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver
    from node.pipeline.threads import Outcome

log = logging.getLogger(__name__)

SOURCE = click.option(
    "--source", metavar="SRC",
    help="Camera number, /dev path, URL, gst:PIPELINE, video, folder or glob of pictures, or demo.",
)  # fmt: skip


@click.command("run")
@together(CONFIG, SOURCE, MODEL, RUNTIME, ENDPOINT, SETTINGS)
@click.option("--max-frames", type=click.IntRange(1), metavar="N", help="Stop after N frames.")
def command(
    config_file: Path | None,
    source: str | None,
    model: str | None,
    runtime: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    max_frames: int | None,
) -> None:
    """Label a camera live and publish the labels; the newest frame wins.

    Ctrl-C stops. Without --source and --config it labels the demo pictures.

    Example: perception-node run --source /dev/video0
    """
    config = configured(
        config_file, settings, source=source, model=model, runtime=runtime, endpoint=endpoint
    )
    with stoppable() as stop:
        label_live(config, stop, max_frames=max_frames)


def label_live(
    config: NodeConfig,
    stop: threading.Event,
    *,
    max_frames: int | None = None,
    on_capture: Callable[[], None] = lambda: None,
) -> "Outcome":
    """Labels until `stop` is set, and returns how that ended.

    Args:
        config: the node's configuration.
        stop: ends the run.
        max_frames: ends the run after this many labelled frames; None for no limit.
        on_capture: as for `run_live`.

    Raises PerceptionError as `run_live` does, SettingsError for settings that do not fit the model,
    and SourceError for a source that cannot open, or of which less was read than there is.
    """
    from node.capture.sources.open import check_source

    for camera in config.camera:
        check_source(camera)

    from node.perception.model_settings import check_settings
    from node.pipeline.live import run_live

    check_settings(config)

    def build(config: NodeConfig) -> "Perceiver":
        return load_perceiver(config, cameras=len(config.camera))

    outcome = run_live(config, build, stop, max_frames=max_frames, on_capture=on_capture)
    for summary in outcome.summaries:
        log.info("%s", summary)
    log.info(
        "stopped after %d labelled frames, %d dropped for newer ones",
        outcome.frames,
        outcome.dropped,
    )
    outcome.check()
    return outcome
