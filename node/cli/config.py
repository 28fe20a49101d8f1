"""`perception-node config`: configuration files."""

from pathlib import Path

import click

from node.config import load_config, redacted


@click.group("config")
def command() -> None:
    """Work with configuration files."""


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
def check(file: Path) -> None:
    """Say whether FILE is valid, and what is wrong if not (exit 2).

    Example: perception-node config check config/default.toml
    """
    config = load_config(file)
    cameras = ", ".join(f"{camera.name} ({redacted(camera.source)})" for camera in config.camera)
    click.echo(
        f"{file} is valid: cameras {cameras}; model {config.model.name}; "
        f"publishes on {config.wire.endpoint}"
    )
