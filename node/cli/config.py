"""`perception-node config`: configuration files."""

from pathlib import Path

import click

from node.cli.say import say
from node.config.load import load_config
from node.config.redact import redacted
from node.errors import ConfigError
from node.process.output_files import write_whole


@click.group("config")
def command() -> None:
    """Check a configuration file, or write one.

    Example: perception-node config init robot.toml
    """


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def check(file: Path) -> None:
    """Validate FILE; exit 2 with the first problem if it is invalid.

    Example: perception-node config check config/default.toml
    """
    config = load_config(file)
    cameras = ", ".join(f"{camera.name} ({redacted(camera.source)})" for camera in config.camera)
    say(
        f"{file} is valid: cameras {cameras}; model {redacted(config.model.name)}; "
        f"publishes on {config.wire.endpoint}"
    )


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
