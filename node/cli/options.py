"""Shared by several commands: options, the configuration built from them, logging."""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.config.load import load_config
from node.config.redact import hidden
from node.config.schema import NodeConfig
from node.image.limits import set_limits
from perception_client.text import printable, printable_lines

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver


class Number(click.FloatRange):
    """A number within a range. Unlike `click.FloatRange` it rejects nan, which compares as within
    any range, and infinity, unless `for_ever` allows an endless wait."""

    name = "number"

    def __init__(
        self,
        min: float | None = None,
        max: float | None = None,
        *,
        min_open: bool = False,
        for_ever: bool = False,
    ) -> None:
        super().__init__(min, max, min_open=min_open)
        self._for_ever = for_ever

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or a usage error."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number) or (math.isinf(number) and not self._for_ever):
            self.fail(f"{value!r} is not a number that can be used here", param, ctx)
        return number


MOST_S = 1e8
"""Largest number of seconds in an option: three years, which all clocks and timers can hold."""
SECONDS = Number(0, MOST_S, min_open=True)

Command = TypeVar("Command", bound=Callable[..., Any])


CONFIG = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE",
    help="TOML configuration file; config/default.toml explains every key.",
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
    help="Change one key of the configuration: --set model.top_k=3, --set camera.front.fps=15; "
    "KEY=null unsets a key whose default is none.",
)  # fmt: skip


LIMITS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Change a limit: --set limits.max_chunk_mb=256.",
)  # fmt: skip


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Combines several options into one decorator; `--help` shows them in this order."""

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
    base: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """Builds the configuration of a command, and sets up logging and picture limits from it.

    A command's own options override `--set`, and `--set` overrides the file. A source replaces the
    file's cameras with the first of them, reading from that source. base: content in place of
    a file.

    Raises ConfigError.
    """
    options: Mapping[str, str | None] = {
        "camera.0.source": source,
        "model.name": model,
        "model.runtime": runtime,
        "wire.endpoint": endpoint,
    }
    config = load_config(
        config_file,
        settings,
        {key: value for key, value in options.items() if value is not None},
        base,
    )
    if source is not None:
        config = config.model_copy(update={"camera": config.camera[:1]})
    set_up_logging(config.log.level, [camera.source for camera in config.camera])
    set_limits(config.limits.limits)
    return config


def limited(settings: tuple[str, ...]) -> None:
    """Applies the limits of `--set`, for a command without a configuration. Raises ConfigError."""
    set_limits(load_config(settings=settings).limits.limits)


class _Formatter(logging.Formatter):
    """The last step before a record is written. Whatever a library or a server put into it, the
    result is one line without control characters and without a source's password."""

    def __init__(self, sources: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._sources = tuple(sources)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(hidden(super().formatMessage(record), self._sources))

    def formatException(self, ei: Any) -> str:
        return printable_lines(hidden(super().formatException(ei), self._sources))


def load_perceiver(config: NodeConfig, cameras: int = 1) -> "Perceiver":
    """Imports torch, which takes seconds, and loads the model for `cameras` cameras. Sets all
    thread counts from `model.threads`. Raises ModelError, before that SettingsError for settings
    that do not fit the model."""
    from node.image.opencv import cv2
    from node.perception.model_settings import check_model
    from node.perception.perceiver import build_perceiver

    check_model(config)

    # OpenCV only decodes and converts here; more threads would fight the model's for the cores.
    cv2.setNumThreads(config.model.threads or 1)
    return build_perceiver(
        config.model,
        cameras,
        detect=config.detect,
        crops=config.crops,
        segment=config.segment,
    )


def set_up_logging(level: str = "info", sources: Sequence[str] = ()) -> None:
    """Logs one line a record to stderr. sources: addresses to redact, see `node.config.redact`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(sources))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in ("PIL", "urllib3"):
        # Their errors are raised as well, and urllib3's lines hold the query of an address.
        logging.getLogger(library).setLevel(logging.CRITICAL)
