"""What several commands share: options, the configuration they make, logging."""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.config import NodeConfig
from node.config_file import load_config
from node.limits import set_limits

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML configuration; config/default.toml explains every key.",
)  # fmt: skip
MODEL = click.option(
    "--model",
    metavar="NAME",
    help="A name that `perception-node models` lists, or a model file.",
)
RUNTIME = click.option("--runtime", metavar="NAME", help="auto, torch, onnxruntime or openvino.")
ENDPOINT = click.option("--endpoint", metavar="EP", help="tcp://127.0.0.1:PORT or ipc://PATH.")
SETTINGS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Change one key of the configuration: --set model.top_k=3, --set camera.front.fps=15.",
)  # fmt: skip


LIMITS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Change a limit: --set limits.max_chunk_mb=256.",
)  # fmt: skip


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def configured(
    config_file: Path | None,
    settings: tuple[str, ...],
    *,
    source: str | None = None,
    model: str | None = None,
    runtime: str | None = None,
    endpoint: str | None = None,
) -> NodeConfig:
    """The configuration of a command, and logging set up after it. Raises ConfigError.

    The command's own options win over `--set`, which wins over the file. A source replaces the
    cameras of the file by its first one with that source.
    """
    options: Mapping[str, str | None] = {
        "camera.0.source": source,
        "model.name": model,
        "model.runtime": runtime,
        "wire.endpoint": endpoint,
    }
    config = load_config(
        config_file, settings, {key: value for key, value in options.items() if value is not None}
    )
    if source is not None:
        config = config.model_copy(update={"camera": config.camera[:1]})
    set_up_logging(config.log.level)
    set_limits(config.limits.limits)
    return config


def limited(settings: tuple[str, ...]) -> None:
    """Puts the limits of `--set` in force, for a command that has no other configuration. Raises
    ConfigError."""
    set_limits(load_config(settings=settings).limits.limits)


def load_perceiver(config: NodeConfig, cameras: int = 1) -> "Perceiver":
    """Imports torch, which takes seconds, and loads the model for so many cameras. All thread
    counts are set here, from one key. Raises ModelError."""
    from node.opencv import cv2
    from node.perception.perceiver import build_perceiver

    # OpenCV only decodes and converts here; more threads would fight the model's for the cores.
    cv2.setNumThreads(config.model.threads or 1)
    return build_perceiver(
        config.model,
        cameras,
        detect=config.detect,
        crops=config.crops,
        segment=config.segment,
    )


def set_up_logging(level: str = "info") -> None:
    """One line a record on stderr."""
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)-7s %(message)s",
        force=True,
    )
    logging.getLogger("PIL").setLevel(logging.WARNING)
