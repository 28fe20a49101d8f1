"""Downloads of model files, kept in torch hub's checkpoint directory, so that files downloaded by
torchvision are reused."""

import hashlib
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from node.errors import ModelError
from perception_client.paths import home

OFFLINE_MODELS = ("efficientnet_lite0",)
"""Models whose weights are part of the installation."""
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
"""torch hub's file names end in the first digits of the file's sha256."""


def sha256_of(file: Path) -> str:
    """Returns the sha256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_file(url: str) -> Path:
    """Returns the path at which the file of an address is kept: torch hub's checkpoint directory,
    by the same variables (torch/hub.py, _get_torch_home)."""
    base = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    torch_home = Path(os.environ.get("TORCH_HOME") or Path(base) / "torch").expanduser()
    return torch_home / "hub" / "checkpoints" / Path(urlsplit(url).path).name


def is_here(url: str) -> bool:
    """Whether the file of an address is kept and not empty."""
    file = cached_file(url)
    return file.is_file() and file.stat().st_size > 0


def fetched(url: str, model_name: str, sha256: str | None = None) -> Path:
    """Returns the file of a model; downloads it if it is missing or its hash is wrong.

    Args:
        url: address of the file.
        model_name: for errors.
        sha256: of the file, or its first digits, hexadecimal; None: the digits in the file's name,
            as in `resnet18-f37072fd.pth`.

    Raises:
        ModelError: the download failed.
    """
    file = cached_file(url)
    expected_sha256 = sha256 or _hash_in(file.name)
    if is_here(url) and _matches(file, expected_sha256):
        return file
    # Deferred: most starts download nothing.
    from node.perception.models.http_download import DOWNLOAD_ERRORS, download

    try:
        download(url, file, lambda part: _check(part, expected_sha256))
    except DOWNLOAD_ERRORS as error:
        raise ModelError(
            f"model {model_name!r}: its file {file.name} could not be downloaded from {url} "
            f"({reason_of(error)})",
            fix=f"put that file at {file}, or name a copy with "
            f'model.weights = "PATH"; works without a network: {", ".join(OFFLINE_MODELS)}',
        ) from error
    return file


def _check(file: Path, expected_sha256: str) -> None:
    """Raises OSError for a file with another sha256."""
    if not _matches(file, expected_sha256):
        raise OSError(f"what came is damaged: its sha256 does not begin with {expected_sha256}")


def reason_of(error: Exception) -> str:
    """Returns the reason of an error in one line."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _hash_in(name: str) -> str:
    digits = _HASH_IN_NAME.search(name)
    return digits[1] if digits else ""


def _matches(file: Path, expected_sha256: str) -> bool:
    return not expected_sha256 or sha256_of(file).startswith(expected_sha256)
