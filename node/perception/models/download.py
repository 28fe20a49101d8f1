"""Downloads of model files, kept in torch hub's checkpoint directory, so that files downloaded by
torchvision are reused."""

import hashlib
import http.client
import os
import re
import secrets
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO
from urllib.parse import urlsplit

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from node.errors import ModelError

OFFLINE_MODELS = ("efficientnet_lite0",)
"""Models whose weights are part of the installation."""
MOST_BYTES = 4 << 30
"""Largest download; torchvision's largest file has 2.5 GB."""
_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 18
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")
"""torch hub's file names end in the first digits of the file's sha256."""


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirects from https only to https: over http an attacker could replace the file."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise OSError("the server sends on from https to an address that is not")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_StaysEncrypted)


def sha256_of(file: Path) -> str:
    """Returns the sha256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_file(url: str) -> Path:
    """Returns the path at which the file of an address is kept: torch hub's checkpoint
    directory."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


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
    try:
        _download(url, file, expected_sha256)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"model {model_name!r}: its file {file.name} could not be downloaded from {url} "
            f"({reason_of(error)})",
            fix=f"put that file at {file}, or name a copy with "
            f'model.weights = "PATH"; works without a network: {", ".join(OFFLINE_MODELS)}',
        ) from error
    return file


def reason_of(error: Exception) -> str:
    """Returns the reason of an error in one line."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _hash_in(name: str) -> str:
    digits = _HASH_IN_NAME.search(name)
    return digits[1] if digits else ""


def _matches(file: Path, expected_sha256: str) -> bool:
    return not expected_sha256 or sha256_of(file).startswith(expected_sha256)


def _download(url: str, target: Path, expected_sha256: str) -> None:
    """Downloads to a temporary name and then renames, so that no other process sees a partial file.
    Raises OSError or HTTPException."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with (
            _OPENER.open(url, timeout=_TIMEOUT_S) as response,
            part.open("wb") as stream,
            _progress() as progress,
        ):
            size = response.headers.get("Content-Length")
            total = int(size) if size and size.isdigit() else None
            if total is not None and total > MOST_BYTES:
                raise OSError(f"the server claims {total} bytes; at most {MOST_BYTES} are taken")
            task = progress.add_task(target.name, total=total)
            received = _copy(response, stream, lambda n: progress.advance(task, n))
        if total is not None and received != total:
            raise OSError(f"the connection ended after {received} of {total} bytes")
        if not _matches(part, expected_sha256):
            raise OSError(f"what came is damaged: its sha256 does not begin with {expected_sha256}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _copy(source: BinaryIO, target: BinaryIO, advance: Callable[[int], None]) -> int:
    received = 0
    while chunk := source.read(_CHUNK_BYTES):
        target.write(chunk)
        advance(len(chunk))
        received += len(chunk)
        if received > MOST_BYTES:
            raise OSError(f"more than {MOST_BYTES} bytes came")
    return received


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        "downloading {task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
