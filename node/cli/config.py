"""`perception-node config`: configuration files."""

from collections.abc import Iterator
from pathlib import Path

import click

from node.cli.say import say
from node.config.load import load_config, models_in, problems_in
from node.config.redact import hidden, redacted
from node.errors import ConfigError, ModelError
from node.process.output_files import write_whole


@click.group("config")
def command() -> None:
    """Check a configuration file, or write one.

    Example: perception-node config init robot.toml
    """


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def check(file: Path) -> None:
    """Validate FILE; exit 2 with each problem if it is invalid. Loads no network: what only loading
    shows, and this computer, is for doctor.

    Example: perception-node config check config/default.toml
    """
    problems = [*problems_in(file), *_unknown_models(file)] or _unfit_settings(file)
    for problem in problems[:-1]:
        say(f"error: {file}: {problem}", err=True)
    if problems:
        raise ConfigError(f"{file}: {problems[-1]}")
    from node.perception.model_settings import settings_notes

    config = load_config(file)
    for note in settings_notes(config):
        say(f"note: {file}: {note}", err=True)
    cameras = ", ".join(f"{camera.name} ({redacted(camera.source)})" for camera in config.camera)
    say(
        f"{file} is valid: cameras {cameras}; model {redacted(config.model.name)}; "
        f"publishes on {config.wire.endpoint}"
    )


def _unknown_models(file: Path) -> Iterator[str]:
    from node.perception.models.registry import check_name

    for key, name in models_in(file):
        try:
            check_name(name)
        except ModelError as error:
            yield f"{key}: {hidden(str(error), [name])}"


def _unfit_settings(file: Path) -> list[str]:
    """Returns the settings of a valid file that do not fit its models."""
    from node.perception.model_settings import settings_problems

    config = load_config(file)
    return [hidden(str(error), [config.model.name]) for error in settings_problems(config)]


@command.command("init")
@click.argument(
    "file", type=click.Path(path_type=Path), metavar="[FILE]", default=Path("perception-node.toml")
)
def init(file: Path) -> None:
    """Write a commented file with every key, for the first camera of this computer.

    Example: perception-node config init robot.toml
    """
    from node.diagnostics.config_template import found_camera, template_for

    if file.exists() or file.is_symlink():
        raise ConfigError(f"{file} exists already", fix="name another, or delete it")
    camera = found_camera()
    write_whole(file, template_for(camera).encode())
    source = camera.source if camera else "demo (no camera was found)"
    say(f"{file}: source {source}; start it with: perception-node run --config {file}")
