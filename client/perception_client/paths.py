"""Paths as people write them."""

import os
from pathlib import Path

from perception_client.errors import ConfigError


def expanded(path: Path | str) -> Path:
    """A path whose `~` or `~user` is that user's home. Raises ConfigError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: no home folder is known for its first part", fix="write the path without ~"
        ) from None


def absolute(path: Path) -> Path:
    """A path from the root. Where the working directory was deleted it stays as it is."""
    try:
        return path if path.is_absolute() else Path(os.getcwd()) / path
    except OSError:
        return path


def home() -> Path:
    """This user's home. Raises ConfigError where none is known."""
    return expanded("~")
