"""Downloads: the files that models are made from, fetched once and kept.

They are kept where torch hub keeps them, so a machine that has used torchvision has them.
"""

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
"""Models whose weights come with the installation."""
MOST_BYTES = 4 << 30
"""Of one file; the largest of torchvision's have 2.5 GB."""
_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 18
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows a redirection from https to https only: on the way of another one, anybody could put
    a file of theirs."""

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
    """sha256 of a file's bytes, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cached_file(url: str) -> Path:
    """Where the file of this address lies once downloaded: torch hub's checkpoint directory."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def is_here(url: str) -> bool:
    """Whether something lies where the file of this address is kept."""
    file = cached_file(url)
    return file.is_file() and file.stat().st_size > 0


def fetched(url: str, model_name: str, sha256: str | None = None) -> Path:
    """The file of a model, downloaded first where it is not there; one that is not what it should
    be is downloaded again.

    sha256: of the file or its beginning, hexadecimal; None for the one in the file's own name, as
    in `resnet18-f37072fd.pth`. Raises ModelError where that fails.
    """
    file = cached_file(url)
    wanted = sha256 or _hash_in(file.name)
    if is_here(url) and _matches(file, wanted):
        return file
    try:
        _download(url, file, wanted)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"model {model_name!r}: its file {file.name} could not be downloaded from {url} "
            f"({reason_of(error)}); put that file at {file}, or name a copy with "
            f'model.weights = "PATH"; works without a network: {", ".join(OFFLINE_MODELS)}'
        ) from error
    return file


def reason_of(error: Exception) -> str:
    """What an error says, in one line."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()) or type(error).__name__


def _hash_in(name: str) -> str:
    found = _HASH_IN_NAME.search(name)
    return found[1] if found else ""


def _matches(file: Path, wanted: str) -> bool:
    return not wanted or sha256_of(file).startswith(wanted)


def _download(url: str, target: Path, wanted: str) -> None:
    """Downloads to a name of its own first, so that no reader and no second process ever sees a
    part of the file. Raises OSError or HTTPException."""
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
        if not _matches(part, wanted):
            raise OSError(f"what came is damaged: its sha256 does not begin with {wanted}")
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
