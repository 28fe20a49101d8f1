"""Weights files: what can be known of one before torch reads it."""

import os
import zipfile
from pathlib import Path

from node.errors import ModelError


class WeightsError(ModelError):
    """A weights file that is none, or is of another network: no runtime can use it."""


def check_weights_file(file: Path) -> None:
    """Raises WeightsError for a file that cannot be a weights file."""
    problem = _problem_with(file)
    if problem:
        raise WeightsError(f"weights {file}: {problem}")


def members(file: Path) -> list[zipfile.ZipInfo]:
    """The members of an archive; none where it cannot be read, and torch reports what it is."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except Exception:  # of a damaged archive zipfile raises what it comes across
        return []


def _problem_with(file: Path) -> str | None:
    """Returns what makes a file invalid without reading it; None for a plausible file."""
    if file.is_dir():
        return "is a directory; name the weights file in it"
    if not file.exists():
        return "does not exist; correct model.weights, or leave it out for the model's own weights"
    if not file.is_file():
        return "is not a regular file; name a weights file that torch.save wrote"
    if file.stat().st_size == 0:
        return "is empty (0 bytes); copy or download it again"
    if not os.access(file, os.R_OK):
        return "may not be read by this user; change its permissions"
    if _is_packed(file):
        return (
            "is packed (a few bytes could fill the memory), as torch.save never does; save it again"
        )
    return None


def _is_packed(file: Path) -> bool:
    """Whether the archive has compressed members, which may expand far beyond its size."""
    return any(member.compress_type != zipfile.ZIP_STORED for member in members(file))
